//! A hand-made method as a policy: fitted to a backbone, and set to a cost that a calibration chose.

use std::path::Path;

use safetensors::tensor::TensorView;
use serde::{Deserialize, Serialize};
use vitrim_vit::{VitSpec, cost};

use super::file::{self, BackboneId};
use crate::handmade::{FitPoint, Method, NoPruner};
use crate::limits::MAX_FIT_POINTS;
use crate::pruner::{PruneError, Pruner, Result};

/// A hand-made method for one backbone, at a cost.
#[derive(Clone, Debug, PartialEq)]
pub struct MethodPolicy {
    /// The backbone that it is for.
    pub backbone: BackboneId,
    /// The method.
    pub method: Method,
    /// The points of its fit to the backbone, from the costliest to the cheapest; empty if the method is not fitted.
    pub fitted: Vec<FitPoint>,
    /// The MACs of an image at which the method is used, as a share of the dense ones; at 1 every token stays.
    pub cost: f64,
    /// The calibration record, as the calibrator wrote it.
    pub calibration: Option<serde_json::Value>,
}

/// `policy.json` of a hand-made method.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    vitrim: String,
    backbone: BackboneId,
    method: String,
    fitted: Vec<FitPoint>,
    cost: f64,
    /// BLAKE3 of `policy.safetensors`, which holds no tensor: a method has no weights.
    weights_hash: String,
    calibration: Option<serde_json::Value>,
}

impl MethodPolicy {
    /// `method` for the backbone `id`, at the dense cost; `fitted` has the points of its fit, if it is fitted.
    pub fn new(id: &BackboneId, method: Method, fitted: Vec<FitPoint>) -> Self {
        MethodPolicy { backbone: id.clone(), method, fitted, cost: 1.0, calibration: None }
    }

    /// The method at `share` of the dense MACs of a backbone of geometry `spec`; at 1, every token stays.
    ///
    /// # Errors
    /// As [`Method::at_cost`].
    pub fn at_cost(&self, spec: &VitSpec, share: f64) -> Result<Box<dyn Pruner>> {
        if share >= 1.0 {
            return Ok(Box::new(NoPruner));
        }
        self.method.at_cost(spec, (share * cost::dense_macs(spec) as f64) as u64, &self.fitted)
    }

    /// The share of the dense MACs of a backbone of geometry `spec` below which the method cannot go.
    ///
    /// # Errors
    /// As [`Method::least_macs`].
    pub fn least_cost(&self, spec: &VitSpec) -> Result<f64> {
        Ok(self.method.least_macs(spec, &self.fitted)? / cost::dense_macs(spec) as f64)
    }

    /// A hash of everything that determines its decisions: the method, its fit and its cost.
    pub fn identity(&self) -> String {
        let parts = (self.method.name(), &self.fitted, self.cost);
        file::hash(&serde_json::to_vec(&parts).expect("plain data"))
    }

    /// Name and content of the files of its folder: the header, then a weights file without weights.
    pub(super) fn encoded(&self) -> [(&'static str, Vec<u8>); 2] {
        let weights = no_weights();
        let header = Header {
            version: file::VERSION_METHOD,
            vitrim: env!("CARGO_PKG_VERSION").to_owned(),
            backbone: self.backbone.clone(),
            method: self.method.name().to_owned(),
            fitted: self.fitted.clone(),
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
        read.weights?;
        let policy = Self::of_values(read.header);
        policy.map(Some).map_err(|reason| PruneError::BadPolicy { path: folder.join(file::HEADER), reason })
    }

    fn of_values(header: serde_json::Value) -> Result<Self, String> {
        let header: Header =
            serde_json::from_value(header).map_err(|error| format!("not a policy: {error}"))?;
        let Header { backbone, method, fitted, cost, calibration, .. } = header;
        file::check_widths(&backbone)?;
        let known = Method::all().find(|known| known.name() == method && *known != Method::Policy);
        let method = known.ok_or_else(|| format!("names '{method}', which is no hand-made method"))?;
        check_fit(method, backbone.depth, &fitted)
            .map_err(|reason| format!("{reason}; calibrate {method} again"))?;
        if !(0.0..=1.0).contains(&cost) {
            return Err(format!("its cost of {cost} does not lie between 0 and 1; calibrate {method} again"));
        }
        Ok(MethodPolicy { backbone, method, fitted, cost, calibration })
    }
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
