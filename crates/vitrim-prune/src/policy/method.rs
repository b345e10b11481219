//! A method as a policy: fitted to a backbone or learned for it, and set to a cost that a calibration chose.

use std::path::Path;

use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};
use vitrim_vit::{VitSpec, cost};

use super::file::{self, BackboneId};
use super::metric::{self, MetricHeads};
use crate::handmade::{FitPoint, Method, NoPruner};
use crate::limits::{MAX_FIT_POINTS, MAX_WIDTH};
use crate::pruner::{PruneError, Pruner, Result};

/// A method for one backbone, at a cost.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodPolicy {
    /// The backbone that it is for.
    pub backbone: BackboneId,
    /// The method.
    pub recipe: Recipe,
    /// The MACs of an image at which the method is used, as a share of the dense ones; at 1 every token stays.
    pub cost: f64,
    /// The calibration record, as the calibrator wrote it.
    pub calibration: Option<serde_json::Value>,
}

/// A method, with what it is made of for a backbone.
#[derive(Clone, Debug, PartialEq)]
pub enum Recipe {
    /// A hand-made method.
    HandMade {
        /// The method.
        method: Method,
        /// The points of its fit to the backbone, from the costliest to the cheapest; empty if the method is not fitted.
        fitted: Vec<FitPoint>,
    },
    /// Merging by a learned metric.
    Metric(MetricHeads),
}

/// `policy.json` of a method.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    vitrim: String,
    backbone: BackboneId,
    method: String,
    fitted: Vec<FitPoint>,
    /// Width of a learned metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    metric_width: Option<usize>,
    cost: f64,
    /// BLAKE3 of `policy.safetensors`, which holds no tensor of a hand-made method.
    weights_hash: String,
    calibration: Option<serde_json::Value>,
}

impl Recipe {
    /// Name of the method.
    pub fn name(&self) -> &'static str {
        match self {
            Recipe::HandMade { method, .. } => method.name(),
            Recipe::Metric(_) => metric::NAME,
        }
    }

    /// What the method is, as the rest of a sentence that begins with "It".
    pub fn about(&self) -> String {
        match self {
            Recipe::HandMade { method, .. } => {
                format!("is the hand-made method `{method}`, which {}", method.about())
            }
            Recipe::Metric(_) => format!(
                "is `{}`, which merges in every block what is alike by a learned metric",
                metric::NAME
            ),
        }
    }

    /// The points of a fit, and the weights file.
    fn parts(&self) -> (&[FitPoint], Vec<u8>) {
        match self {
            Recipe::HandMade { fitted, .. } => (fitted, no_weights()),
            Recipe::Metric(heads) => (&[], heads.serialized()),
        }
    }
}

impl MethodPolicy {
    /// `method` for the backbone `id`, at the dense cost; `fitted` has the points of its fit, if it is fitted.
    pub fn new(id: &BackboneId, method: Method, fitted: Vec<FitPoint>) -> Self {
        Self::of(id, Recipe::HandMade { method, fitted })
    }

    /// The method of `recipe` for the backbone `id`, at the dense cost.
    pub fn of(id: &BackboneId, recipe: Recipe) -> Self {
        MethodPolicy { backbone: id.clone(), recipe, cost: 1.0, calibration: None }
    }

    /// The method at `share` of the dense MACs of a backbone of geometry `spec`; at 1, every token stays.
    ///
    /// # Errors
    /// As [`Method::at_cost`].
    pub fn at_cost(&self, spec: &VitSpec, share: f64) -> Result<Box<dyn Pruner>> {
        if share >= 1.0 {
            return Ok(Box::new(NoPruner));
        }
        let macs = (share * cost::dense_macs(spec) as f64) as u64;
        match &self.recipe {
            Recipe::HandMade { method, fitted } => method.at_cost(spec, macs, fitted),
            Recipe::Metric(heads) => Ok(heads.at_cost(spec, macs)),
        }
    }

    /// The share of the dense MACs of a backbone of geometry `spec` below which the method cannot go.
    ///
    /// # Errors
    /// As [`Method::least_macs`].
    pub fn least_cost(&self, spec: &VitSpec) -> Result<f64> {
        let least = match &self.recipe {
            Recipe::HandMade { method, fitted } => method.least_macs(spec, fitted)?,
            Recipe::Metric(heads) => heads.least_macs(spec) as f64,
        };
        Ok(least / cost::dense_macs(spec) as f64)
    }

    /// A hash of everything that determines its decisions: the method, its fit or weights, and its cost.
    pub fn identity(&self) -> String {
        let (fitted, weights) = self.recipe.parts();
        let parts = serde_json::to_vec(&(self.recipe.name(), fitted, self.cost)).expect("plain data");
        match self.recipe {
            Recipe::HandMade { .. } => file::hash(&parts),
            Recipe::Metric(_) => file::hash(&[parts, weights].concat()),
        }
    }

