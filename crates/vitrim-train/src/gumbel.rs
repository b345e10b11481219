//! A control: the same actor, trained by gradients through the backbone instead of by reinforcement.
//!
//! Each decision is a straight-through Gumbel gate (Jang et al., 2017; Maddison et al., 2017; Bengio et al., 2013):
//! sampled as in a rollout, 0 or 1 in the forward pass, with the gradient of its relaxation in the backward pass.
//! [`Gated`] applies the gates in the frozen backbone. The loss is the default preset's objective, or DynamicViT's
//! (Rao et al., 2021).

use std::ops::Range;

use burn::optim::GradientsParams;
use burn::tensor::activation::sigmoid;
use burn::tensor::{FloatDType, Tensor, TensorData};
use vitrim_prune::policy::contexts;
use vitrim_prune::{ImageKey, LearnedPruner, Pruner};
use vitrim_random::uniform;
use vitrim_ranks::{Damaged, Wire};
use vitrim_vit::{Output, PixelBatch, Site, VitSpec, cost};

use crate::burn_vit::{BurnVit, Gated};
use crate::device::host;
use crate::division::{Division, Place};
use crate::error::Result;
use crate::experience::Experience;
use crate::perceptron::{Inputs, Perceptron};
use crate::rewards::divergences_of_logits;

/// Temperature of the gates' relaxation: 1, as in DynamicViT.
const RELAXATION: f64 = 1.0;
/// DynamicViT's weight of the keep ratio loss.
const RATIO_WEIGHT: f64 = 2.0;

/// The loss to minimise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Objective {
    /// c + beta g(D) / g_ref, mean over the images: minus the default preset's J.
    Cost {
        /// beta, the price of divergence.
        beta: f64,
        /// g_ref, the reference of g(D).
        reference: f64,
        /// s of g(D) = ln(1 + D / s), nats; 0 for g(D) = D.
        softening: f64,
    },
    /// D plus twice the squared distance of the batch's mean keep ratio from rho^(k+1), mean over stages.
    Ratio {
        /// rho, the target keep ratio.
        keep_ratio: f64,
    },
}

/// I images, and the dense model's logits.
#[derive(Clone, Copy)]
pub struct GateBatch<'a> {
    /// Pixels, `[I, 3, H, W]`.
    pub pixels: PixelBatch<'a>,
    /// Keys of the images, `[I]`.
    pub keys: &'a [ImageKey],
    /// Logits of the dense model, `[I, C]`.
    pub dense: &'a Output,
    /// Where they are in the batch of all ranks.
    pub place: Place,
}

/// One pass of a batch through the gates, and the gradient of the loss.
pub struct GateDescent {
    /// Gradient of the loss (mean over the images) for the actor's weights; `None` if no agent had a choice.
    pub gradients: Option<GradientsParams>,
    /// The fidelity part of the loss; `efficiency` is the part for cost or keep ratio.
    pub fidelity: f64,
    /// The part of the loss for cost or keep ratio.
    pub efficiency: f64,
    /// Survivors of each stage over all images, `[K]`.
    pub survivors: Vec<usize>,
    /// Mean number of token-layers of patch tokens, as a share of the dense model's.
    pub cost: f64,
    /// Mean D.
    pub divergence: f64,
    /// Predicted classes of the batch.
    pub predictions: Vec<usize>,
}

impl GateDescent {
    fn empty() -> Self {
        GateDescent {
            gradients: None,
            fidelity: 0.0,
            efficiency: 0.0,
            survivors: Vec::new(),
            cost: 0.0,
            divergence: 0.0,
            predictions: Vec::new(),
        }
    }
}

/// Without the gradients.
impl Wire for GateDescent {
    fn put(&self, into: &mut Vec<u8>) {
        [self.fidelity, self.efficiency, self.cost, self.divergence].iter().for_each(|value| value.put(into));
        self.survivors.put(into);
        self.predictions.put(into);
    }

    fn take(from: &mut &[u8]) -> std::result::Result<Self, Damaged> {
        Ok(GateDescent {
            gradients: None,
            fidelity: f64::take(from)?,
            efficiency: f64::take(from)?,
            cost: f64::take(from)?,
            divergence: f64::take(from)?,
            survivors: Vec::take(from)?,
            predictions: Vec::take(from)?,
        })
    }
}

