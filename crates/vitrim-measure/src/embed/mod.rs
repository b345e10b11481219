//! Bulk inference: features, classes or both of a whole data set, as parquet files in a folder.
//!
//! The images of each split are cut into *parts* of a fixed number of consecutive images, and each part becomes one
//! file. Part boundaries depend on the data set and the size of a part alone, so that any number of processes may share
//! the parts ([`Shard`]), be killed and be started again in other numbers: a part is written whole or not at all
//! ([`vitrim_durable::replace`]), and what is there is skipped. Batches start with the part, and random decisions are
//! keyed by an image's position in its split. The same command therefore writes the same bytes, whichever process
//! writes them, on processors with the same set of instructions.
//!
//! `embed.json` in the folder states the command by what determines the answers ([`Manifest`]); a command that would
//! give others is refused.

mod arrow_schema;
mod folder;
mod part_file;
mod parts;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde::Serialize;
use serde_json::json;
use vitrim_data::{Batch, Dataset, Loader, LoaderOptions, OnBadImage, Order};
use vitrim_prune::{Pruner, image_macs, run_to_answer};
use vitrim_vit::{Backbone, PixelBatch, Want, cost};

pub use folder::{Certified, FeatureColumn, Manifest, SplitImages};
pub use part_file::{Left, contents};
pub use parts::{Part, Shard, parts};

use crate::error::{MeasureError, Result};
use crate::model::Loaded;
use crate::model::features::FeatureKind;
use crate::predict::{feature_macs, top_classes};
use crate::progress::{Event, Listener};
use crate::requests::as_text;
use part_file::{Row, Table};

/// What to compute, and how.
pub struct EmbedOptions {
    /// Folder of the parts.
    pub out: PathBuf,
    /// The parts of this process.
    pub shard: Shard,
    /// Decoding threads; 0 for one per core.
    pub workers: usize,
    /// What to do with an image that cannot be decoded.
    pub on_bad_image: OnBadImage,
}

/// What a process found and wrote.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Embedded {
    /// The folder.
    #[serde(serialize_with = "as_text::path")]
    pub out: PathBuf,
    /// The shard.
    #[serde(serialize_with = "as_text::display")]
    pub shard: Shard,
    /// Number of parts of the shard.
    pub parts: usize,
    /// Number of those that this process wrote; the others were there.
    pub written: usize,
    /// Images answered in the parts of the shard.
    pub images: usize,
    /// Images left out of them, because they cannot be decoded.
    pub left_out: usize,
    /// The first messages about those, ten at most.
    pub first_left_out: Vec<String>,
    /// Number of parts of the whole data set.
    pub all_parts: usize,
    /// Number of those that are in the folder now.
    pub present: usize,
    /// Images that this process answered, per second; null if it answered none.
    pub images_per_s: Option<f64>,
}

/// Number of messages in [`Embedded::first_left_out`].
const KEPT_MESSAGES: usize = 10;

/// Writes the missing parts of a shard of `splits`, the splits of `manifest` in its order, answered by `loaded` and pruned
/// by `pruner`.
///
/// # Errors
/// If the folder belongs to another command or cannot be written, an image cannot be read, or the work was asked to stop:
/// parts that were written stay.
pub fn embed(
    loaded: &Loaded,
    pruner: &dyn Pruner,
    splits: &[Dataset],
    manifest: &Manifest,
    options: &EmbedOptions,
    listener: &mut Listener<'_>,
) -> Result<Embedded> {
    let manifest = &manifest.claim(&options.out)?;
    let sizes: Vec<usize> = splits.iter().map(Dataset::len).collect();
    let all = parts(&sizes, manifest.part);
    let shard = &all[options.shard.of_parts(all.len())];
    let path = |part: &Part| options.out.join(part.file(&manifest.splits[part.split].name));
    let missing: Vec<&Part> = shard.iter().filter(|part| !path(part).is_file()).collect();
    let total: usize = shard.iter().map(|part| part.images).sum();
    let mut progress = Answered {
        before: total - missing.iter().map(|part| part.images).sum::<usize>(),
        images: 0,
        total,
        started: Instant::now(),
    };
    if !missing.is_empty() {
        progress.tell(listener, &format!("{} of {} parts to do", missing.len(), shard.len()), false);
    }
    for part in &missing {
        let work = PartWork { loaded, pruner, dataset: &splits[part.split], manifest, options, part };
        work.write(&path(part), &mut progress, listener)?;
    }
    let mut found = Embedded {
        out: options.out.clone(),
        shard: options.shard,
        parts: shard.len(),
        written: missing.len(),
        images: 0,
        left_out: 0,
        first_left_out: Vec::new(),
        all_parts: all.len(),
        present: all.iter().filter(|part| path(part).is_file()).count(),
        images_per_s: (progress.images > 0).then(|| progress.rate()),
    };
    for part in shard {
        let (images, left_out) = contents(&path(part))?;
        found.images += images;
        found.left_out += left_out.len();
        let room = KEPT_MESSAGES - found.first_left_out.len();
        found.first_left_out.extend(left_out.into_iter().take(room).map(|left| left.error));
    }
    Ok(found)
}

