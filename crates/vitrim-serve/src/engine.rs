//! A model ready to serve: shared weights, a session for each stream, and a pruner for each operating point.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use vitrim_data::{RgbImage, Transform, image_key};
use vitrim_hub::{Kind, local};
use vitrim_measure::calibrate::{allowed, record};
use vitrim_measure::model::features::{FeatureKind, Features, features};
use vitrim_measure::model::{Loaded, Opening, open_policy};
use vitrim_measure::predict::{Survivors, feature_macs, size_of};
use vitrim_measure::statistics::Confidence;
use vitrim_measure::{MeasureError, Result};
use vitrim_prune::{Dial, ImageKey, NoPruner, Pruner, image_macs, run_blocks, run_to_answer};
use vitrim_vit::{Backbone, CpuBackbone, PixelBatch, SessionOptions, Threads, VitSpec, Want};

use crate::points::Ladder;

/// What is asked of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Whether the class logits are.
    pub logits: bool,
    /// Which features are.
    pub features: Option<FeatureKind>,
}

impl Ask {
    /// The class logits alone.
    pub const LOGITS: Ask = Ask { logits: true, features: None };

    /// These features alone.
    pub fn features(kind: FeatureKind) -> Self {
        Ask { logits: false, features: Some(kind) }
    }
}

/// An image as the model takes it.
pub enum Input {
    /// What the model's transform made of an image, not yet normalised.
    Crop(RgbImage),
    /// Normalised pixels, `[3, H, W]`.
    Pixels(Vec<f32>),
}

impl Input {
    /// The key of random decisions about the image.
    fn key(&self) -> ImageKey {
        match self {
            Input::Crop(crop) => image_key(crop),
            Input::Pixels(values) => {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                let hash = blake3::hash(&bytes);
                u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
            }
        }
    }

    /// Height and width of the image for a model of geometry `spec`, pixels.
    fn size(&self, spec: &VitSpec) -> [usize; 2] {
        match self {
            Input::Crop(crop) => size_of(crop),
            Input::Pixels(_) => spec.img_size,
        }
    }

    /// Writes the normalised pixels to `room: [3, H, W]`.
    fn write(&self, transform: &Transform, room: &mut [f32]) {
        match self {
            Input::Crop(crop) => transform.write_normalized(crop, room),
            Input::Pixels(values) => room.copy_from_slice(values),
        }
    }
}

/// The model's answer for one image.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Class logits, `[C]`, if they were asked for.
    pub logits: Option<Vec<f32>>,
    /// Features, if they were asked for.
    pub features: Option<Features>,
    /// Survivors of each stage, `[K]`.
    pub stages: Vec<Survivors>,
    /// MACs, the pruner's own scoring included.
    pub macs: u64,
}

/// The threads that compute: one stream for each core, and all cores at once.
///
/// The scheduler never uses both at the same time.
#[derive(Clone, Debug)]
pub struct Cores {
    /// One thread for each stream.
    pub narrow: Vec<Threads>,
    /// As many threads as there are streams.
    pub wide: Threads,
}

impl Cores {
    /// Starts the threads of `streams` streams.
    ///
    /// # Errors
    /// If they cannot be started.
    pub fn start(streams: usize) -> Result<Self> {
        let narrow = (0..streams).map(|_| Threads::pool(1)).collect::<Result<_, _>>()?;
        Ok(Cores { narrow, wide: Threads::pool(streams)? })
    }
}

/// What a model is opened from.
#[derive(Clone, Debug)]
pub struct Source {
    /// Checkpoint folder, or hf://owner/name.
    pub model: PathBuf,
    /// Policy folder, or hf://owner/name; without one, the dense model serves.
    pub policy: Option<PathBuf>,
    /// Precision and input size.
    pub opening: Opening,
    /// The largest drop of top-1 that is served, pp.
    pub max_drop: Option<f64>,
    /// The largest drift of features that is served, percent.
    pub max_drift: Option<f64>,
    /// The confidence of the certified losses; the record's own if none is given.
    pub confidence: Option<Confidence>,
    /// Whether the server slides among the certified points.
    pub elastic: bool,
}

/// A model ready to serve.
pub struct Engine {
    /// How often the model has been loaded, this time included.
    pub version: u64,
    /// The backbone with its preprocessing.
    pub loaded: Loaded,
    /// The operating points.
    pub ladder: Ladder,
    /// Whether the server slides among the certified points; otherwise it serves `ladder.fixed`.
    pub elastic: bool,
    pruners: Vec<Box<dyn Pruner>>,
    narrow: Vec<CpuBackbone>,
    wide: CpuBackbone,
}

