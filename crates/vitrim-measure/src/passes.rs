//! One pass over a data set: every batch through the dense model, and from the same prefix through whatever is measured
//! beside it.
//!
//! `each_batch` is the only loop that does so. What runs before the first site of any pruner runs once; evaluation,
//! fronts, calibration and comparison differ in what they do with a batch of it.

use vitrim_data::{Batch, Corruption, Dataset, Loader, LoaderOptions, OnBadImage, Order};
use vitrim_prune::{ImageKey, Pruned, Pruner, first_site, run_from};
use vitrim_vit::{Backbone, CpuBackbone, HostState, Output, PixelBatch, Site, Taps, VitSpec, Want};

use crate::error::Result;
use crate::metrics::Metrics;
use crate::model::Loaded;
use crate::progress::Progress;

/// Images a batch where nobody says.
pub const BATCH: usize = 64;

/// Which images a pass sees, and how they are loaded.
#[derive(Clone, Copy, Debug)]
pub struct PassOptions {
    /// Images a batch.
    pub batch: usize,
    /// Decoding threads; 0 for one a core.
    pub workers: usize,
    /// Only the first so many images.
    pub images: Option<usize>,
    /// What an image that cannot be decoded does.
    pub on_bad_image: OnBadImage,
    /// What is done to every image first.
    pub corruption: Option<Corruption>,
}

impl Default for PassOptions {
    /// All images, in batches of [`BATCH`], as they are.
    fn default() -> Self {
        PassOptions {
            batch: BATCH,
            workers: 0,
            images: None,
            on_bad_image: OnBadImage::Fail,
            corruption: None,
        }
    }
}

impl PassOptions {
    /// The same on the first `images` at most.
    #[must_use]
    pub fn first(self, images: usize) -> Self {
        PassOptions { images: Some(images.min(self.images.unwrap_or(usize::MAX))), ..self }
    }

    fn loader(&self, loaded: &Loaded, dataset: &Dataset, order: Order) -> Result<Loader> {
        let options = LoaderOptions {
            batch: self.batch,
            workers: self.workers,
            skip: 0,
            limit: self.images,
            on_bad_image: self.on_bad_image,
            augment: None,
            corruption: self.corruption,
        };
        Ok(Loader::new(dataset, order, &loaded.transform, options)?)
    }
}

/// A data set that is to go through a backbone.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    /// The backbone.
    pub loaded: &'a Loaded,
    /// The images.
    pub dataset: &'a Dataset,
    /// In which order.
    pub order: Order,
    /// Which of them, and how they are loaded.
    pub options: &'a PassOptions,
    /// Where what is measured parts from the dense model ([`start`]).
    pub start: (Site, Taps),
    /// What the dense model answers to each batch, where an earlier pass over the same images knows it; the pass then ends
    /// with these answers.
    pub dense: Option<&'a [Output]>,
}

/// A batch that the dense model has answered.
pub(crate) struct PassBatch<'a> {
    /// Its images.
    pub images: &'a Batch,
    /// Their keys, `[B]`.
    pub keys: &'a [ImageKey],
    /// The dense model's logits, or features where it has no classes.
    pub dense: &'a Output,
    model: &'a CpuBackbone,
    /// At the start of the pass.
    prefix: HostState,
}

impl PassBatch<'_> {
    /// The batch pruned by `pruner`, whose first site is not before the start of the pass.
    ///
    /// # Errors
    /// What the backbone or the pruner refuses.
    pub fn pruned(&self, pruner: &dyn Pruner) -> Result<Pruned> {
        Ok(run_from(self.model, pruner, self.prefix.clone(), self.keys)?)
    }
}

/// Where all of `pruners` part from the dense model, and the taps that they need there.
pub(crate) fn start<'a>(pruners: impl IntoIterator<Item = &'a dyn Pruner>, spec: &VitSpec) -> (Site, Taps) {
    first_site(pruners, spec).unwrap_or((Site::input_of(0), Taps::NONE))
}

/// Hands every batch of `pass` to `measure`. Returns how many images were left out because they cannot be decoded.
///
/// # Errors
/// If an image cannot be read, the backbone or `measure` refuses, or it was asked to stop.
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
        let mut prefix = model.embed(PixelBatch::new(&images.pixels, images.len()))?;
        model.advance(&mut prefix, site, taps)?;
        let computed = match known {
            Some(_) => None,
            None => {
                let mut unpruned = prefix.clone();
                model.advance(&mut unpruned, Site::end(spec), Taps::NONE)?;
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
    /// What it did to the images so far.
    pub metrics: Metrics,
}

impl MeasuredPruner {
    /// `pruner` before any image.
    pub fn new(pruner: Box<dyn Pruner>, spec: &VitSpec) -> Self {
        MeasuredPruner { pruner, metrics: Metrics::new(spec) }
    }

    /// Runs `batch` and counts what became of it.
    ///
    /// # Errors
    /// As [`PassBatch::pruned`].
    pub fn add(&mut self, batch: &PassBatch<'_>) -> Result<()> {
        let pruned = batch.pruned(self.pruner.as_ref())?;
        self.metrics.add(batch.dense, &pruned, &batch.images.labels);
        Ok(())
    }
}