/// The images that are done.
struct Answered {
    /// Those of parts that were there.
    before: usize,
    /// Those of this process, the ones left out included.
    images: usize,
    total: usize,
    started: Instant,
}

impl Answered {
    fn rate(&self) -> f64 {
        self.images as f64 / self.started.elapsed().as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Reports the images so far; a `part` has been written.
    fn tell(&self, listener: &mut Listener<'_>, line: &str, part: bool) {
        let figures = json!({ "images_per_s": self.rate() });
        let (done, all) = (self.before + self.images, self.total);
        (listener.tell)(Event::Entry { unit: "image", done, all, line, figures: &figures, evaluated: part });
    }
}

/// One part, and what it takes to answer its images.
struct PartWork<'a> {
    loaded: &'a Loaded,
    pruner: &'a dyn Pruner,
    dataset: &'a Dataset,
    manifest: &'a Manifest,
    options: &'a EmbedOptions,
    part: &'a Part,
}

impl PartWork<'_> {
    /// Answers the part's images and writes them to `path`.
    fn write(&self, path: &Path, progress: &mut Answered, listener: &mut Listener<'_>) -> Result<()> {
        let options = LoaderOptions {
            batch: self.manifest.batch,
            workers: self.options.workers,
            skip: self.part.first,
            limit: Some(self.part.images),
            on_bad_image: self.options.on_bad_image,
            ..LoaderOptions::default()
        };
        let mut loader = Loader::new(self.dataset, Order::Sequential, &self.loaded.transform, options)?;
        let mut table = Table::new(self.manifest, self.part);
        loop {
            let batch = loader.next().transpose()?;
            for (index, error) in loader.left_out() {
                let key = self.dataset.name(*index);
                table.left_out.push(Left { index: *index, key, error: error.to_string() });
                progress.images += 1;
            }
            let Some(batch) = batch else { break };
            self.answer(&batch, &mut table)?;
            progress.images += batch.len();
            // The last batch of all is reported with its part.
            if progress.before + progress.images < progress.total {
                progress.tell(listener, &format!("{:.1} images/s", progress.rate()), false);
            }
            if listener.stop.load(Ordering::Relaxed) {
                return Err(MeasureError::Interrupted);
            }
        }
        let bytes = table.encode().map_err(|error| MeasureError::Write {
            path: path.to_owned(),
            source: std::io::Error::other(error),
        })?;
        vitrim_durable::replace(path, &bytes)?;
        progress.tell(listener, &format!("{:.1} images/s", progress.rate()), true);
        Ok(())
    }

    /// Adds the answers for `batch` to `table`.
    fn answer(&self, batch: &Batch, table: &mut Table<'_>) -> Result<()> {
        let (model, spec) = (&self.loaded.model, &self.loaded.spec);
        let mut state = model.embed(PixelBatch::of_sizes(&batch.pixels, &batch.sizes))?;
        let stages = run_to_answer(model, self.pruner, &mut state, &batch.keys())?;
        let kind = self.manifest.features.as_ref().map(|features| features.kind);
        let logits = self.manifest.classes.map(|_| model.finish(&state, Want::Logits)).transpose()?;
        let features = kind.map(|kind| model.finish(&state, kind.want())).transpose()?;
        for (b, key) in batch.names.iter().enumerate() {
            let spec = spec.of_grid(state.packed.grids[b]);
            let answer = || image_macs(&spec, self.pruner, &stages, b);
            let macs = match (kind, &logits) {
                (Some(kind), None) => feature_macs(&spec, self.pruner, &stages, b, kind),
                (Some(FeatureKind::Embedding), Some(_)) => answer() + cost::projection_macs(&spec),
                _ => answer(),
            };
            let class = logits.as_ref().and_then(|logits| top_classes(self.loaded, logits.row(b), 1).pop());
            table.push(Row {
                index: batch.indices[b],
                key,
                class,
                features: features.as_ref().map(|features| features.row(b)),
                gmacs: macs as f64 / 1e9,
            });
        }
        Ok(())
    }
}
