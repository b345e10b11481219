//! The methods that are compared: how they are named, what they can do, and how they are made.

use std::fmt;
use std::str::FromStr;

use vitrim_vit::{CpuBackbone, PixelBatch, VitSpec};

use super::fit::{Fit, FitPoint};
use super::schedule::Schedule;
use super::{
    KeepProfile, atc, ats, cls_attention, diffrate, dtome, evit, mctf, pitome, random, similarity, tofu, tome,
};
use crate::pruner::{PruneError, Pruner, Result, Tell};

/// The hand-made methods, in the order of tables.
static HAND_MADE: [HandMade; 17] = [
    random::METHOD,
    cls_attention::METHOD,
    evit::METHOD,
    ats::METHOD,
    similarity::METHOD,
    tome::METHOD,
    tome::PLAIN,
    dtome::METHOD,
    pitome::METHOD,
    pitome::PLAIN,
    tofu::METHOD,
    atc::AVERAGE,
    atc::SINGLE,
    atc::COMPLETE,
    mctf::METHOD,
    diffrate::METHOD,
    diffrate::SEARCHED,
];

/// A hand-made method, as its file describes it.
pub struct HandMade {
    /// Name of the method: lower case, words joined by `-`.
    pub(super) name: &'static str,
    /// What the method does, as the rest of a sentence that begins with the name.
    pub(super) about: &'static str,
    /// The first block that can be a stage: 1 for methods that need the attention of an earlier block.
    pub(super) first_block: usize,
    /// Whether the method keeps exactly as many patch tokens as a [`KeepProfile`] says, so that it can be given the
    /// budgets of another pruner.
    pub(super) keeps_budgets: bool,
    /// Where the method acts.
    pub(super) acts: Acts,
}

/// Where a hand-made method acts, and how it is constructed.
pub(super) enum Acts {
    /// At the stages of a profile.
    AtStages(fn(KeepProfile) -> Box<dyn Pruner>),
    /// In every block, where it removes given numbers of tokens.
    InEveryBlock {
        /// How tokens are distributed over the blocks.
        schedule: Schedule,
        /// Removes the given number of tokens in each block, `[L]`.
        make: fn(&VitSpec, Vec<usize>) -> Box<dyn Pruner>,
    },
    /// In every block, by numbers that are fitted to the backbone.
    Fitted {
        /// The points that its authors published for the backbone, if they did.
        published: fn(&VitSpec) -> Option<Vec<FitPoint>>,
        /// The number of images that `on_images` looks at, unless there are fewer.
        images: usize,
        /// The points that are found on unlabelled images, of which there is at least one.
        on_images: fn(&CpuBackbone, PixelBatch<'_>, Tell<'_>) -> Result<Vec<FitPoint>>,
        /// How many numbers a point has for a backbone of so many blocks.
        numbers: fn(usize) -> usize,
        /// Makes a pruner of a point's numbers.
        make: fn(&VitSpec, &[f64]) -> Box<dyn Pruner>,
    },
}

/// A pruning method, identified by its name.
#[derive(Clone, Copy)]
pub enum Method {
    /// The learned policy.
    Policy,
    /// A method that is not trained.
    HandMade(&'static HandMade),
}

impl Method {
    /// All methods, in the order of tables: the policy, then the hand-made ones.
    pub fn all() -> impl Iterator<Item = Method> {
        std::iter::once(Method::Policy).chain(HAND_MADE.iter().map(Method::HandMade))
    }

    /// Name of the method.
    pub fn name(self) -> &'static str {
        match self {
            Method::Policy => "policy",
            Method::HandMade(method) => method.name,
        }
    }

