//! Measurements on held-out images: `evaluation.json` of a run folder, which has everything that a report needs
//! besides the run itself.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vitrim_measure::evaluate::Evaluation;
use vitrim_measure::front::Front;
use vitrim_measure::seen::Overlap;

pub use vitrim_measure::examples::Group;
pub use vitrim_measure::fronts::MethodFront;

use crate::error::{ReportError, Result};

/// File name in a run folder.
pub const FILE: &str = "evaluation.json";

/// Figures of one evaluation, all on the same images or on the first of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Findings {
    /// The report's title.
    pub title: String,
    /// The command that prints these figures.
    pub command: String,
    /// Whether that command also trained and calibrated the policy.
    pub command_trains: bool,
    /// The backbone's checkpoint folder.
    pub model: String,
    /// Data type of the backbone's arithmetic, dense and pruned; null in runs from before it was recorded.
    #[serde(default)]
    pub dtype: Option<String>,
    /// The data set.
    pub data: String,
    /// The part of the data set that was evaluated.
    pub split: String,
    /// How many of these images the policy had seen before; null if it has no record.
    #[serde(default)]
    pub seen: Option<Overlap>,
    /// The policy's read-out.
    pub read_out: String,
    /// The machine: processor and threads.
    pub machine: String,
    /// Seconds of each step, in order.
    pub seconds: Vec<(String, f64)>,
    /// The methods compared at the policy's cost.
    pub evaluation: Evaluation,
    /// The front of each method.
    pub fronts: Vec<MethodFront>,
    /// Rows and columns of the patch grid.
    pub grid: [usize; 2],
    /// 0-based blocks of the stages, `[K]`.
    pub stages: Vec<usize>,
    /// Share of images whose patch survives stage k, `[K][rows * columns]`, row-major.
    pub keep_maps: Vec<Vec<f32>>,
    /// The policy's cost of each image as a share of the dense model's MACs, `[images]`.
    pub costs: Vec<f32>,
    /// Size of the object in each image in pixels, `[images]`, if the data set has it.
    pub object_sizes: Option<Vec<f32>>,
    /// Some images and the patches that the policy keeps.
    pub gallery: Vec<Pictured>,
}

/// A picture of the patches that are kept of an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pictured {
    /// The group for which the image was chosen.
    pub group: Group,
    /// A PNG that [`crate::picture::kept_tokens`] drew, relative to the run folder.
    pub picture: PathBuf,
    /// The caption.
    pub caption: String,
    /// MACs of the image as a share of the dense model's.
    pub cost: f32,
}

impl Findings {
    /// Writes the findings to the run folder.
    ///
    /// # Errors
    /// If they contradict themselves (so that no report could show them), or cannot be written.
    pub fn write(&self, run: &Path) -> Result<()> {
        let path = run.join(FILE);
        self.check().map_err(|reason| ReportError::Run { path: path.clone(), reason })?;
        let json = serde_json::to_vec(self)
            .map_err(|error| ReportError::Run { path: path.clone(), reason: error.to_string() })?;
        Ok(vitrim_durable::replace(&path, &json)?)
    }

    /// Reads the findings from the run folder; None if it was not evaluated yet.
    ///
    /// # Errors
    /// If the file is damaged or contradicts itself.
    pub fn read(run: &Path) -> Result<Option<Findings>> {
        let path = run.join(FILE);
        let bad = |reason: String| {
            let reason = format!("{reason}; evaluate the run again");
            ReportError::Run { path: path.clone(), reason }
        };
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(bad(format!("cannot be read ({error})"))),
        };
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let findings: Findings = serde_path_to_error::deserialize(&mut json)
            .map_err(|error| bad(format!("not the findings of an evaluation ({error})")))?;
        findings.check().map_err(bad)?;
        Ok(Some(findings))
    }

    /// Checks for values that would make a figure wrong or impossible.
    fn check(&self) -> Result<(), String> {
        let images = self.evaluation.images;
        let (stages, [rows, columns]) = (self.stages.len(), self.grid);
        let maps = &self.keep_maps;
        if maps.len() != stages || maps.iter().any(|map| Some(map.len()) != rows.checked_mul(columns)) {
            return Err(format!("keep_maps do not fit {stages} stages of {rows} x {columns} patches"));
        }
        if maps.iter().flatten().any(|share| !(0.0..=1.0).contains(share)) {
            return Err("keep_maps has a share outside 0 to 1".into());
        }
        if self.costs.len() != images {
            return Err(format!("costs has {} values for {images} images", self.costs.len()));
        }
        let pictured = self.gallery.iter().map(|pictured| &pictured.cost);
        if self.costs.iter().chain(pictured).any(|cost| !cost.is_finite() || *cost < 0.0) {
            return Err("a cost is not a positive number".into());
        }
        if let Some(sizes) = &self.object_sizes
            && (sizes.len() != images || sizes.iter().any(|size| !size.is_finite()))
        {
            return Err(format!("object_sizes is not one number for each of {images} images"));
        }
        for MethodFront { method, points } in &self.fronts {
            let measured_on = points.first().map_or(0, |point| point.images);
            Front::new(self.evaluation.labelled > 0, measured_on, points.clone())
                .map_err(|error| format!("the front of {method}: {error}"))?;
        }
        Ok(())
    }
}
