//! Every method with every setting that is measured.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use vitrim_prune::{AnyPolicy, Dial, Fit, Pruner, ReadOut};
use vitrim_prune::{Method, keep_shares};
use vitrim_vit::{VitSpec, cost};

use crate::error::{MeasureError, Result};

/// Keep ratios of the sweep; after stage k, the k-th power of the ratio is left.
const KEEP: [f64; 11] = [0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2];
/// Number of settings in the sweep of a method that acts in every block.
const MERGES: usize = 14;

/// The subject of a comparison: a method, or a study of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A trained policy: its name, its index among those of that name, and its index among all.
    Learned {
        /// Its name: "policy", or a rival's name.
        name: String,
        /// 0-based index among the policies of the name, which were trained from different seeds.
        seed: usize,
        /// 0-based index among all policies.
        place: usize,
    },
    /// A hand-made method.
    Method(Method),
    /// A study of the policy.
    Studied {
        /// What is changed about the policy.
        variant: Variant,
        /// The seed of the policy.
        seed: usize,
        /// The place of the policy.
        place: usize,
    },
}

/// What a study changes about the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// The policy's selection, with its mean budgets for every image.
    FixedBudgets,
    /// A hand-made selection, with the policy's budgets of each image.
    Selection(Method),
}

/// A study of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Study {
    /// The policy's selection, with the mean budgets for every image: what adapting to the image is worth.
    FixedBudgets,
    /// Hand-made selections, with the policy's budgets of each image: what the policy's selection is worth.
    Selection,
}

impl Study {
    /// All studies.
    pub const ALL: [Study; 2] = [Study::FixedBudgets, Study::Selection];

    /// The variants that the study measures.
    pub fn variants(self) -> Vec<Variant> {
        match self {
            Study::FixedBudgets => vec![Variant::FixedBudgets],
            Study::Selection => {
                Method::all().filter(|method| method.keeps_budgets()).map(Variant::Selection).collect()
            }
        }
    }
}

impl fmt::Display for Study {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Study::FixedBudgets => "fixed-budgets",
            Study::Selection => "selection",
        })
    }
}

impl FromStr for Study {
    type Err = MeasureError;

    fn from_str(name: &str) -> Result<Self> {
        let known = Study::ALL.into_iter().find(|study| study.to_string() == name);
        known.ok_or_else(|| {
            let names = Study::ALL.map(|study| study.to_string()).join(", ");
            MeasureError::Setting(format!("unknown study '{name}'; use one of {names}"))
        })
    }
}

impl Subject {
    /// Name of the group: policies that differ only in their seed are one group.
    pub fn group(&self) -> String {
        match self {
            Subject::Learned { name, .. } => name.clone(),
            Subject::Studied { variant, .. } => variant.to_string(),
            Subject::Method(method) => method.to_string(),
        }
    }

    /// Whether this is a study of the policy.
    pub fn is_study(&self) -> bool {
        matches!(self, Subject::Studied { .. })
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.group())?;
        match self {
            Subject::Learned { seed, .. } | Subject::Studied { seed, .. } if *seed > 0 => {
                write!(f, "-{}", seed + 1)
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Variant::FixedBudgets => f.write_str("policy-fixed-budgets"),
            Variant::Selection(method) => write!(f, "policy-budgets-{method}"),
        }
    }
}

/// A setting of a method: the parameter that its front is swept over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setting {
    /// The dense model.
    Dense,
    /// The policy's threshold.
    Threshold(f64),
    /// Random decisions with the policy's probabilities, with this seed.
    Sampled(u64),
    /// Shares of N0 that stay after each stage, the tokens of highest probability, `[K]`.
    TopR(Vec<f64>),
    /// Stages, and the share of N0 left after each.
    Profile {
        /// 0-based blocks.
        stages: Vec<usize>,
        /// Shares of N0, `[K]`.
        keep: Vec<f64>,
    },
    /// Tokens removed per block, distributed over the blocks in the method's way.
    Merged(usize),
    /// The cost that a fitted method, or a policy that is a hand-made method, is asked for, as a share of the dense MACs.
    Cost(f64),
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |values: Vec<String>| values.join(",");
        match self {
            Setting::Dense => f.write_str("dense"),
            Setting::Threshold(threshold) => write!(f, "threshold={threshold}"),
            Setting::Sampled(seed) => write!(f, "sample={seed}"),
            Setting::TopR(keep) => f.write_str(&ReadOut::TopR { keep: keep.clone() }.to_string()),
            Setting::Merged(r) => write!(f, "r={r}"),
            Setting::Cost(cost) => write!(f, "cost={cost:.3}"),
            Setting::Profile { stages, keep } => write!(
                f,
                "stages={} keep={}",
                list(stages.iter().map(usize::to_string).collect()),
                list(keep.iter().map(|k| format!("{k:.3}")).collect())
            ),
        }
    }
}

impl Setting {
    /// The dial of a policy with this setting; `None` if it is not a setting of a policy.
    fn dial(&self) -> Option<Dial> {
        let read_out = match self {
            Setting::Threshold(threshold) => ReadOut::Threshold { threshold: *threshold },
            Setting::Sampled(seed) => ReadOut::Sample { seed: *seed },
            Setting::TopR(keep) => ReadOut::TopR { keep: keep.clone() },
            Setting::Cost(share) => return Some(Dial::Cost(*share)),
            Setting::Dense | Setting::Profile { .. } | Setting::Merged(_) => return None,
        };
        Some(Dial::ReadOut(read_out))
    }