    /// What the method does, as the rest of a sentence that begins with the name.
    pub fn about(self) -> &'static str {
        match self {
            Method::Policy => "keeps what a trained policy says",
            Method::HandMade(method) => method.about,
        }
    }

    /// Whether the method can act at `stages`: a method that ranks by attention needs an earlier block.
    pub fn can_act(self, stages: &[usize]) -> bool {
        match self {
            Method::Policy => true,
            Method::HandMade(method) => stages.first().is_none_or(|first| *first >= method.first_block),
        }
    }

    /// Whether the method keeps exactly as many patch tokens of each image as a profile says.
    pub fn keeps_budgets(self) -> bool {
        matches!(self, Method::HandMade(method) if method.keeps_budgets)
    }

    /// Whether the method removes given numbers of tokens in every block ([`Method::merging`]), and does not act at stages.
    pub fn in_every_block(self) -> bool {
        matches!(self, Method::HandMade(HandMade { acts: Acts::InEveryBlock { .. }, .. }))
    }

    /// Whether the method has numbers that are fitted to the backbone ([`Method::fit`]).
    pub fn is_fitted(self) -> bool {
        matches!(self, Method::HandMade(HandMade { acts: Acts::Fitted { .. }, .. }))
    }

    /// Whether the method's numbers for `spec` must be found on images.
    pub fn needs_images(self, spec: &VitSpec) -> bool {
        match self {
            Method::HandMade(HandMade { acts: Acts::Fitted { published, .. }, .. }) => {
                published(spec).is_none()
            }
            _ => false,
        }
    }

    /// The number of images that a fit looks at, unless there are fewer; 0 if the method is not fitted.
    pub fn fit_images(self) -> usize {
        match self {
            Method::HandMade(HandMade { acts: Acts::Fitted { images, .. }, .. }) => *images,
            _ => 0,
        }
    }

    /// The method's numbers for `model`: the published ones, else those that are found on the unlabelled images `pixels`.
    ///
    /// # Errors
    /// If the method is not fitted, there are no images, or the pixels do not fit the backbone; or errors of `tell`.
    pub fn fit(self, model: &CpuBackbone, pixels: PixelBatch<'_>, tell: Tell<'_>) -> Result<Fit> {
        let Acts::Fitted { published, on_images, make, .. } = self.hand_made()?.acts else {
            return Err(PruneError::Setting(format!("{self} is not fitted to images")));
        };
        let spec = vitrim_vit::Backbone::spec(model);
        let points = match published(spec) {
            Some(points) => points,
            None if pixels.batch == 0 => {
                return Err(PruneError::Setting(format!("{self} is fitted to images, and there are none")));
            }
            None => on_images(model, pixels, tell)?,
        };
        Ok(Fit::new(spec, points, make))
    }

    /// How many numbers each point of the method's fit has, for a backbone of `depth` blocks; `None` if it is not fitted.
    pub(crate) fn fitted_numbers(self, depth: usize) -> Option<usize> {
        match self {
            Method::HandMade(HandMade { acts: Acts::Fitted { numbers, .. }, .. }) => Some(numbers(depth)),
            _ => None,
        }
    }

    /// The method at the setting that costs about `macs` per image: in every block, or at the default stages; a fitted one
    /// by `fitted`, the points of its fit to the backbone.
    ///
    /// # Errors
    /// If the method cannot act at the default stages, a fitted one has no points, or it is the policy.
    pub fn at_cost(self, spec: &VitSpec, macs: u64, fitted: &[FitPoint]) -> Result<Box<dyn Pruner>> {
        match self.hand_made()?.acts {
            Acts::AtStages(_) => {
                self.at_profile(spec, KeepProfile::at_cost(spec, &spec.default_stages(), macs)?)
            }
            Acts::InEveryBlock { schedule, make } => Ok(schedule.at_cost(spec, macs, make)),
            Acts::Fitted { .. } if fitted.is_empty() => Err(self.unfitted()),
            Acts::Fitted { make, .. } => Ok(Fit::new(spec, fitted.to_vec(), make).at_cost(macs)),
        }
    }

    /// MACs of an image at the cheapest setting that [`Method::at_cost`] makes; the scoring of a method that acts at stages
    /// is left out.
    ///
    /// # Errors
    /// As [`Method::at_cost`].
    pub fn least_macs(self, spec: &VitSpec, fitted: &[FitPoint]) -> Result<f64> {
        match self.hand_made()?.acts {
            Acts::AtStages(_) => {
                Ok(KeepProfile::at_cost(spec, &spec.default_stages(), 0)?.macs(spec, 0) as f64)
            }
            Acts::InEveryBlock { schedule, make } => Ok(schedule.least_macs(spec, make) as f64),
            Acts::Fitted { .. } => {
                let cheapest = fitted.iter().map(|point| point.macs).min_by(f64::total_cmp);
                cheapest.ok_or_else(|| self.unfitted())
            }
        }
    }

    /// Said where the method is needed without a fit.
    fn unfitted(self) -> PruneError {
        PruneError::Setting(format!(
            "{self} must be fitted to images, which are not at hand here; `vitrim calibrate --policy {self} --model MODEL \
             --data IMAGES --out runs/{self}` fits it and makes a policy folder"
        ))
    }

    /// The method at a keep profile: `keep[k]` of N0 before block `stages[k]`.
    ///
    /// # Errors
    /// As [`Method::at_profile`], and if `stages` and `keep` make no valid profile.
    pub fn at_shares(self, spec: &VitSpec, stages: &[usize], keep: &[f64]) -> Result<Box<dyn Pruner>> {
        self.at_profile(spec, KeepProfile::new(spec, stages, keep)?)
    }

    /// The method at `profile`; a method that acts in every block gets the schedule that costs the same.
    ///
    /// # Errors
    /// If the method cannot act at the stages of `profile`, needs images to be fitted to, or is the policy, which has no
    /// profile.
    pub fn at_profile(self, spec: &VitSpec, profile: KeepProfile) -> Result<Box<dyn Pruner>> {
        let method = self.hand_made()?;
        if !self.can_act(&profile.stages) {
            let first = method.first_block;
            return Err(PruneError::KeepProfile(format!("{self} cannot act before block {first}")));
        }
        Ok(match method.acts {
            Acts::AtStages(make) => make(profile),
            Acts::InEveryBlock { schedule, make } => schedule.at_cost(spec, profile.macs(spec, 0), make),
            Acts::Fitted { published, .. } => {
                let points = published(spec).ok_or_else(|| self.unfitted())?;
                self.at_cost(spec, profile.macs(spec, 0), &points)?
            }
        })
    }

    /// The method, removing `r` tokens per block, which it distributes over the blocks in its own way.
    ///
    /// # Errors
    /// If the method does not act in every block.
    pub fn merging(self, spec: &VitSpec, r: usize) -> Result<Box<dyn Pruner>> {
        match self.hand_made()?.acts {
            Acts::InEveryBlock { schedule, make } => {
                Ok(make(spec, schedule.removed(spec, r.saturating_mul(spec.depth))))
            }
            Acts::AtStages(_) => {
                Err(PruneError::Setting(format!("{self} acts at stages, not in every block")))
            }
            Acts::Fitted { .. } => {
                Err(PruneError::Setting(format!("{self} is fitted to a cost, and takes no number of tokens")))
            }
        }
    }

    fn hand_made(self) -> Result<&'static HandMade> {
        match self {
            Method::Policy => Err(PruneError::Setting("the policy is not a hand-made method".into())),
            Method::HandMade(method) => Ok(method),
        }
    }
}

