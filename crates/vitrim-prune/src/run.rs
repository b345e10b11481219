//! The one data flow: pixels -> packed tokens -> (blocks, pruner, reduction)* -> logits or features.

use vitrim_vit::{At, Backbone, Origin, Output, PixelBatch, Site, Taps, VitError, VitSpec, Want, cost};

use crate::pruner::{ImageKey, Pruner, Result};

/// A pruned forward pass.
#[derive(Clone, Debug)]
pub struct Pruned {
    /// The backbone's answer: logits, `[B, C]`; without a head its embedding or pooled features ([`Want::answer`]).
    pub answer: Output,
    /// The survivors after each stage.
    pub stages: Vec<StageRecord>,
    /// MACs of each image, the pruner's own scoring included, `[B]`.
    pub macs: Vec<u64>,
    /// Rows and columns of each image's patches before any pruning, `[B]`.
    pub grids: Vec<[usize; 2]>,
}

/// The survivors of one stage.
#[derive(Clone, Debug)]
pub struct StageRecord {
    /// The site of the stage.
    pub site: Site,
    /// Prefix tokens per image.
    pub prefix: usize,
    /// Index of the first token of each image, `[B + 1]`.
    pub offsets: Vec<usize>,
    /// Origin of each token, `[T]`.
    pub origins: Vec<Origin>,
}

impl StageRecord {
    /// Number of survivors of image `b`.
    pub fn patch_tokens(&self, b: usize) -> usize {
        self.offsets[b + 1] - self.offsets[b] - self.prefix
    }

    /// Grid positions of image `b`'s survivors.
    pub fn grid_positions(&self, b: usize) -> Vec<usize> {
        self.origins[self.offsets[b]..self.offsets[b + 1]].iter().filter_map(|o| o.grid()).collect()
    }
}

/// Runs `pixels` through `backbone`, reduced by `pruner` at its sites; `images: [B]` are the keys of the images.
///
/// # Errors
/// Errors of the backbone or the pruner, or if the number of keys is not that of the images.
pub fn run<B: Backbone>(
    backbone: &B,
    pruner: &(impl Pruner + ?Sized),
    pixels: PixelBatch<'_>,
    images: &[ImageKey],
) -> Result<Pruned> {
    backbone.enter(|| run_from(backbone, pruner, backbone.embed(pixels)?, images))
}

/// Like [`run`], from a `state` at or before the pruner's first site; at that site, it must carry the
/// taps that the pruner wants there. Forks of one state share what runs before the first stage.
///
/// # Errors
/// As [`run`].
pub fn run_from<B: Backbone>(
    backbone: &B,
    pruner: &(impl Pruner + ?Sized),
    mut state: B::State,
    images: &[ImageKey],
) -> Result<Pruned> {
    let stages = run_to_answer(backbone, pruner, &mut state, images)?;
    let answer = backbone.finish(&state, Want::answer(backbone.spec()))?;
    let (spec, grids) = (backbone.spec(), backbone.view(&state)?.grids.to_vec());
    let of_image = |(b, grid): (usize, &[usize; 2])| image_macs(&spec.of_grid(*grid), pruner, &stages, b);
    let macs = grids.iter().enumerate().map(of_image).collect();
    Ok(Pruned { answer, stages, macs, grids })
}

/// Like [`run_from`], but only up to the end of the last block. The caller finishes `state` as it needs: for any
/// [`Want`] but tokens. Sites from [`Site::of_answer`] on are left out: the answer does not depend on them.
///
/// # Errors
/// As [`run`].
pub fn run_to_answer<B: Backbone>(
    backbone: &B,
    pruner: &(impl Pruner + ?Sized),
    state: &mut B::State,
    images: &[ImageKey],
) -> Result<Vec<StageRecord>> {
    backbone.enter(|| {
        let stages = run_stages(backbone, pruner, state, images, Site::of_answer(backbone.spec()))?;
        backbone.advance_to_answer(state)?;
        Ok(stages)
    })
}

