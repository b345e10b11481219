//! What was measured on held-out images: `evaluation.json` of a run folder, all that a report needs
//! beside the run itself.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vitrim_measure::evaluate::Evaluation;
use vitrim_measure::front::{Front, FrontPoint};

use crate::error::{ReportError, Result};

/// Its name in a run folder.
pub const FILE: &str = "evaluation.json";

/// Figures of one evaluation, all on the same images, or on the first of them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Findings {
    /// The report's title.
    pub title: String,
    /// The command whose figures these are.
    pub command: String,
    /// Whether that command also trained and calibrated the policy.
    pub command_trains: bool,
    /// The backbone's checkpoint folder.
    pub model: String,
    /// In what it multiplied, dense and pruned; null in runs of before it was noted.
    #[serde(default)]
    pub dtype: Option<String>,
    /// The data set.
    pub data: String,
    /// The part of it that was evaluated on.
    pub split: String,
    /// How the policy was read out.
    pub read_out: String,
    /// What it ran on: processor and threads.
    pub machine: String,
    /// What took how many seconds, in order.
    pub seconds: Vec<(String, f64)>,
    /// The methods compared at the policy's cost.
    pub evaluation: Evaluation,
    /// Each method at several costs.
    pub fronts: Vec<MethodFront>,
    /// Rows and columns of patches.
    pub grid: [usize; 2],
    /// 0-based blocks before which agents act, `[K]`.
    pub stages: Vec<usize>,
    /// Share of images whose patch there survives stage k, `[K][rows * columns]`, row-major.
    pub keep_maps: Vec<Vec<f32>>,
    /// The policy's MACs on each image as a share of the dense model's, `[images]`.
    pub costs: Vec<f32>,
    /// Size of the object in each image in pixels, `[images]`; where the data set knows it.
    pub object_sizes: Option<Vec<f32>>,
    /// Some images and what the policy keeps of them.
    pub gallery: Vec<Pictured>,
}

/// A method measured at several costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodFront {
    /// Its name.
    pub method: String,
    /// One point a cost.
    pub points: Vec<FrontPoint>,
}

/// A picture of what is kept of an image.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pictured {
    /// Why it is shown.
    pub group: Group,
    /// A PNG that [`crate::picture::kept_tokens`] drew, relative to the run folder.
    pub picture: PathBuf,
    /// What there is to say about it.
    pub caption: String,
    /// MACs on it as a share of the dense model's.
    pub cost: f32,
}

/// Where an image lies among all images by its cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Among the cheapest.
    Cheap,
    /// Around the median.
    Typical,
    /// Among the most expensive.
    Expensive,
}

impl Group {
    /// All of them, in the order of a page.
    pub const ALL: [Group; 3] = [Group::Cheap, Group::Typical, Group::Expensive];
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Group::Cheap => "cheap",
            Group::Typical => "typical",
            Group::Expensive => "expensive",
        })
    }
}

impl Findings {
    /// Writes them into the run folder.
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

    /// Reads them from the run folder; none if nobody has evaluated it yet.
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

    /// What would make a figure wrong or impossible.
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
