//! Operating points: the settings at which a model may be served, from the mildest to the cheapest, each with the loss that
//! its policy's calibration record certifies.

use serde::Serialize;
use utoipa::ToSchema;
use vitrim_measure::calibrate::Calibration;
use vitrim_measure::front::Front;
use vitrim_measure::statistics::Confidence;
use vitrim_prune::{AnyPolicy, Dial};
use vitrim_vit::{Precision, VitSpec, cost};

use crate::refusal::Refusal;

/// A certified bound of the loss.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Certificate {
    /// What is bounded: `drop` of top-1, `disagreement with the dense model`, or `drift` of the features.
    pub measure: &'static str,
    /// Its unit: `pp` or `%`.
    pub unit: &'static str,
    /// The loss is at most this.
    pub at_most: f64,
    /// The confidence of the bound; 1 for the dense model, which loses nothing.
    pub confidence: f64,
    /// Number of held-out images behind it.
    pub images: usize,
}

/// A setting at which a model may be served.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct OperatingPoint {
    /// `dense`, or what the policy is set to, as `vitrim predict --read-out` takes it.
    pub name: String,
    /// Expected MACs of an image, 1e9.
    pub gmacs: f64,
    /// The certified bound of the loss; absent if nothing is certified.
    pub certified: Option<Certificate>,
    /// What the policy is set to; `None` for the dense model.
    #[serde(skip)]
    #[schema(ignore)]
    pub dial: Option<Dial>,
}

/// The limit of the loss and the cost that an operator or a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Largest loss: a drop of top-1 in pp, or a drift in percent.
    pub max_loss: Option<f64>,
    /// Largest expected cost of an image, 1e9 MACs.
    pub gmacs: Option<f64>,
}

/// All points of a model, mildest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Ladder {
    /// The dense model, the certified points by descending cost, and last what the policy itself is set to if it is not
    /// one of them.
    pub points: Vec<OperatingPoint>,
    /// Number of certified points at the start of `points` that lie within the operator's limit, the dense model
    /// included: the server slides among them.
    pub slide: usize,
    /// The point that is served when the server does not slide.
    pub fixed: usize,
}

impl Ladder {
    /// The ladder of a dense model.
    pub fn dense(spec: &VitSpec) -> Self {
        Ladder { points: vec![dense_point(spec)], slide: 1, fixed: 0 }
    }

    /// The ladder of `policy` in `precision` with its calibration `record`, if it has one. With a `limit` of the loss, it
    /// has only the points that are certified within the limit; without one, it has all of them, and the policy's own.
    ///
    /// # Errors
    /// A line that says why `limit` cannot be held: nothing is certified in this precision.
    pub fn of(
        spec: &VitSpec,
        policy: &AnyPolicy,
        record: Option<&Calibration>,
        precision: Precision,
        limit: Option<f64>,
        confidence: Option<Confidence>,
    ) -> Result<Self, String> {
        let certified = match record {
            Some(record) if record.dtype == precision => {
                certified_points(policy, &record.front, confidence.unwrap_or(record.confidence))
            }
            Some(record) if limit.is_some() => {
                return Err(format!(
                    "the policy was calibrated in {}, so that no loss is certified in {precision}; `vitrim calibrate \
                     --dtype {precision}` would certify one",
                    record.dtype
                ));
            }
            None if limit.is_some() => {
                return Err(
                    "the policy is not calibrated, so that no loss is certified; run `vitrim calibrate` on it first".into()
                );
            }
            _ => Vec::new(),
        };
        let within = |point: &OperatingPoint, limit: f64| {
            point.certified.as_ref().is_some_and(|certificate| certificate.at_most <= limit)
        };
        let mut points = vec![dense_point(spec)];
        points.extend(certified);
        if let Some(limit) = limit {
            points.retain(|point| within(point, limit));
            let slide = points.len();
            return Ok(Ladder { fixed: slide - 1, slide, points });
        }
        let slide = match record {
            Some(record) => points.iter().take_while(|point| within(point, record.max_drop)).count(),
            None => 1,
        };
        let own = policy.dial();
        // A hand-made method that keeps everything is the dense model.
        let is_own = |point: &OperatingPoint| match &point.dial {
            Some(dial) => *dial == own,
            None => own == Dial::Cost(policy.keeping_all()),
        };
        let fixed = points.iter().position(is_own);
        let fixed = fixed.unwrap_or_else(|| {
            points.push(OperatingPoint {
                name: own.to_string(),
                // Its cost was not measured: that of the dense model stands for it.
                gmacs: points[0].gmacs,
                certified: None,
                dial: Some(own),
            });
            points.len() - 1
        });
        Ok(Ladder { points, slide, fixed })
    }