impl PartialEq for Method {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for Method {}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Method {
    type Err = PruneError;

    fn from_str(name: &str) -> Result<Self> {
        Method::all().find(|method| method.name() == name).ok_or_else(|| {
            let names: Vec<&str> = Method::all().map(Method::name).collect();
            PruneError::Setting(format!("unknown method '{name}'; use one of {}", names.join(", ")))
        })
    }
}

/// Shares of N0 that stay after each of `stages` stages: `[0.7]` means 0.7^k, otherwise one share per stage.
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

/// Reads a hand-made method with its keep ratio, `cls-attention:0.7` (or one ratio per stage, see [`keep_shares`]),
/// for the backbone's default stages: the method, the stages and the shares that [`Method::at_shares`] takes.
///
/// # Errors
/// [`PruneError::Setting`] for anything else.
pub fn parse_hand_made(text: &str, spec: &VitSpec) -> Result<(Method, Vec<usize>, Vec<f64>)> {
    let name = text.split(':').next().unwrap_or(text);
    let method: Method = name.parse()?;
    if method.needs_images(spec) {
        return Err(method.unfitted());
    }
    let (_, ratios) = text.split_once(':').ok_or_else(|| {
        PruneError::Setting(format!("'{text}': a hand-made method needs its keep ratio, as in {text}:0.7"))
    })?;
    let ratio = |text: &str| {
        let bad =
            |_| PruneError::Setting(format!("'{text}' is not a keep ratio; write for example {name}:0.7"));
        text.trim().parse::<f64>().map_err(bad)
    };
    let given = ratios.split(',').map(ratio).collect::<Result<Vec<f64>>>()?;
    let stages = spec.default_stages();
    let keep = keep_shares(&given, stages.len())?;
    method.at_shares(spec, &stages, &keep)?;
    Ok((method, stages, keep))
}

#[cfg(test)]
mod tests {
    use vitrim_vit::{CpuBackbone, PixelBatch, Tensors, cost};