/// The gradient of `objective` for `actor`, with the agents of `policy`, on `batch`. Actions are keyed by (`key`..,
/// image, stage, token), as in rollouts. The weights of `vit` must be without gradients, on a device with autodiff.
///
/// # Errors
/// Errors of the backbone, or of another rank.
pub fn descend(
    vit: &BurnVit,
    actor: &Perceptron,
    policy: &LearnedPruner,
    batch: GateBatch<'_>,
    objective: Objective,
    key: [u64; 3],
    division: &Division,
) -> Result<GateDescent> {
    let count = batch.place.whole;
    let (gradients, parts) = division.sum(actor, count, FloatDType::F32, |actor, images| {
        let share = images.len() as f64 / count as f64;
        let own = batch.place.among_own(images);
        let mut part = part(vit, actor, policy, batch, own, objective, key, share)?;
        Ok((part.gradients.take(), (share, part)))
    })?;
    let mut whole = GateDescent { gradients, ..GateDescent::empty() };
    for (share, part) in parts {
        whole.fidelity += share * part.fidelity;
        whole.efficiency += share * part.efficiency;
        whole.cost += share * part.cost;
        whole.divergence += share * part.divergence;
        whole.survivors.resize(part.survivors.len(), 0);
        whole.survivors.iter_mut().zip(part.survivors).for_each(|(sum, more)| *sum += more);
        whole.predictions.extend(part.predictions);
    }
    Ok(whole)
}

/// Processes the images of one part, whose gradients have weight `share`.
#[expect(clippy::too_many_arguments, reason = "a part of one call")]
fn part(
    vit: &BurnVit,
    actor: &Perceptron,
    policy: &LearnedPruner,
    batch: GateBatch<'_>,
    images: Range<usize>,
    objective: Objective,
    key: [u64; 3],
    share: f64,
) -> Result<GateDescent> {
    let (spec, count) = (vit.spec(), images.len());
    let device = vit.device();
    let per_image = batch.pixels.data.len() / batch.pixels.batch;
    let pixels = &batch.pixels.data[images.start * per_image..images.end * per_image];
    let keys = &batch.keys[images.clone()];
    let mut gated = Gated::open(vit, pixels, count);
    let mut alive = Tensor::<1>::ones([count * spec.num_tokens()], &device);
    let sites = policy.sites(spec);
    let (mut survivors, mut shares) = (Vec::with_capacity(sites.len()), Vec::with_capacity(sites.len()));
    let mut acted = false;
    for (stage, &(site, taps)) in sites.iter().enumerate() {
        gated.advance(site, taps)?;
        if let Some(gates) = act(&mut gated, actor, policy, stage, keys, key)? {
            alive = alive * gates;
            acted = true;
        }
        let patches = alive.clone().reshape([count, spec.num_tokens()]);
        let patches = patches.narrow(1, spec.num_prefix_tokens(), spec.num_patches());
        let kept = patches.mean_dim(1).squeeze_dim::<1>(1); // [I], of N0
        let of_images: Vec<f32> = host(kept.clone());
        survivors
            .push(of_images.iter().map(|share| (share * spec.num_patches() as f32).round() as usize).sum());
        shares.push(kept);
    }
    let logits = gated.finish()?;
    let dense = &batch.dense.values[images.start * batch.dense.width..images.end * batch.dense.width];
    let dense = Tensor::from_data(TensorData::new(dense.to_vec(), [count, batch.dense.width]), &device);
    let divergence = divergences_of_logits(dense, logits.clone()); // [I]
    let cost = token_layers(spec, &sites.iter().map(|(site, _)| *site).collect::<Vec<_>>(), &shares);
    let (fidelity, efficiency) = match objective {
        Objective::Cost { beta, reference, softening } => {
            let graded = match softening > 0.0 {
                true => divergence.clone().div_scalar(softening).log1p(),
                false => divergence.clone(),
            };
            (graded.mean().mul_scalar(beta / reference), cost.clone().mean())
        }
        Objective::Ratio { keep_ratio } => {
            let missed = |(k, kept): (usize, &Tensor<1>)| {
                (kept.clone().mean() - keep_ratio.powi(k as i32 + 1)).square()
            };
            let missed = shares.iter().enumerate().map(missed).reduce(|sum, more| sum + more);
            let missed = missed.expect("a policy has a stage").mul_scalar(RATIO_WEIGHT / shares.len() as f64);
            (divergence.clone().mean(), missed)
        }
    };
    let loss = (fidelity.clone() + efficiency.clone()).mul_scalar(share);
    let value = |tensor: Tensor<1>| f64::from(host(tensor.mean())[0]);
    let predictions = Output { values: host(logits), width: batch.dense.width }.argmax();
    Ok(GateDescent {
        fidelity: value(fidelity),
        efficiency: value(efficiency),
        survivors,
        cost: value(cost),
        divergence: value(divergence),
        predictions,
        gradients: acted.then(|| GradientsParams::from_grads(loss.backward(), actor)),
    })
}