    /// The cheapest certified point that a request with `limits` may be served at; `None` if it has no limits.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if no certified point is that cheap.
    pub fn bound(&self, limits: Limits) -> Result<Option<usize>, Refusal> {
        let certified = || self.points.iter().enumerate().filter(|(_, point)| point.certified.is_some());
        let by_loss = match limits.max_loss {
            None => None,
            Some(limit) if limit.is_finite() && limit >= 0.0 => {
                let within = |point: &OperatingPoint| {
                    point.certified.as_ref().is_some_and(|bound| bound.at_most <= limit)
                };
                certified().take_while(|(_, point)| within(point)).last().map(|(index, _)| index)
            }
            Some(limit) => {
                return Err(Refusal::Invalid(format!("max_drop {limit} must be a number of at least 0")));
            }
        };
        let Some(gmacs) = limits.gmacs else { return Ok(by_loss) };
        let last = by_loss.unwrap_or(usize::MAX);
        let fits = certified().find(|(index, point)| *index <= last && point.gmacs <= gmacs);
        fits.map(|(index, _)| Some(index)).ok_or_else(|| {
            let cheapest = certified().take_while(|(index, _)| *index <= last).last();
            let cheapest = cheapest.map_or(f64::NAN, |(_, point)| point.gmacs);
            Refusal::Invalid(format!(
                "gmacs {gmacs}: no certified operating point costs that little, the cheapest costs {cheapest:.4} GMACs"
            ))
        })
    }
}

fn dense_point(spec: &VitSpec) -> OperatingPoint {
    let measure = if spec.num_classes == 0 { ("drift", "%") } else { ("drop", "pp") };
    OperatingPoint {
        name: "dense".into(),
        gmacs: cost::dense_macs(spec) as f64 / 1e9,
        certified: Some(Certificate {
            measure: measure.0,
            unit: measure.1,
            at_most: 0.0,
            confidence: 1.0,
            images: 0,
        }),
        dial: None,
    }
}

/// The points of `front`, which is that of `policy`, that some limit of the loss leads to, mildest first, each with the smallest such limit.
///
/// [`choose`](vitrim_measure::front::choose) walks from the costliest point to the cheapest and stops at the first whose
/// bound exceeds the limit. The smallest limit that reaches a point is therefore the largest bound up to there; of points
/// with the same one, only the cheapest is ever chosen. Each such choice is certified at the confidence of the bounds
/// (fixed-sequence testing), whatever other limits are asked for.
fn certified_points(policy: &AnyPolicy, front: &Front, confidence: Confidence) -> Vec<OperatingPoint> {
    let measure = front.measure();
    let mut chosen: Vec<OperatingPoint> = Vec::new();
    let mut at_most = 0.0f64;
    for point in front.points() {
        let Ok(loss) = point.loss() else { break };
        let bound = at_most.max(loss.upper_bound(confidence));
        if bound <= at_most && !chosen.is_empty() {
            chosen.pop();
        }
        at_most = bound;
        // A policy that removes next to nothing costs more than the dense model.
        if point.cost >= 1.0 {
            continue;
        }
        let dial = policy.at_setting(point.setting);
        chosen.push(OperatingPoint {
            name: dial.to_string(),
            gmacs: point.gmacs,
            certified: Some(Certificate {
                measure: measure.name(),
                unit: measure.unit(),
                at_most,
                confidence: confidence.level(),
                images: front.images(),
            }),
            dial: Some(dial),
        });
    }
    chosen
}