/// Runs the first `blocks` blocks with the stages among them, for the tokens that a block gives: all survivors go through
/// all of the last one, too.
///
/// # Errors
/// As [`run`].
pub fn run_blocks<B: Backbone>(
    backbone: &B,
    pruner: &(impl Pruner + ?Sized),
    state: &mut B::State,
    images: &[ImageKey],
    blocks: usize,
) -> Result<Vec<StageRecord>> {
    let end = Site::input_of(blocks);
    backbone.enter(|| {
        let stages = run_stages(backbone, pruner, state, images, end)?;
        backbone.advance(state, end, Taps::NONE)?;
        Ok(stages)
    })
}

/// Runs the stages before `end`.
fn run_stages<B: Backbone>(
    backbone: &B,
    pruner: &(impl Pruner + ?Sized),
    state: &mut B::State,
    images: &[ImageKey],
    end: Site,
) -> Result<Vec<StageRecord>> {
    let batch = backbone.view(state)?.batch();
    if images.len() != batch {
        return Err(VitError::Input(format!("{} keys for a batch of {batch} images", images.len())).into());
    }
    let mut stages = Vec::new();
    let sites = pruner.sites(backbone.spec()).into_iter().take_while(|(site, _)| *site < end);
    for (stage, (site, taps)) in sites.enumerate() {
        backbone.advance(state, site, taps)?;
        let view = backbone.view(state)?;
        let decide = || pruner.decide(stage, &view, images);
        // With one image, the other threads have no other images to decide about.
        let reduction = if batch == 1 { backbone.short_step(decide) } else { decide() }?;
        backbone.reduce(state, &reduction)?;
        let view = backbone.view(state)?;
        stages.push(StageRecord {
            site,
            prefix: view.prefix,
            offsets: view.offsets.to_vec(),
            origins: view.origins.to_vec(),
        });
    }
    Ok(stages)
}

/// The earliest site of all `pruners`, where one state can wait as their common start, and the taps that it must
/// carry there: those of all pruners that act before another attention runs. `None` if no pruner has a site.
pub fn first_site<'a>(
    pruners: impl IntoIterator<Item = &'a (dyn Pruner + 'a)>,
    spec: &VitSpec,
) -> Option<(Site, Taps)> {
    let firsts = pruners.into_iter().filter_map(|pruner| pruner.sites(spec).first().copied());
    let firsts: Vec<(Site, Taps)> = firsts.collect();
    let first = firsts.iter().map(|(site, _)| *site).min()?;
    let attends = match first.at {
        At::BlockInput => first,
        At::AfterAttention => Site::input_of(first.block + 1),
    };
    let tapped = firsts.into_iter().filter(|(site, _)| *site <= attends);
    Some((first, tapped.fold(Taps::NONE, |all, (_, taps)| all.or(taps))))
}

/// MACs of the answer for image `b` of a batch that went through `stages`, the pruner's own scoring and the backbone's head
/// included;
/// `spec` is the backbone as it is for the image's grid ([`VitSpec::of_grid`]).
pub fn image_macs(spec: &VitSpec, pruner: &(impl Pruner + ?Sized), stages: &[StageRecord], b: usize) -> u64 {
    let (trajectory, scoring) = trajectory(spec, pruner, stages, b);
    cost::image_macs(spec, &trajectory) + scoring
}

/// MACs of image `b` of a batch whose first `blocks` blocks were run with `stages` ([`run_blocks`]), the pruner's own
/// scoring included; `spec` as for [`image_macs`].
pub fn block_macs(
    spec: &VitSpec,
    pruner: &(impl Pruner + ?Sized),
    stages: &[StageRecord],
    b: usize,
    blocks: usize,
) -> u64 {
    let (trajectory, scoring) = trajectory(spec, pruner, stages, b);
    cost::macs_of_blocks(spec, &trajectory, blocks) + scoring
}

/// Sites and tokens of image `b` after each of `stages`, and the MACs of the pruner's own scoring.
fn trajectory(
    spec: &VitSpec,
    pruner: &(impl Pruner + ?Sized),
    stages: &[StageRecord],
    b: usize,
) -> (Vec<(Site, usize)>, u64) {
    let mut tokens = spec.num_tokens();
    let mut scoring = 0;
    let mut trajectory = Vec::with_capacity(stages.len());
    for (k, stage) in stages.iter().enumerate() {
        scoring += pruner.macs(k, tokens);
        tokens = stage.offsets[b + 1] - stage.offsets[b];
        trajectory.push((stage.site, tokens));
    }
    (trajectory, scoring)
}