    /// Name and content of the files of its folder: the header, then the weights.
    pub(super) fn encoded(&self) -> [(&'static str, Vec<u8>); 2] {
        let (fitted, weights) = self.recipe.parts();
        let (version, metric_width) = match &self.recipe {
            Recipe::HandMade { .. } => (file::VERSION_METHOD, None),
            Recipe::Metric(heads) => (file::VERSION_METRIC, Some(heads.width)),
        };
        let header = Header {
            version,
            vitrim: env!("CARGO_PKG_VERSION").to_owned(),
            backbone: self.backbone.clone(),
            method: self.recipe.name().to_owned(),
            fitted: fitted.to_vec(),
            metric_width,
            cost: self.cost,
            weights_hash: file::hash(&weights),
            calibration: self.calibration.clone(),
        };
        let json = serde_json::to_string_pretty(&header).expect("a header is plain data");
        [(file::HEADER, json.into_bytes()), (file::WEIGHTS, weights)]
    }

    /// Reads a folder with a policy of this kind; `None` if it is of another one.
    ///
    /// # Errors
    /// If there is no readable policy, or it states what could not run or be held.
    pub(super) fn open(folder: &Path) -> Result<Option<Self>> {
        let read = file::read(folder)?;
        if !file::is_method(&read.header) {
            return Ok(None);
        }
        let weights = read.weights?;
        let policy = Self::of_values(read.header, &weights);
        policy.map(Some).map_err(|(file, reason)| PruneError::BadPolicy { path: folder.join(file), reason })
    }

    /// The policy of a header and a weights file.
    ///
    /// # Errors
    /// The file with the fault, and a description.
    fn of_values(header: serde_json::Value, weights: &[u8]) -> Result<Self, (&'static str, String)> {
        let in_header = |reason: String| (file::HEADER, reason);
        let header: Header =
            serde_json::from_value(header).map_err(|error| in_header(format!("not a policy: {error}")))?;
        let Header { backbone, method, fitted, metric_width, cost, calibration, .. } = header;
        file::check_widths(&backbone).map_err(in_header)?;
        let recipe = match (header.version, metric_width) {
            (file::VERSION_METRIC, Some(width)) if method == metric::NAME && fitted.is_empty() => {
                if width == 0 || width > MAX_WIDTH {
                    let reason = format!("its metric_width of {width} lies outside 1 to {MAX_WIDTH}");
                    return Err(in_header(reason));
                }
                let heads = MetricHeads::deserialized(weights, backbone.depth, backbone.dim, width);
                Recipe::Metric(heads.map_err(|reason| (file::WEIGHTS, reason))?)
            }
            (file::VERSION_METHOD, None) => hand_made(&method, backbone.depth, fitted).map_err(in_header)?,
            (version, _) => {
                return Err(in_header(format!(
                    "method, fitted and metric_width are not those of a policy of version {version}; copy the whole \
                     folder again"
                )));
            }
        };
        if !(0.0..=1.0).contains(&cost) {
            let name = recipe.name();
            return Err(in_header(format!(
                "its cost of {cost} does not lie between 0 and 1; calibrate {name} again"
            )));
        }
        Ok(MethodPolicy { backbone, recipe, cost, calibration })
    }
}

/// The hand-made method called `name` for a backbone of `depth` blocks.
///
/// # Errors
/// A description of what is wrong.
fn hand_made(name: &str, depth: usize, fitted: Vec<FitPoint>) -> Result<Recipe, String> {
    let known = Method::all().find(|known| known.name() == name && *known != Method::Policy);
    let method = known.ok_or_else(|| format!("names '{name}', which is no hand-made method"))?;
    check_fit(method, depth, &fitted).map_err(|reason| format!("{reason}; calibrate {method} again"))?;
    Ok(Recipe::HandMade { method, fitted })
}

/// Checks that a pruner of `method` can be made of `fitted` for a backbone of `depth` blocks.
///
/// # Errors
/// A description of what is wrong.
fn check_fit(method: Method, depth: usize, fitted: &[FitPoint]) -> Result<(), String> {
    let Some(numbers) = method.fitted_numbers(depth) else {
        return if fitted.is_empty() {
            Ok(())
        } else {
            Err(format!("{method} is not fitted, and has numbers"))
        };
    };
    if fitted.is_empty() || fitted.len() > MAX_FIT_POINTS {
        return Err(format!("{method} is fitted at 1 to {MAX_FIT_POINTS} costs, not at {}", fitted.len()));
    }
    for point in fitted {
        if point.numbers.len() != numbers {
            return Err(format!(
                "{method} has {numbers} numbers at each cost for {depth} blocks, not {}",
                point.numbers.len()
            ));
        }
        let macs = point.macs.is_finite() && point.macs > 0.0;
        if !macs || point.numbers.iter().any(|number| !number.is_finite()) {
            return Err(format!(
                "{method} has numbers that are NaN or infinite, or costs that are not above 0"
            ));
        }
    }
    match fitted.windows(2).all(|pair| pair[0].macs > pair[1].macs) {
        true => Ok(()),
        false => Err(format!("the costs at which {method} is fitted do not fall")),
    }
}

fn no_weights() -> Vec<u8> {
    safetensors::serialize(std::iter::empty::<(&str, TensorView<'_>)>(), None).expect("no tensor is wrong")
}
