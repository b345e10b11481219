//! Each method at several costs on one data set: the policy at settings of its record, the hand-made methods at the
//! keep ratios that the policy has there.

use serde::{Deserialize, Serialize};
use vitrim_data::{Dataset, Order};
use vitrim_prune::{AnyPolicy, Method, Pruner};

use crate::error::{MeasureError, Result};
use crate::fits::Fits;
use crate::front::{Front, FrontPoint};
use crate::model::Loaded;
use crate::passes::{MeasuredPruner, Pass, PassOptions, each_batch, start};
use crate::progress::Progress;

/// Largest number of points on each method's front.
const FRONT_POINTS: usize = 7;
/// Settings with a cost above this keep nearly all tokens, and are left out.
const NEARLY_DENSE: f64 = 0.98;

/// A method measured at several costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodFront {
    /// Name of the method.
    pub method: String,
    /// One point per cost.
    pub points: Vec<FrontPoint>,
}

/// Measures `policy` at settings of `front`, and those of `methods` that can act at its stages at the keep ratios
/// of `front` there, by `fits` if they are fitted.
///
/// # Errors
/// If images cannot be read, there are none, or the work was asked to stop.
pub fn method_fronts(
    loaded: &Loaded,
    policy: &AnyPolicy,
    front: &Front,
    dataset: &Dataset,
    (methods, fits): (&[Method], &Fits),
    options: &PassOptions,
    progress: &mut Progress<'_>,
) -> Result<Vec<MethodFront>> {
    let (spec, drop_stages) = (&loaded.spec, policy.drop_stages(&loaded.spec)?);
    let methods: Vec<Method> =
        methods.iter().copied().filter(|method| method.can_act(&drop_stages)).collect();
    let points = spread(front);
    let mut under_test: Vec<(Method, f64, MeasuredPruner)> = Vec::new();
    for (method, point) in methods.iter().flat_map(|method| points.iter().map(move |point| (*method, point)))
    {
        let pruner: Box<dyn Pruner> = match method {
            Method::Policy => policy.pruner_at(spec, &policy.at_setting(point.setting))?,
            method => {
                let (stages, keep) = profile_at(&drop_stages, &point.keep_ratio);
                fits.at_shares(method, loaded, &stages, &keep)?
            }
        };
        under_test.push((method, point.setting, MeasuredPruner::new(pruner, spec)));
    }
    let start = start(under_test.iter().map(|(_, _, measured)| measured.pruner.as_ref()), spec);
    let pass = Pass { loaded, dataset, order: Order::Sequential, options, start, dense: None };
    each_batch(pass, progress, &mut |batch| {
        under_test.iter_mut().try_for_each(|(_, _, measured)| measured.add(batch))
    })?;
    let front_of = |method: Method| {
        let points = under_test.iter().filter(|(of, _, _)| *of == method);
        let points = points.map(|(_, setting, measured)| measured.metrics.front_point(*setting));
        Ok(MethodFront { method: method.to_string(), points: points.collect::<Result<_, MeasureError>>()? })
    };
    methods.into_iter().map(front_of).collect()
}

/// The profile of hand-made methods in place of a policy: its `stages` for them, and its measured `keep_ratio` after each
/// site, `[K]`. A method that still acts in the last block has a site more than stages; one that keeps everything has none.
pub(crate) fn profile_at(stages: &[usize], keep_ratio: &[f64]) -> (Vec<usize>, Vec<f64>) {
    stages.iter().copied().zip(keep_ratio.iter().copied()).unzip()
}

/// Up to [`FRONT_POINTS`] points of `front` that differ in cost, evenly spread over its points.
fn spread(front: &Front) -> Vec<FrontPoint> {
    let mut points: Vec<&FrontPoint> = front.points().iter().filter(|p| p.cost < NEARLY_DENSE).collect();
    points.dedup_by(|later, earlier| later.keep_ratio == earlier.keep_ratio);
    if points.is_empty() {
        points.extend(front.points().last());
    }
    let last = points.len() - 1;
    let wanted = FRONT_POINTS.min(points.len());
    (0..wanted).map(|i| points[(i * last).checked_div(wanted - 1).unwrap_or(0)].clone()).collect()
}
