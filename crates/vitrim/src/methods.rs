//! The methods that are compared, and how they are named and set up.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use vitrim_hub::{Kind, local};
use vitrim_prune::policy::Departure;
use vitrim_prune::{
    AtsPruner, ClsAttentionPruner, EvitPruner, KeepProfile, Policy, Pruner, RandomPruner, ReadOut,
    SimilarityPruner, TomePruner,
};
use vitrim_train::TrainConfig;
use vitrim_train::perceptron::orthogonal_init;
use vitrim_vit::VitSpec;

use crate::error::{Result, VitrimError};
use crate::loaded::Loaded;

/// Seed of the random method and of policies with random weights.
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
    type Err = VitrimError;

    fn from_str(name: &str) -> Result<Self> {
        let known = Method::ALL.into_iter().find(|method| method.to_string() == name);
        known.ok_or_else(|| {
            let names = Method::ALL.map(|method| method.to_string()).join(", ");
            VitrimError::Setting(format!("unknown method '{name}'; use one of {names}"))
        })
    }
}

/// Shares of N0 that stay after each of `stages` stages: `[0.7]` means 0.7^k, else one a stage.
///
/// # Errors
/// [`VitrimError::Setting`] if the number of shares is neither 1 nor that of the stages, or they rise or
/// leave 0 to 1.
pub fn keep_shares(given: &[f64], stages: usize) -> Result<Vec<f64>> {
    let shares: Vec<f64> = match given {
        [ratio] => (1..=stages).map(|k| ratio.powi(k as i32)).collect(),
        shares if shares.len() == stages => shares.to_vec(),
        shares => {
            let count = shares.len();
            return Err(VitrimError::Setting(format!(
                "{count} keep ratios for {stages} stages; give one for each, or a single one"
            )));
        }
    };
    if shares.iter().any(|s| !(0.0..=1.0).contains(s)) || shares.windows(2).any(|w| w[0] < w[1]) {
        return Err(VitrimError::Setting(format!(
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
        Method::Policy => Err(VitrimError::Setting("the policy is not a hand-made method".into())),
    }
}

/// Reads a hand-made method with its keep ratio, `cls-attention:0.7` (or one a stage, as [`keep_shares`] has it),
/// for the backbone's default stages: the method, the stages and the shares that [`hand_made`] takes.
///
/// # Errors
/// [`VitrimError::Setting`] for anything else.
pub fn parse_hand_made(text: &str, spec: &VitSpec) -> Result<(Method, Vec<usize>, Vec<f64>)> {
    let (name, ratios) = text.split_once(':').ok_or_else(|| {
        VitrimError::Setting(format!("'{text}': a hand-made method needs its keep ratio, as in {text}:0.7"))
    })?;
    let method: Method = name.parse()?;
    let ratio = |text: &str| {
        let bad =
            |_| VitrimError::Setting(format!("'{text}' is not a keep ratio; write for example {name}:0.7"));
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

/// A policy of the `drop` preset's geometry with random weights, which keeps `keep` of N0 after each of
/// `stages`: its decisions mean nothing, its cost is that of a trained one.
pub fn random_policy(loaded: &Loaded, stages: &[usize], keep: &[f64]) -> Policy {
    let mut config = TrainConfig { stages: stages.to_vec(), ..TrainConfig::drop_preset() };
    // No attention has run before block 0.
    config.actor.observation.cls_attention &= can_act(Method::ClsAttention, stages);
    let actor = config.actor_spec(&loaded.spec);
    Policy {
        backbone: loaded.id.clone(),
        stages: stages.to_vec(),
        departure: config.departure,
        observation: config.actor.observation,
        weights: orthogonal_init(&actor, SEED, 1.0, &[0.0, 0.0]),
        actor,
        read_out: ReadOut::TopR { keep: keep.to_vec() },
        calibration: None,
    }
}

/// Reads the policy in `folder`, which may be an `hf://` reference, and checks that `loaded` can run it.
///
/// # Errors
/// If it cannot be fetched, is damaged, impossible, or was trained for another backbone.
pub fn open_policy(folder: &Path, loaded: &Loaded) -> Result<Policy> {
    let policy = Policy::load(&local(folder, Kind::Policy)?)?;
    policy.check_backbone(folder, &loaded.id)?;
    let bad = |reason: String| VitrimError::Policy { path: folder.join("policy.json"), reason };
    let (stages, depth, actor) = (&policy.stages, loaded.spec.depth, &policy.actor);
    if stages.is_empty() || stages.windows(2).any(|w| w[0] >= w[1]) || stages.iter().any(|l| *l >= depth) {
        return Err(bad(format!(
            "stages {stages:?} do not ascend below {depth} blocks; train the policy again"
        )));
    }
    let merges = policy.departure == Departure::Merge;
    let pair = policy.observation.pair || policy.observation.pair_tokens;
    if merges && stages.contains(&(depth - 1)) || pair && !merges {
        return Err(bad(
            "its stages do not fit what becomes of those that leave; train the policy again".into()
        ));
    }
    let one_hot = |observed: bool, width: usize, wanted: usize| width == if observed { wanted } else { 0 };
    if !one_hot(policy.observation.position, actor.positions, loaded.spec.num_patches())
        || !one_hot(policy.observation.stage, actor.stages, stages.len())
        || actor.scalars != policy.observation.scalars()
    {
        return Err(bad("the actor does not fit what its agents observe; train the policy again".into()));
    }
    check_read_out(&policy.read_out, stages.len()).map_err(|error| bad(error.to_string()))?;
    Ok(policy)
}

/// Reads `sample`, `sample=SEED`, `threshold=0.6` or `top-r=0.7,0.49,0.343` (or one ratio, as
/// [`keep_shares`] has it).
///
/// # Errors
/// [`VitrimError::Setting`] for anything else.
pub fn parse_read_out(text: &str, stages: usize) -> Result<ReadOut> {
    let unknown = || {
        VitrimError::Setting(format!(
            "--read-out {text}: not a read-out; use sample, threshold=0.6 or top-r=0.7,0.49,0.343"
        ))
    };
    let (kind, value) = text.split_once('=').unwrap_or((text, ""));
    let read_out = match kind {
        "sample" if value.is_empty() => ReadOut::Sample { seed: SEED },
        "sample" => ReadOut::Sample { seed: value.parse().map_err(|_| unknown())? },
        "threshold" => ReadOut::Threshold { threshold: value.parse().map_err(|_| unknown())? },
        "top-r" => {
            let given: Vec<f64> = value
                .split(',')
                .map(|v| v.trim().parse())
                .collect::<Result<_, _>>()
                .map_err(|_| unknown())?;
            ReadOut::TopR { keep: keep_shares(&given, stages)? }
        }
        _ => return Err(unknown()),
    };
    check_read_out(&read_out, stages)?;
    Ok(read_out)
}

/// Reads as [`parse_read_out`] does.
pub fn read_out_name(read_out: &ReadOut) -> String {
    match read_out {
        ReadOut::Sample { .. } => "sample".to_owned(),
        ReadOut::Threshold { threshold } => format!("threshold={threshold}"),
        ReadOut::TopR { keep } => {
            let keep: Vec<String> = keep.iter().map(|k| format!("{k:.3}")).collect();
            format!("top-r={}", keep.join(","))
        }
    }
}

fn check_read_out(read_out: &ReadOut, stages: usize) -> Result<()> {
    match read_out {
        ReadOut::Sample { .. } => Ok(()),
        ReadOut::Threshold { threshold } if (0.0..=1.0).contains(threshold) => Ok(()),
        ReadOut::Threshold { threshold } => {
            Err(VitrimError::Setting(format!("threshold {threshold} must lie between 0 and 1")))
        }
        ReadOut::TopR { keep } if keep.len() != stages => {
            Err(VitrimError::Setting(format!("top-r has {} ratios for {stages} stages", keep.len())))
        }
        ReadOut::TopR { keep } => keep_shares(keep, stages).map(|_| ()),
    }
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

    #[test]
    fn read_outs_are_read_and_written() {
        for text in ["sample", "threshold=0.6", "top-r=0.700,0.490,0.343"] {
            assert_eq!(read_out_name(&parse_read_out(text, 3).unwrap()), text);
        }
        assert_eq!(parse_read_out("sample=7", 3).unwrap(), ReadOut::Sample { seed: 7 });
        for text in ["", "threshold", "threshold=2", "top-r=0.7,0.5", "top-k=3", "sample=x"] {
            let error = parse_read_out(text, 3).unwrap_err().to_string();
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