/// The agents of `gated` act at `stage`; returns the gate of every row, if any agent has a choice.
fn act(
    gated: &mut Gated<'_>,
    actor: &Perceptron,
    policy: &LearnedPruner,
    stage: usize,
    keys: &[ImageKey],
    key: [u64; 3],
) -> Result<Option<Tensor<1>>> {
    let (spec, device) = (gated.spec().clone(), gated.device());
    let survivors = gated.survivors()?;
    let view = survivors.view(&spec);
    let decision = policy.decision(stage, &view)?;
    let width = decision.scalars.len() / view.total().max(1);
    let mut seen = Experience { contexts: contexts(&view), ..Experience::default() };
    let (mut agents, mut thresholds) = (Vec::new(), Vec::new());
    for (b, image) in keys.iter().enumerate() {
        for row in view.patch_rows(b).filter(|&row| decision.may_leave(row)) {
            let position = view.origins[row].grid().expect("agents are patch tokens");
            let drawn = uniform(&[key[0], key[1], key[2], *image, stage as u64, position as u64]);
            thresholds.push((drawn / (1.0 - drawn)).max(f64::MIN_POSITIVE).ln() as f32);
            seen.tokens.extend_from_slice(view.token(row));
            seen.positions.push(position as u32);
            seen.stages.push(stage as u32);
            seen.context_of.push(b as u32);
            seen.actor_scalars.extend_from_slice(&decision.scalars[row * width..(row + 1) * width]);
            seen.actions.push(1);
            agents.push(row);
        }
    }
    if agents.is_empty() {
        return Ok(None);
    }
    let inputs = Inputs::new(policy.actor_spec(), &seen, &seen.actor_scalars, &device);
    let logits = actor.forward(&inputs); // [A, 2]
    let logit = (logits.clone().narrow(1, 1, 1) - logits.narrow(1, 0, 1)).squeeze_dim::<1>(1);
    let count = agents.len();
    let threshold = Tensor::<1>::from_data(TensorData::new(thresholds.clone(), [count]), &device);
    let relaxed = sigmoid((logit.clone() - threshold).div_scalar(RELAXATION)); // [A]
    let logit = host(logit);
    let mut stays: Vec<bool> = logit.iter().zip(&thresholds).map(|(logit, drawn)| logit > drawn).collect();
    keep_enough(&mut stays, &agents, &logit, &view, spec.min_patch_tokens());

    // The value is 0 or 1, the gradient that of the relaxation.
    let drawn: Vec<f32> = stays.iter().map(|&stays| f32::from(u8::from(stays))).collect();
    let fixed: Vec<f32> =
        drawn.iter().zip(host(relaxed.clone())).map(|(drawn, relaxed)| drawn - relaxed).collect();
    let gates = relaxed + Tensor::from_data(TensorData::new(fixed, [count]), &device);
    let rows: Vec<usize> = agents.iter().map(|&agent| survivors.rows[agent]).collect();
    let into: Option<Vec<usize>> = decision
        .pairing
        .as_ref()
        .map(|pairing| agents.iter().map(|&agent| survivors.rows[pairing.partner[agent]]).collect());
    Ok(Some(gated.gate(gates, &rows, into.as_deref())))
}

/// If the network needs a patch token, the one of an image's `agents` with the highest p_keep stays.
fn keep_enough(
    stays: &mut [bool],
    agents: &[usize],
    logits: &[f32],
    view: &vitrim_vit::View<'_>,
    at_least: usize,
) {
    for b in (0..view.batch()).filter(|_| at_least > 0) {
        let rows = view.patch_rows(b);
        let own: Vec<usize> = (0..agents.len()).filter(|&a| rows.contains(&agents[a])).collect();
        let left = own.iter().filter(|&&a| !stays[a]).count();
        let likeliest = own.iter().copied().max_by(|&a, &b| logits[a].total_cmp(&logits[b]).then(b.cmp(&a)));
        if let Some(likeliest) = likeliest.filter(|_| rows.len() - left < at_least) {
            stays[likeliest] = true;
        }
    }
}

/// c of each image, `[I]`, for a backbone of geometry `spec`: `shares[k]: [I]` of the patch tokens are left from
/// `sites[k]` on.
fn token_layers(spec: &VitSpec, sites: &[Site], shares: &[Tensor<1>]) -> Tensor<1> {
    let layers = cost::layers(spec);
    let from = |k: usize| sites.get(k).map_or(layers, |site| cost::layers_before(spec, *site));
    let of_stage = |(k, kept): (usize, &Tensor<1>)| kept.clone().mul_scalar((from(k + 1) - from(k)) / layers);
    let rest = shares.iter().enumerate().map(of_stage).reduce(|sum, more| sum + more);
    rest.expect("a policy has a stage").add_scalar(from(0) / layers)
}