    use super::*;
    use crate::run::run;

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
        assert_eq!((method.name(), stages), ("cls-attention", vec![3, 6, 9]));
        assert!((keep[2] - 0.343).abs() < 1e-12);
        assert_eq!(parse_hand_made("tome:0.9,0.8,0.7", &spec).unwrap().2, [0.9, 0.8, 0.7]);
        for (text, word) in [
            ("evit", "evit:0.7"),
            ("evit:x", "'x' is not a keep ratio"),
            ("evit:0.7,0.5", "2 keep ratios for 3 stages"),
            ("policy:0.7", "not a hand-made method"),
            ("best:0.7", "unknown method 'best'"),
            ("dtome", "vitrim calibrate --policy dtome"),
            ("dtome:0.7", "--out runs/dtome"),
        ] {
            let error = parse_hand_made(text, &spec).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn names_are_found_and_name_one_method_each() {
        let all: Vec<Method> = Method::all().collect();
        for (i, method) in all.iter().enumerate() {
            assert_eq!(method.name().parse::<Method>().unwrap(), *method);
            assert!(all[..i].iter().all(|before| before != method), "{method} twice");
            assert!(!method.about().is_empty() && !method.name().contains([':', ' ', ',']), "{method}");
        }
    }

    /// Each method behaves as its entry in the list says.
    #[test]
    fn methods_are_what_they_say() {
        let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([64, 64]);
        (spec.dim, spec.depth, spec.num_classes) = (24, 4, 5);
        (spec.attention.heads, spec.mlp.hidden) = (3, 48);
        let model = CpuBackbone::new(&spec, &Tensors::random(&spec, 1)).unwrap();
        let values: Vec<f32> = (0..2 * 3 * 64 * 64).map(|i| (i % 97) as f32 / 97.0).collect();
        let pixels = PixelBatch::new(&values, 2);
        for method in Method::all().filter(|method| *method != Method::Policy) {
            for stages in [[0, 2], [1, 3]] {
                let profile = KeepProfile::new(&spec, &stages, &[0.75, 0.25]).unwrap();
                let made = match method.needs_images(&spec) {
                    true => {
                        let refusal = method.at_profile(&spec, profile.clone()).err().unwrap().to_string();
                        assert!(refusal.contains("must be fitted to images"), "{refusal}");
                        Ok(method
                            .fit(&model, pixels, &mut |_, _| Ok(()))
                            .unwrap()
                            .at_cost(profile.macs(&spec, 0)))
                    }
                    false => method.at_profile(&spec, profile),
                };
                assert_eq!(made.is_ok(), method.can_act(&stages), "{method} at {stages:?}");
                let Ok(pruner) = made else { continue };
                let out = run(&model, pruner.as_ref(), pixels, &[3, 4]).unwrap();
                assert!(out.macs[0] < cost::dense_macs(&spec), "{method}");
                let left = |k: usize| out.stages[k].patch_tokens(1);
                assert!(!method.keeps_budgets() || (left(0), left(1)) == (12, 4), "{method}");
            }
            assert_eq!(method.merging(&spec, 2).is_ok(), method.in_every_block(), "{method}");
            if let Ok(pruner) = method.merging(&spec, 2) {
                let out = run(&model, pruner.as_ref(), pixels, &[3, 4]).unwrap();
                let left: Vec<usize> = out.stages.iter().map(|stage| stage.patch_tokens(0)).collect();
                let last = left[left.len() - 1];
                assert!(left.windows(2).all(|w| w[0] >= w[1]), "{method}: {left:?}");
                // What leaves in the last block changes no answer, and is left out.
                assert!((9..=12).contains(&last), "about 2 per block leave; {method}: {left:?}");
                assert!(!method.name().starts_with("tome") || left == [14, 12, 10], "{method}: {left:?}");
            }
        }
        assert!(Method::Policy.merging(&spec, 2).is_err());
        assert!(Method::Policy.fit(&model, pixels, &mut |_, _| Ok(())).is_err());
        let none = PixelBatch::new(&[], 0);
        for method in Method::all().filter(|method| method.needs_images(&spec)) {
            let refusal = method.fit(&model, none, &mut |_, _| Ok(())).err().unwrap().to_string();
            assert!(refusal.contains("there are none"), "{refusal}");
            let (mut steps, enough) = (0, || PruneError::Setting("enough".into()));
            let stopped = method.fit(&model, pixels, &mut |_, _| {
                steps += 1;
                Err(enough())
            });
            assert_eq!((stopped.err().unwrap().to_string(), steps), (enough().to_string(), 1), "{method}");
        }
    }
}
