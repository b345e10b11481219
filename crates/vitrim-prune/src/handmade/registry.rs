//! The methods that are compared, and how they are named and set up.

use std::fmt;
use std::str::FromStr;

use vitrim_vit::VitSpec;

use super::{
    AtsPruner, ClsAttentionPruner, EvitPruner, KeepProfile, RandomPruner, SimilarityPruner, TomePruner,
};
use crate::pruner::{PruneError, Pruner, Result};

/// Seed of the random method.
const SEED: u64 = 0;

/// A way of pruning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The learned policy.
    Policy,
    /// Random patch tokens.
    Random,
    /// What the class token attends to.
    ClsAttention,
    /// The same, the rest fused into one token.
    Evit,
    /// Sampling by the class token's attention and the values' norms.
    Ats,
    /// What differs most from the mean.
    Similarity,
    /// Merging what is alike, attention counting sizes.
    Tome,
    /// Merging what is alike, attention counting each token once.
    TomePlain,
}

impl Method {
    /// All of them, in the order of tables.
    pub const ALL: [Method; 8] = [
        Method::Policy,
        Method::Random,
        Method::ClsAttention,
        Method::Evit,
        Method::Ats,
        Method::Similarity,
        Method::Tome,
        Method::TomePlain,
    ];
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Method::Policy => "policy",
            Method::Random => "random",
            Method::ClsAttention => "cls-attention",
            Method::Evit => "evit",
            Method::Ats => "ats",
            Method::Similarity => "similarity",
            Method::Tome => "tome",
            Method::TomePlain => "tome-plain",
        })
    }
}

impl FromStr for Method {
    type Err = PruneError;

    fn from_str(name: &str) -> Result<Self> {
        let known = Method::ALL.into_iter().find(|method| method.to_string() == name);
        known.ok_or_else(|| {
            let names = Method::ALL.map(|method| method.to_string()).join(", ");
            PruneError::Setting(format!("unknown method '{name}'; use one of {names}"))
        })
    }
}

/// Shares of N0 that stay after each of `stages` stages: `[0.7]` means 0.7^k, else one a stage.
///
/// # Errors
/// [`PruneError::Setting`] if the number of shares is neither 1 nor that of the stages, or they rise or
/// leave 0 to 1.
pub fn keep_shares(given: &[f64], stages: usize) -> Result<Vec<f64>> {
    let shares: Vec<f64> = match given {
        [ratio] => (1..=stages).map(|k| ratio.powi(k as i32)).collect(),
        shares if shares.len() == stages => shares.to_vec(),
        shares => {
            let count = shares.len();
            return Err(PruneError::Setting(format!(
                "{count} keep ratios for {stages} stages; give one for each, or a single one"
            )));
        }
    };
    if shares.iter().any(|s| !(0.0..=1.0).contains(s)) || shares.windows(2).any(|w| w[0] < w[1]) {
        return Err(PruneError::Setting(format!(
            "keep ratios {given:?} must lie between 0 and 1 and not rise"
        )));
    }
    Ok(shares)
}

/// A hand-made method at a keep profile; those that merge in every block get the schedule that costs the same.
///
/// # Errors
/// If the profile does not fit, or `method` is the policy, which has no profile.
pub fn hand_made(method: Method, spec: &VitSpec, stages: &[usize], keep: &[f64]) -> Result<Box<dyn Pruner>> {
    at_profile(method, spec, KeepProfile::new(spec, stages, keep)?)
}

/// A hand-made method at `profile`, as [`hand_made`].
///
/// # Errors
/// As there.
pub fn at_profile(method: Method, spec: &VitSpec, profile: KeepProfile) -> Result<Box<dyn Pruner>> {
    match method {
        Method::Random => Ok(Box::new(RandomPruner::new(profile, SEED))),
        Method::ClsAttention => Ok(Box::new(ClsAttentionPruner::new(profile)?)),
        Method::Evit => Ok(Box::new(EvitPruner::new(profile))),
        Method::Ats => Ok(Box::new(AtsPruner::new(profile))),
        Method::Similarity => Ok(Box::new(SimilarityPruner::new(profile))),
        Method::Tome | Method::TomePlain => {
            Ok(Box::new(TomePruner::at_cost(spec, profile.macs(spec, 0), method == Method::Tome)))
        }
        Method::Policy => Err(PruneError::Setting("the policy is not a hand-made method".into())),
    }
}

/// Reads a hand-made method with its keep ratio, `cls-attention:0.7` (or one a stage, as [`keep_shares`] has it),
/// for the backbone's default stages: the method, the stages and the shares that [`hand_made`] takes.
///
/// # Errors
/// [`PruneError::Setting`] for anything else.
pub fn parse_hand_made(text: &str, spec: &VitSpec) -> Result<(Method, Vec<usize>, Vec<f64>)> {
    let (name, ratios) = text.split_once(':').ok_or_else(|| {
        PruneError::Setting(format!("'{text}': a hand-made method needs its keep ratio, as in {text}:0.7"))
    })?;
    let method: Method = name.parse()?;
    let ratio = |text: &str| {
        let bad =
            |_| PruneError::Setting(format!("'{text}' is not a keep ratio; write for example {name}:0.7"));
        text.trim().parse::<f64>().map_err(bad)
    };
    let given = ratios.split(',').map(ratio).collect::<Result<Vec<f64>>>()?;
    let stages = spec.default_stages();
    let keep = keep_shares(&given, stages.len())?;
    hand_made(method, spec, &stages, &keep)?;
    Ok((method, stages, keep))
}

/// Whether `method` can act at `stages`: attention to rank by must have run.
pub fn can_act(method: Method, stages: &[usize]) -> bool {
    method != Method::ClsAttention || stages.first() != Some(&0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_ratio_is_a_power_for_each_stage() {
        let shares = keep_shares(&[0.7], 3).unwrap();
        assert!((shares[2] - 0.343).abs() < 1e-12);
        assert_eq!(keep_shares(&[0.9, 0.9, 0.1], 3).unwrap(), [0.9, 0.9, 0.1]);
        for bad in [&[0.7, 0.5][..], &[0.5, 0.7, 0.1], &[1.2], &[f64::NAN], &[-0.1]] {
            assert!(keep_shares(bad, 3).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn hand_made_methods_are_read_with_their_ratio() {
        let spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap();
        let (method, stages, keep) = parse_hand_made("cls-attention:0.7", &spec).unwrap();
        assert_eq!((method, stages), (Method::ClsAttention, vec![3, 6, 9]));
        assert!((keep[2] - 0.343).abs() < 1e-12);
        assert_eq!(parse_hand_made("tome:0.9,0.8,0.7", &spec).unwrap().2, [0.9, 0.8, 0.7]);
        for (text, word) in [
            ("evit", "evit:0.7"),
            ("evit:x", "'x' is not a keep ratio"),
            ("evit:0.7,0.5", "2 keep ratios for 3 stages"),
            ("policy:0.7", "not a hand-made method"),
            ("best:0.7", "unknown method 'best'"),
        ] {
            let error = parse_hand_made(text, &spec).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
