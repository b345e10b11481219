//! Passes over held-out images that ranks measure together.
//!
//! Rank 0 evaluates or calibrates, and says what each pass measures. All ranks measure their shares of its batches, and
//! rank 0 adds the figures of single images in their order: see [`vitrim_measure::elsewhere`].

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use vitrim_data::Dataset;
use vitrim_measure::elsewhere::{Elsewhere, PassTask, measure_share};
use vitrim_measure::error::{MeasureError, Result};
use vitrim_measure::model::Loaded;
use vitrim_measure::progress::Progress;
use vitrim_prune::AnyPolicy;
use vitrim_ranks::Ranks;

/// What rank 0 says of a pass: its task, the number of images, and that of images in a batch; `None` after the last.
type Announced = Option<(String, (usize, usize))>;

/// What a rank needs to measure.
#[derive(Clone, Copy)]
pub struct SharedPasses<'a> {
    /// The ranks.
    pub ranks: &'a Ranks,
    /// The backbone.
    pub loaded: &'a Loaded,
    /// The policy, if there is one; the same on all ranks.
    pub policy: Option<&'a AnyPolicy>,
    /// Decoding threads; 0 for one per core.
    pub workers: usize,
    /// Set to stop the work of all ranks.
    pub stop: &'a AtomicBool,
}

impl<'a> SharedPasses<'a> {
    /// For rank 0: all ranks, as those that measure; `None` if there are no others.
    pub fn elsewhere(self) -> Option<Elsewhere<'a>> {
        let gather = move |dataset: &Dataset, task: &str, images: usize, batch: usize| {
            let pass = || Announced::Some((task.to_owned(), (images, batch)));
            self.ranks.from_first(pass)?;
            self.share(dataset, task, images, batch)
        };
        (!self.ranks.is_alone()).then(|| Elsewhere::new(Arc::new(gather)))
    }

    /// For rank 0: tells the others that no pass will follow.
    ///
    /// # Errors
    /// If another rank has failed.
    pub fn end(self) -> Result<()> {
        self.ranks.from_first(|| Announced::None)?;
        Ok(())
    }

    /// For the other ranks: measures their shares of rank 0's passes over `dataset`, until it has no more.
    ///
    /// # Errors
    /// If an image cannot be read, another rank has failed, or the work was asked to stop.
    pub fn serve(self, dataset: &Dataset) -> Result<()> {
        let next = || self.ranks.from_first(|| Announced::None);
        while let Some((task, (images, batch))) = next()? {
            self.share(dataset, &task, images, batch)?;
        }
        Ok(())
    }

    /// The figures of a pass over `images` images, in the order of the ranks.
    fn share(self, dataset: &Dataset, task: &str, images: usize, batch: usize) -> Result<Vec<Vec<u8>>> {
        let damaged = |error| MeasureError::Setting(format!("the task of a pass is damaged ({error})"));
        let task: PassTask = serde_json::from_str(task).map_err(damaged)?;
        let batches = self.ranks.share(images.div_ceil(batch));
        let (first, end) = (batches.start * batch, images.min(batches.end * batch));
        let mut progress = Progress { stop: self.stop, progress: &mut |_, _| {} };
        let own = (first, end.saturating_sub(first));
        let measured =
            measure_share(self.loaded, self.policy, dataset, &task, own, self.workers, &mut progress);
        if matches!(measured, Err(MeasureError::Interrupted)) {
            self.ranks.interrupt();
        }
        let figures = serde_json::to_vec(&measured?).expect("figures are plain data");
        Ok(self.ranks.gather(figures)?.0)
    }
}