/// Which threads a batch runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// The thread of one stream.
    Narrow(usize),
    /// All threads.
    Wide,
}

impl Engine {
    /// Opens a model with its policy, for the `version`-th time; `stage` is told what it is about to do.
    ///
    /// # Errors
    /// If the model or the policy cannot be opened, or the policy certifies nothing although a limit of the loss was set.
    pub fn open(source: &Source, version: u64, cores: &Cores, stage: &dyn Fn(&'static str)) -> Result<Self> {
        stage("fetching the model");
        let folder = local(&source.model, Kind::Model)?;
        stage("opening the model");
        let loaded = Loaded::open_in(&folder, source.opening.clone())?;
        let spec = &loaded.spec;
        let limit = allowed(spec, source.max_drop, source.max_drift)?;
        let (ladder, pruners) = match &source.policy {
            None if limit.is_some() || source.elastic => {
                let reason =
                    "a limit of the loss or a target latency needs a calibrated policy; give --policy";
                return Err(MeasureError::Setting(reason.into()));
            }
            None => (Ladder::dense(spec), vec![Box::new(NoPruner) as Box<dyn Pruner>]),
            Some(path) => {
                stage("fetching the policy");
                let folder = local(path, Kind::Policy)?;
                stage("opening the policy");
                let policy = open_policy(&folder, &loaded)?;
                let record = policy.calibration().is_some().then(|| record(&policy, &folder)).transpose()?;
                // A server that slides must know how far.
                let limit = limit.or_else(|| {
                    let own = || record.as_ref().map_or(0.0, |record| record.max_drop);
                    source.elastic.then(own)
                });
                let precision = loaded.model.weights().precision();
                let ladder = Ladder::of(spec, &policy, record.as_ref(), precision, limit, source.confidence);
                let ladder =
                    ladder.map_err(|reason| MeasureError::Policy { path: folder.to_path_buf(), reason })?;
                let pruner = |dial: &Option<Dial>| -> Result<Box<dyn Pruner>> {
                    match dial {
                        None => Ok(Box::new(NoPruner)),
                        Some(dial) => Ok(policy.pruner_at(spec, dial)?),
                    }
                };
                let pruners = ladder.points.iter().map(|point| pruner(&point.dial)).collect::<Result<_>>()?;
                (ladder, pruners)
            }
        };
        let narrow =
            cores.narrow.iter().map(|threads| loaded.model.session(SessionOptions::sharing(threads)));
        let narrow = narrow.collect();
        // The only pass while it runs: its threads may spin for short steps, within the session's bound.
        let wide = SessionOptions { threads: cores.wide.clone(), ..SessionOptions::default() };
        let wide = loaded.model.session(wide);
        Ok(Engine { version, ladder, elastic: source.elastic, pruners, narrow, wide, loaded })
    }

    /// The geometry.
    pub fn spec(&self) -> &VitSpec {
        &self.loaded.spec
    }

    /// Number of values of an image, 3 x H x W.
    pub fn values(&self) -> usize {
        self.loaded.transform.pixel_count()
    }

    /// The kind of features that serve as an image's embedding.
    pub fn embedding(&self) -> FeatureKind {
        match self.spec().pooling.projection {
            Some(_) => FeatureKind::Embedding,
            None => FeatureKind::Pooled,
        }
    }

    /// What the model answers if nothing particular is asked: logits, or features if it has no head.
    pub fn answer(&self) -> Ask {
        if self.spec().num_classes > 0 { Ask::LOGITS } else { Ask::features(self.embedding()) }
    }

    /// Runs the images at operating point `point`, each with what is asked of it, on `lane`.
    ///
    /// # Errors
    /// If the backbone or the pruner returns an error.
    pub fn run(&self, lane: Lane, point: usize, images: &[(&Input, Ask)]) -> Result<Vec<Outcome>> {
        let session = match lane {
            Lane::Narrow(stream) => &self.narrow[stream],
            Lane::Wide => &self.wide,
        };
        session.enter(|| self.run_here(session, point, images))
    }

    fn run_here(
        &self,
        session: &CpuBackbone,
        point: usize,
        images: &[(&Input, Ask)],
    ) -> Result<Vec<Outcome>> {
        let (spec, pruner) = (self.spec(), self.pruners[point].as_ref());
        let mut state = match images {
            [(Input::Pixels(pixels), _)] => session.embed(PixelBatch::new(pixels, 1))?,
            images => {
                let sizes: Vec<[usize; 2]> = images.iter().map(|(input, _)| input.size(spec)).collect();
                let values = |[height, width]: [usize; 2]| 3 * height * width;
                let mut pixels = vec![0.0; sizes.iter().copied().map(values).sum()];
                let mut rest = pixels.as_mut_slice();
                for ((input, _), size) in images.iter().zip(&sizes) {
                    let (room, others) = rest.split_at_mut(values(*size));
                    input.write(&self.loaded.transform, room);
                    rest = others;
                }
                session.embed(PixelBatch::of_sizes(&pixels, &sizes))?
            }
        };
        // Only random decisions depend on the key, which is a hash of the pixels.
        let random = self.ladder.points[point].dial.as_ref().is_some_and(Dial::is_random);
        let key = |(input, _): &(&Input, Ask)| if random { input.key() } else { 0 };
        let keys: Vec<ImageKey> = images.iter().map(key).collect();
        let stages = if images.iter().any(|(_, ask)| ask.features == Some(FeatureKind::Tokens)) {
            run_blocks(session, pruner, &mut state, &keys, spec.depth)?
        } else {
            run_to_answer(session, pruner, &mut state, &keys)?
        };
        let outcome = |b: usize| Outcome {
            logits: None,
            features: None,
            stages: stages.iter().map(|stage| Survivors::of(stage, b)).collect(),
            macs: image_macs(&spec.of_grid(state.packed.grids[b]), pruner, &stages, b),
        };
        let mut outcomes: Vec<Outcome> = (0..images.len()).map(outcome).collect();
        if images.iter().any(|(_, ask)| ask.logits) {
            let logits = session.finish(&state, Want::Logits)?;
            for (b, outcome) in outcomes.iter_mut().enumerate() {
                if images[b].1.logits {
                    outcome.logits = Some(logits.row(b).to_vec());
                }
            }
        }
        for kind in [FeatureKind::Pooled, FeatureKind::Tokens, FeatureKind::Embedding] {
            if !images.iter().any(|(_, ask)| ask.features == Some(kind)) {
                continue;
            }
            let each = outcomes.iter_mut().zip(images).zip(features(session, &state, kind)?).enumerate();
            for (b, ((outcome, (_, ask)), features)) in each {
                if ask.features != Some(kind) {
                    continue;
                }
                outcome.features = Some(features);
                if !ask.logits {
                    let spec = spec.of_grid(state.packed.grids[b]);
                    outcome.macs = feature_macs(&spec, pruner, &stages, b, kind);
                }
            }
        }
        Ok(outcomes)
    }

    /// Runs the largest batch that `budget` (1e9 MACs) allows on every stream at once, and one image on all threads.
    /// Returns the seconds that a stream took for 1e9 MACs.
    ///
    /// # Errors
    /// If the backbone or the pruner returns an error.
    pub fn warm_up(&self, budget: f64, most: usize) -> Result<f64> {
        let point = if self.elastic { 0 } else { self.ladder.fixed };
        let image = Input::Pixels(vec![0.0; self.values()]);
        let ask = self.answer();
        self.run(Lane::Wide, point, &[(&image, ask)])?;
        // Of the harshest point, too: a policy's own arithmetic is warm before the first surge.
        let last = self.ladder.points.len() - 1;
        let size = ((budget / self.ladder.points[point].gmacs) as usize).clamp(1, most);
        let batch = vec![(&image, ask); size];
        let started = Instant::now();
        let streams = 0..self.narrow.len();
        let macs = std::thread::scope(|scope| {
            let run = |stream| {
                scope.spawn({
                    let batch = &batch;
                    move || {
                        let outcomes = self.run(Lane::Narrow(stream), point, batch)?;
                        let took = started.elapsed();
                        self.run(Lane::Narrow(stream), last, &batch[..1])?;
                        Ok((took, outcomes.iter().map(|outcome| outcome.macs).sum::<u64>()))
                    }
                })
            };
            let running: Vec<_> = streams.map(run).collect();
            let ran = running.into_iter().map(|stream| stream.join().expect("no pass panics"));
            ran.collect::<Result<Vec<(Duration, u64)>>>()
        })?;
        let (seconds, gmacs) = macs.iter().fold((0.0, 0.0), |(seconds, gmacs), (took, macs)| {
            (seconds + took.as_secs_f64(), gmacs + *macs as f64 / 1e9)
        });
        Ok(seconds / gmacs)
    }
}

/// An engine that requests share with the scheduler; it ends with the last of them.
pub type SharedEngine = Arc<Engine>;
