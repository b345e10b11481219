//! The models of a server: what each is opened from, its engine, and what is being done to it.
//!
//! A load builds a new engine beside the old one, warms it up and then puts it in its place. Requests keep the engine that
//! they were admitted with, so that none is lost; a load that fails leaves the old engine serving.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use serde::Serialize;
use utoipa::ToSchema;
use vitrim_measure::MeasureError;

use crate::elastic::{BATCH_SHARE, Elastic};
use crate::engine::{Engine, SharedEngine, Source};
use crate::error::{Result, ServeError};
use crate::metrics::ModelMetrics;
use crate::refusal::Refusal;
use crate::scheduler::{Scheduler, Sliding};

/// One model of a server.
pub struct Slot {
    /// Its name in requests.
    pub name: String,
    source: Source,
    engine: ArcSwapOption<Engine>,
    stage: Mutex<String>,
    /// Held while the model is loaded, with the number of loads so far.
    loads: Mutex<u64>,
    metrics: ModelMetrics,
}

/// All models of a server. The first is the default.
pub struct Repository {
    slots: Vec<Slot>,
    /// The latency that 99 of 100 images should stay below, seconds.
    target: Option<f64>,
}

/// The stage of a model that serves.
pub const READY: &str = "ready";

impl Repository {
    /// The models with their names and metrics; none is loaded yet.
    pub fn new(models: Vec<(String, Source, ModelMetrics)>, target: Option<f64>) -> Self {
        let slot = |(name, source, metrics)| Slot {
            name,
            source,
            engine: ArcSwapOption::empty(),
            stage: Mutex::new("waiting to be loaded".into()),
            loads: Mutex::new(0),
            metrics,
        };
        Repository { slots: models.into_iter().map(slot).collect(), target }
    }

