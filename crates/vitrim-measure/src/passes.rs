//! One pass over a data set: every batch runs through the dense model and, from the same prefix, through all pruners
//! that are measured.
//!
//! `each_batch` is the only such loop. The blocks before the first site of any pruner run once. Evaluation, fronts,
//! calibration and comparison differ in how they process a batch of the pass.

use vitrim_data::{Batch, BatchShare, Corruption, Dataset, Loader, LoaderOptions, OnBadImage, Order};
use vitrim_prune::{ImageKey, Pruned, Pruner, first_site, run_from};
use vitrim_vit::{Backbone, CpuBackbone, HostState, Output, PixelBatch, Site, Taps, VitSpec, Want, cost};

use crate::error::Result;
use crate::metrics::{Metrics, PrunedFigures};
use crate::model::Loaded;
use crate::progress::Progress;

/// Default batch size.
pub const BATCH: usize = 64;

/// Which images a pass sees, and how they are loaded.
#[derive(Clone, Copy, Debug)]
pub struct PassOptions {
    /// Images per batch.
    pub batch: usize,
    /// Decoding threads; 0 for one per core.
    pub workers: usize,
    /// Number of images at the start of the order to pass over.
    pub skip: usize,
    /// Only the first images after those, up to this number.
    pub images: Option<usize>,
    /// What to do with an image that cannot be decoded.
    pub on_bad_image: OnBadImage,
    /// Corruption that is applied to every image first.
    pub corruption: Option<Corruption>,
}

impl Default for PassOptions {
    /// All images, in batches of [`BATCH`], without corruption.
    fn default() -> Self {
        PassOptions {
            batch: BATCH,
            workers: 0,
            skip: 0,
            images: None,
            on_bad_image: OnBadImage::Fail,
            corruption: None,
        }
    }
}

impl PassOptions {
    /// The same options for the first `images` images.
    #[must_use]
    pub fn first(self, images: usize) -> Self {
        PassOptions { images: Some(images.min(self.images.unwrap_or(usize::MAX))), ..self }
    }

    fn loader(&self, loaded: &Loaded, dataset: &Dataset, order: Order) -> Result<Loader> {
        let options = LoaderOptions {
            batch: self.batch,
            workers: self.workers,
            skip: self.skip,
            limit: self.images,
            on_bad_image: self.on_bad_image,
            augment: None,
            corruption: self.corruption,
            share: BatchShare::ALL,
        };
        Ok(Loader::new(dataset, order, &loaded.transform, options)?)
    }
}

/// A pass of a data set through a backbone.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    /// The backbone.
    pub loaded: &'a Loaded,
    /// The images.
    pub dataset: &'a Dataset,
    /// The order of the images.
    pub order: Order,
    /// Which images, and how they are loaded.
    pub options: &'a PassOptions,
    /// The site where the pruners depart from the dense model, and the taps there ([`start`]).
    pub start: (Site, Taps),
    /// The dense model's answers to each batch, if an earlier pass over the same images has them; the pass then ends
    /// after these batches.
    pub dense: Option<&'a [Output]>,
}

/// A batch with the dense model's answers.
pub(crate) struct PassBatch<'a> {
    /// The images of the batch.
    pub images: &'a Batch,
    /// Keys of the images, `[B]`.
    pub keys: &'a [ImageKey],
    /// The dense model's logits, or features if it has no classes.
    pub dense: &'a Output,
    model: &'a CpuBackbone,
    /// The state at the start of the pass.
    prefix: HostState,
}

impl PassBatch<'_> {
    /// Rows and columns of each image's patches, `[B]`.
    pub fn grids(&self) -> &[[usize; 2]] {
        &self.prefix.packed.grids
    }

    /// MACs of each image without pruning, `[B]`.
    pub fn dense_macs(&self) -> Vec<u64> {
        dense_macs(self.model.spec(), self.grids())
    }

    /// Prunes the batch with `pruner`, whose first site must not be before the start of the pass.
    ///
    /// # Errors
    /// Errors of the backbone or the pruner.
    pub fn pruned(&self, pruner: &dyn Pruner) -> Result<Pruned> {
        Ok(run_from(self.model, pruner, self.prefix.clone(), self.keys)?)
    }
}

/// MACs of each of the images of `grids: [B]` rows and columns of patches without pruning, `[B]`.
pub(crate) fn dense_macs(spec: &VitSpec, grids: &[[usize; 2]]) -> Vec<u64> {
    grids.iter().map(|grid| cost::dense_macs(&spec.of_grid(*grid))).collect()
}

/// The site where `pruners` depart from the dense model, and the taps that they need there.
pub(crate) fn start<'a>(pruners: impl IntoIterator<Item = &'a dyn Pruner>, spec: &VitSpec) -> (Site, Taps) {
    first_site(pruners, spec).unwrap_or((Site::input_of(0), Taps::NONE))
}

/// Calls `measure` with every batch of `pass`. Returns the number of images that were left out because they cannot be
/// decoded.
///
/// # Errors
/// If an image cannot be read, the backbone or `measure` returns an error, or the pass was asked to stop.
pub(crate) fn each_batch(
    pass: Pass<'_>,
    progress: &mut Progress<'_>,
    measure: &mut dyn FnMut(&PassBatch<'_>) -> Result<()>,
) -> Result<usize> {
    let (model, spec) = (&pass.loaded.model, &pass.loaded.spec);
    let (site, taps) = pass.start;
    let mut loader = pass.options.loader(pass.loaded, pass.dataset, pass.order)?;
    let mut known = pass.dense.map(<[Output]>::iter);
    loop {
        let known = match &mut known {
            None => None,
            Some(answers) => match answers.next() {
                None => break,
                answer => answer,
            },
        };
        let Some(images) = loader.next().transpose()? else { break };
        let mut prefix = model.embed(PixelBatch::of_sizes(&images.pixels, &images.sizes))?;
        model.advance(&mut prefix, site, taps)?;
        let computed = match known {
            Some(_) => None,
            None => {
                let mut unpruned = prefix.clone();
                model.advance_to_answer(&mut unpruned)?;
                Some(model.finish(&unpruned, Want::answer(spec))?)
            }
        };
        let dense = known.or(computed.as_ref()).expect("either known or computed");
        let keys = images.keys();
        measure(&PassBatch { images: &images, keys: &keys, dense, model, prefix })?;
        progress.at(loader.position(), loader.total())?;
    }
    Ok(loader.bad_images().count())
}

/// A pruner while it is measured.
pub(crate) struct MeasuredPruner {
    /// The pruner.
    pub pruner: Box<dyn Pruner>,
    /// Its metrics on the images so far.
    pub metrics: Metrics,
}

impl MeasuredPruner {
    /// `pruner` with empty metrics.
    pub fn new(pruner: Box<dyn Pruner>, spec: &VitSpec) -> Self {
        MeasuredPruner { pruner, metrics: Metrics::new(spec) }
    }

    /// Runs `batch` and adds the result to the metrics.
    ///
    /// # Errors
    /// As [`PassBatch::pruned`].
    pub fn add(&mut self, batch: &PassBatch<'_>) -> Result<()> {
        let pruned = batch.pruned(self.pruner.as_ref())?;
        let figures = PrunedFigures::of(batch.model.spec(), batch.dense, &pruned);
        self.metrics.add(&batch.dense.argmax(), &figures, &batch.images.labels);
        Ok(())
    }
}