    /// The pruner of `method` with this setting.
    ///
    /// # Errors
    /// If the method does not have this kind of setting.
    pub fn pruner(&self, method: Method, spec: &VitSpec, basis: Basis<'_>) -> Result<Box<dyn Pruner>> {
        if let (Some(dial), Method::Policy, Some(policy)) = (self.dial(), method, basis.policy) {
            return Ok(policy.pruner_at(spec, &dial)?);
        }
        match self {
            Setting::Cost(share) if method.is_fitted() => {
                let fit =
                    basis.fit.ok_or_else(|| MeasureError::Setting(format!("{method} is not fitted")))?;
                Ok(fit.at_cost((share * cost::dense_macs(spec) as f64) as u64))
            }
            Setting::Merged(r) if method.in_every_block() => Ok(method.merging(spec, *r)?),
            Setting::Profile { stages, keep } => Ok(method.at_shares(spec, stages, keep)?),
            _ => Err(MeasureError::Setting(format!("{method} has no setting '{self}'"))),
        }
    }
}

/// What pruners of a method are made from.
#[derive(Clone, Copy, Default)]
pub struct Basis<'a> {
    /// The policy, or the one that is studied.
    pub policy: Option<&'a AnyPolicy>,
    /// The method's fit, if it is fitted.
    pub fit: Option<&'a Fit>,
}

/// The settings of `method` that are swept on calibration images. The hand-made methods get the default stages, those
/// of the policy, and single and early ones, each with the same ratios; `own` are the policy's thresholds or costs, unless its
/// read-out is `sample`.
///
/// # Errors
/// If the policy does not fit the backbone.
pub fn swept(method: Method, spec: &VitSpec, basis: Basis<'_>, own: &[f64]) -> Result<Vec<Setting>> {
    let policy = basis.policy;
    if let Some(fit) = basis.fit {
        let least = fit.least_macs() / cost::dense_macs(spec) as f64;
        let cost = |i: usize| least + (1.0 - least) * i as f64 / MERGES as f64;
        return Ok((0..MERGES).map(|i| Setting::Cost(cost(i))).collect());
    }
    Ok(match (method, policy.map(AnyPolicy::dial)) {
        (Method::Policy, Some(Dial::ReadOut(ReadOut::Sample { seed }))) => vec![Setting::Sampled(seed)],
        (Method::Policy, Some(Dial::Cost(_))) => own.iter().map(|cost| Setting::Cost(*cost)).collect(),
        (Method::Policy, _) => own.iter().map(|threshold| Setting::Threshold(*threshold)).collect(),
        _ if method.in_every_block() => {
            let most = spec.num_patches() / spec.depth + 1;
            let mut merges: Vec<usize> = (1..=MERGES).map(|i| (i * most).div_ceil(MERGES)).collect();
            merges.dedup();
            merges.into_iter().map(Setting::Merged).collect()
        }
        _ => stage_sets(spec.depth, policy.map(|policy| policy.drop_stages(spec)).transpose()?.as_deref())
            .into_iter()
            .filter(|stages| method.can_act(stages))
            .flat_map(|stages| {
                KEEP.iter().map(move |ratio| Setting::Profile {
                    keep: keep_shares(&[*ratio; 1], stages.len()).expect("ratios lie between 0 and 1"),
                    stages: stages.clone(),
                })
            })
            .collect(),
    })
}

/// Stages to prune before, for a network of `depth` blocks.
fn stage_sets(depth: usize, of_policy: Option<&[usize]>) -> Vec<Vec<usize>> {
    let quarter = |k: usize| (k * depth / 4).max(1);
    let mut sets = vec![
        vec![quarter(1), quarter(2), quarter(3)],
        vec![quarter(1), quarter(2)],
        vec![quarter(2), quarter(3)],
        vec![quarter(1)],
        vec![1],
        (1..depth).collect(),
    ];
    sets.extend(of_policy.map(<[usize]>::to_vec));
    sets.iter_mut().for_each(|stages| stages.dedup());
    sets.sort();
    sets.dedup();
    sets
}

#[cfg(test)]
mod tests {
    use vitrim_vit::{CpuBackbone, PixelBatch, Tensors};

    use super::*;

    #[test]
    fn every_method_is_swept_with_settings_that_it_takes() {
        let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([64, 64]);
        (spec.dim, spec.mlp.hidden, spec.depth, spec.num_classes) = (24, 48, 4, 5);
        let model = CpuBackbone::new(&spec, &Tensors::random(&spec, 1)).unwrap();
        let values: Vec<f32> = (0..2 * 3 * 64 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
        let nothing = Basis::default();
        for method in Method::all().filter(|method| *method != Method::Policy) {
            let fit = method
                .is_fitted()
                .then(|| method.fit(&model, PixelBatch::new(&values, 2), &mut |_, _| Ok(())).unwrap());
            let basis = Basis { fit: fit.as_ref(), ..nothing };
            let settings = swept(method, &spec, basis, &[]).unwrap();
            assert!(settings.len() >= 2, "{method}");
            for setting in settings {
                setting
                    .pruner(method, &spec, basis)
                    .unwrap_or_else(|error| panic!("{method} {setting}: {error}"));
            }
        }
        assert!(Setting::Merged(3).pruner("random".parse().unwrap(), &spec, nothing).is_err());
        assert!(Setting::Threshold(0.5).pruner(Method::Policy, &spec, nothing).is_err(), "without a policy");
        assert!(
            Setting::Cost(0.5).pruner("dtome".parse().unwrap(), &spec, nothing).is_err(),
            "without a fit"
        );
    }

    #[test]
    fn stages_ascend_within_the_network() {
        for depth in 1..=13 {
            for stages in stage_sets(depth, Some(&[0])) {
                assert!(stages.windows(2).all(|w| w[0] < w[1]), "{depth}: {stages:?}");
                assert!(depth == 1 || stages.iter().all(|stage| *stage < depth), "{depth}: {stages:?}");
            }
        }
    }
}