    /// The models.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The index of the model called `name`; without a name, the first.
    ///
    /// # Errors
    /// [`Refusal::NotFound`] if there is no such model.
    pub fn find(&self, name: Option<&str>) -> Result<usize, Refusal> {
        let Some(name) = name else { return Ok(0) };
        self.slots.iter().position(|slot| slot.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.slots.iter().map(|slot| slot.name.as_str()).collect();
            Refusal::NotFound(format!("no model {name}; this server has {}", names.join(", ")))
        })
    }

    /// The engine of the model at `index`.
    ///
    /// # Errors
    /// [`Refusal::Unavailable`] with what is being done, if there is none.
    pub fn engine(&self, index: usize) -> Result<SharedEngine, Refusal> {
        let slot = &self.slots[index];
        slot.engine.load_full().ok_or_else(|| {
            Refusal::Unavailable(format!("model {} is not ready: {}", slot.name, slot.stage()))
        })
    }

    /// Whether all models serve.
    pub fn is_ready(&self) -> bool {
        self.slots.iter().all(Slot::is_ready)
    }

    /// Loads the model at `index`, or loads it again, on the caller's thread.
    ///
    /// # Errors
    /// If it cannot be opened; what served before then still serves.
    pub fn load(&self, index: usize, scheduler: &Scheduler) -> Result<()> {
        let slot = &self.slots[index];
        // One load at a time; the counter stays valid if one panicked.
        let mut loads = slot.loads.lock().unwrap_or_else(PoisonError::into_inner);
        let version = *loads + 1;
        let started = Instant::now();
        let stage = |text: &'static str| {
            slot.set_stage(text);
            tracing::info!(model = slot.name, "{text}");
        };
        let built = self.build(slot, version, scheduler, &stage);
        match built {
            Ok((engine, sliding)) => {
                *loads = version;
                let ladder = &engine.ladder;
                let point = if engine.elastic { 0 } else { ladder.fixed };
                slot.metrics.at(point, &ladder.points[point]);
                tracing::info!(
                    model = slot.name,
                    version,
                    operating_points = ladder.points.len(),
                    operating_point = ladder.points[point].name,
                    seconds = started.elapsed().as_secs_f64(),
                    "loaded"
                );
                for note in &engine.loaded.notes {
                    tracing::info!(model = slot.name, "{note}");
                }
                scheduler.control(index, sliding);
                slot.engine.store(Some(Arc::new(engine)));
                slot.set_stage(READY);
                slot.metrics.loaded.increment(1);
                slot.metrics.ready.set(1.0);
                Ok(())
            }
            Err(source) => {
                slot.metrics.failed.increment(1);
                let serves = slot.engine.load().is_some();
                slot.set_stage(if serves { READY } else { "failed to load" });
                tracing::error!(model = slot.name, serves_on = serves, "not loaded: {source}");
                Err(ServeError::Model { name: slot.name.clone(), source: Box::new(source) })
            }
        }
    }

    fn build(
        &self,
        slot: &Slot,
        version: u64,
        scheduler: &Scheduler,
        stage: &dyn Fn(&'static str),
    ) -> Result<(Engine, Option<Sliding>), MeasureError> {
        let engine = Engine::open(&slot.source, version, scheduler.cores(), stage)?;
        stage("warming up");
        let (sizes, points) = (scheduler.sizes(), &engine.ladder.points);
        let speed = engine.warm_up(sizes.budget(points[0].gmacs), sizes.queue)?;
        if engine.elastic && engine.ladder.slide == 1 {
            tracing::warn!(
                model = slot.name,
                "the policy's record certifies no operating point within the limit: the dense model serves whatever the load"
            );
        }
        let sliding = self.target.filter(|_| engine.elastic).map(|target| {
            let points = points[..engine.ladder.slide].to_vec();
            let costs: Vec<f64> = points.iter().map(|point| point.gmacs).collect();
            let alone = points[0].gmacs * speed;
            if alone > BATCH_SHARE * target {
                tracing::warn!(
                    model = slot.name,
                    "one dense image takes {:.0} ms on one core, much of the target of {:.0} ms: it can be met under little load only",
                    1e3 * alone,
                    1e3 * target
                );
            }
            Sliding { controller: Elastic::new(costs, sizes.streams, speed, target), points }
        });
        Ok((engine, sliding))
    }

    /// Takes the model at `index` out of service. Images that were admitted are answered.
    pub fn unload(&self, index: usize) {
        let slot = &self.slots[index];
        let _loads = slot.loads.lock().unwrap_or_else(PoisonError::into_inner);
        slot.engine.store(None);
        slot.set_stage("unloaded");
        slot.metrics.ready.set(0.0);
        tracing::info!(model = slot.name, "unloaded");
    }
}

impl Slot {
    /// Whether the model serves.
    pub fn is_ready(&self) -> bool {
        self.engine.load().is_some()
    }

    /// What is being done to the model: [`READY`], or a stage of loading.
    pub fn stage(&self) -> String {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_stage(&self, stage: &str) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage.to_owned();
    }
}

/// The state of a model that serves, in the repository's index.
pub const AVAILABLE: &str = "READY";

/// A model of the server.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct IndexEntry {
    /// Its name.
    pub name: String,
    /// How often it was loaded; empty if it does not serve.
    pub version: String,
    /// `READY` or `UNAVAILABLE`.
    pub state: &'static str,
    /// What is being done to it, if it does not serve.
    pub reason: String,
}

/// The models of `repository`.
pub fn index(repository: &Repository) -> Vec<IndexEntry> {
    let entry = |slot: &Slot| {
        let name = slot.name.clone();
        match slot.engine.load_full() {
            Some(engine) => {
                let version = engine.version.to_string();
                IndexEntry { name, version, state: AVAILABLE, reason: String::new() }
            }
            None => IndexEntry { name, version: String::new(), state: "UNAVAILABLE", reason: slot.stage() },
        }
    };
    repository.slots().iter().map(entry).collect()
}
