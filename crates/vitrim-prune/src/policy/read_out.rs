//! How keep probabilities become decisions.

use std::fmt;

use serde::{Deserialize, Serialize};
use vitrim_random::uniform;
use vitrim_vit::{View, VitSpec};

use crate::handmade::keep_shares;
use crate::pruner::{ImageKey, PruneError, Result};
use crate::ranking::rank;

/// A deterministic or random rule from p_keep to keep or prune.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ReadOut {
    /// Keep with probability p_keep.
    Sample {
        /// Decisions are keyed by (seed, image, stage, token).
        seed: u64,
    },
    /// Keep where p_keep > `threshold`.
    Threshold {
        /// Between 0 and 1, both included.
        threshold: f64,
    },
    /// Keep the highest p_keep, a fixed share of N0 at each stage.
    TopR {
        /// Shares of N0, `[K]`.
        keep: Vec<f64>,
    },
}

/// The scored tokens of one image at a stage.
pub(crate) struct Scored<'a> {
    pub stage: usize,
    pub view: &'a View<'a>,
    /// Index of the image in the view.
    pub b: usize,
    pub key: ImageKey,
    /// Logits of p_keep, `[t]`: prefix rows are ignored, infinite ones always stay.
    pub logits: &'a [f32],
}

/// Seed of [`ReadOut::Sample`] if none is given.
const SEED: u64 = 0;

impl ReadOut {
    /// Reads `sample`, `sample=SEED`, `threshold=0.6` or `top-r=0.7,0.49,0.343` (or one ratio, see [`keep_shares`])
    /// for a policy of `stages` stages.
    ///
    /// # Errors
    /// [`PruneError::Setting`] for anything else.
    pub fn parse(text: &str, stages: usize) -> Result<Self> {
        let unknown = || {
            PruneError::Setting(format!(
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
        read_out.check(stages)?;
        Ok(read_out)
    }

    /// Checks that the read-out fits a policy of `stages` stages.
    ///
    /// # Errors
    /// [`PruneError::Setting`] if a threshold or a share lies outside 0 to 1, or the shares do not fit the stages.
    pub(crate) fn check(&self, stages: usize) -> Result<()> {
        match self {
            ReadOut::Sample { .. } => Ok(()),
            ReadOut::Threshold { threshold } if (0.0..=1.0).contains(threshold) => Ok(()),
            ReadOut::Threshold { threshold } => {
                Err(PruneError::Setting(format!("threshold {threshold} must lie between 0 and 1")))
            }
            ReadOut::TopR { keep } if keep.len() != stages => {
                Err(PruneError::Setting(format!("top-r has {} ratios for {stages} stages", keep.len())))
            }
            ReadOut::TopR { keep } => keep_shares(keep, stages).map(|_| ()),
        }
    }

    /// Writes which tokens stay into `kept: [t]`.
    pub(crate) fn keep(&self, spec: &VitSpec, image: &Scored<'_>, kept: &mut [bool]) {
        let &Scored { stage, view, b, key, logits } = image;
        let (prefix, at_least) = (view.prefix, spec.min_patch_tokens());
        kept.fill(true);
        match self {
            ReadOut::Sample { seed } => {
                let first = view.rows(b).start;
                for i in prefix..kept.len() {
                    let token = view.origins[first + i].grid().unwrap_or(usize::MAX) as u64;
                    let drawn = uniform(&[*seed, key, stage as u64, token]);
                    kept[i] = drawn < keep_probability(logits[i]);
                }
            }
            ReadOut::Threshold { threshold } => {
                for (kept, l) in kept.iter_mut().zip(logits).skip(prefix) {
                    *kept = *l == f32::INFINITY || keep_probability(*l) > *threshold;
                }
            }
            ReadOut::TopR { keep } => {
                let count = (keep[stage] * view.num_patches(b) as f64).round() as usize;
                let behind = rank(prefix..logits.len(), logits).into_iter().skip(count.max(at_least));
                behind.for_each(|i| kept[i] = logits[i] == f32::INFINITY);
            }
        }
        // If the network needs more tokens, those with the highest p_keep stay.
        let staying = kept[prefix..].iter().filter(|kept| **kept).count();
        for _ in staying..at_least {
            let leaving = (prefix..kept.len()).filter(|&i| !kept[i]);
            if let Some(i) = leaving.max_by(|&i, &j| logits[i].total_cmp(&logits[j]).then(j.cmp(&i))) {
                kept[i] = true;
            }
        }
    }
}

/// The text that [`ReadOut::parse`] reads, without the seed of a sample.
impl fmt::Display for ReadOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadOut::Sample { .. } => f.write_str("sample"),
            ReadOut::Threshold { threshold } => write!(f, "threshold={threshold}"),
            ReadOut::TopR { keep } => {
                let keep: Vec<String> = keep.iter().map(|k| format!("{k:.3}")).collect();
                write!(f, "top-r={}", keep.join(","))
            }
        }
    }
}

/// p_keep from the difference of the two logits.
pub fn keep_probability(logit: f32) -> f64 {
    1.0 / (1.0 + f64::from(-logit).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn read_outs_are_read_and_written() {
        for text in ["sample", "threshold=0.6", "top-r=0.700,0.490,0.343"] {
            assert_eq!(ReadOut::parse(text, 3).unwrap().to_string(), text);
        }
        assert_eq!(ReadOut::parse("sample=7", 3).unwrap(), ReadOut::Sample { seed: 7 });
        for text in ["", "threshold", "threshold=2", "top-r=0.7,0.5", "top-k=3", "sample=x"] {
            let error = ReadOut::parse(text, 3).unwrap_err().to_string();
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
