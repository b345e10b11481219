//! What `/metrics` tells, in Prometheus' text format. The recorder is the server's own, not the process's.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::points::OperatingPoint;
use crate::scheduler::Dropped;

/// Bounds of the buckets of durations, seconds.
const SECONDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0];
/// Bounds of the buckets of images in a batch.
const IMAGES: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];

const METADATA: Metadata<'static> = Metadata::new("vitrim", Level::INFO, Some("vitrim_serve"));

/// The server's metrics.
pub struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    /// Connections that are open.
    pub connections: Gauge,
    /// Images that were decoded.
    pub decoded: Counter,
    /// Time of decoding and resizing an image.
    pub decode_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let suffix = |suffix: &str| Matcher::Suffix(suffix.to_owned());
        let builder = PrometheusBuilder::new()
            .set_buckets_for_metric(suffix("_seconds"), &SECONDS)
            .and_then(|builder| builder.set_buckets_for_metric(suffix("_batch_images"), &IMAGES))
            .expect("the bounds are not empty");
        let recorder = Arc::new(builder.build_recorder());
        let counters = [
            ("vitrim_requests_total", "Requests, by route and HTTP status."),
            ("vitrim_images_total", "Images answered, by operating point."),
            ("vitrim_gmacs_total", "MACs computed, 1e9."),
            ("vitrim_batches_total", "Batches computed."),
            ("vitrim_images_refused_total", "Images refused because the queue was full."),
            ("vitrim_images_dropped_total", "Images dropped before they started, by reason."),
            ("vitrim_images_decoded_total", "Images decoded."),
            ("vitrim_operating_point_changes_total", "Changes of the operating point, by direction."),
            ("vitrim_loads_total", "Loads and reloads of a model, by outcome."),
        ];
        for (name, description) in counters {
            recorder.describe_counter(name.into(), None, description.into());
        }
        let gauges = [
            ("vitrim_queue_images", "Images admitted that have not started."),
            ("vitrim_operating_point", "Index of the operating point that serves; 0 is the dense model."),
            (
                "vitrim_operating_point_certified_loss",
                "The loss that the operating point certifies, pp of top-1 or percent of drift; NaN if none.",
            ),
            ("vitrim_model_ready", "1 if the model serves."),
            ("vitrim_connections", "Connections that are open."),
        ];
        for (name, description) in gauges {
            recorder.describe_gauge(name.into(), None, description.into());
        }
        let histograms = [
            ("vitrim_request_seconds", "Time of a request, from its head to its answer."),
            ("vitrim_queue_seconds", "Time of an image between decoding and computing."),
            ("vitrim_compute_seconds", "Time of a batch."),
            ("vitrim_decode_seconds", "Time of decoding and resizing an image."),
        ];
        for (name, description) in histograms {
            recorder.describe_histogram(name.into(), Some(Unit::Seconds), description.into());
        }
        recorder.describe_histogram("vitrim_batch_images".into(), None, "Images in a batch.".into());
        Metrics {
            connections: recorder.register_gauge(&Key::from_name("vitrim_connections"), &METADATA),
            decoded: recorder.register_counter(&Key::from_name("vitrim_images_decoded_total"), &METADATA),
            decode_seconds: recorder.register_histogram(&Key::from_name("vitrim_decode_seconds"), &METADATA),
            recorder,
        }
    }
}

impl Metrics {
    /// Renders all metrics.
    pub fn handle(&self) -> PrometheusHandle {
        self.recorder.handle()
    }

    /// The metrics of the model `name`.
    pub fn model(&self, name: &str) -> ModelMetrics {
        let model = || Label::new("model", name.to_owned());
        let key = |metric: &'static str, labels: &[(&'static str, &'static str)]| {
            let more = labels.iter().map(|(name, value)| Label::new(*name, *value));
            Key::from_parts(metric, std::iter::once(model()).chain(more).collect::<Vec<_>>())
        };
        let counter = |metric, labels: &[_]| self.recorder.register_counter(&key(metric, labels), &METADATA);
        let gauge = |metric| self.recorder.register_gauge(&key(metric, &[]), &METADATA);
        let histogram = |metric| self.recorder.register_histogram(&key(metric, &[]), &METADATA);
        ModelMetrics {
            queue: gauge("vitrim_queue_images"),
            refused: counter("vitrim_images_refused_total", &[]),
            late: counter("vitrim_images_dropped_total", &[("reason", "deadline")]),
            abandoned: counter("vitrim_images_dropped_total", &[("reason", "disconnected")]),
            batches: counter("vitrim_batches_total", &[]),
            gmacs: counter("vitrim_gmacs_total", &[]),
            batch_images: histogram("vitrim_batch_images"),
            queue_seconds: histogram("vitrim_queue_seconds"),
            compute_seconds: histogram("vitrim_compute_seconds"),
            point: gauge("vitrim_operating_point"),
            certified: gauge("vitrim_operating_point_certified_loss"),
            cheaper: counter("vitrim_operating_point_changes_total", &[("direction", "cheaper")]),
            milder: counter("vitrim_operating_point_changes_total", &[("direction", "milder")]),
            ready: gauge("vitrim_model_ready"),
            loaded: counter("vitrim_loads_total", &[("outcome", "loaded")]),
            failed: counter("vitrim_loads_total", &[("outcome", "failed")]),
            gmacs_left: Mutex::new(0.0),
            name: name.to_owned(),
            recorder: Arc::clone(&self.recorder),
        }
    }

    /// Counts a request.
    pub fn request(&self, route: &str, status: u16, took: Duration) {
        let labels = vec![Label::new("route", route.to_owned()), Label::new("status", status.to_string())];
        let requests = Key::from_parts("vitrim_requests_total", labels);
        self.recorder.register_counter(&requests, &METADATA).increment(1);
        let labels = vec![Label::new("route", route.to_owned())];
        let seconds = Key::from_parts("vitrim_request_seconds", labels);
        self.recorder.register_histogram(&seconds, &METADATA).record(took.as_secs_f64());
    }
}

/// The metrics of one model.
pub struct ModelMetrics {
    /// Images admitted that have not started.
    pub queue: Gauge,
    /// Images refused because the queue was full.
    pub refused: Counter,
    late: Counter,
    abandoned: Counter,
    batches: Counter,
    gmacs: Counter,
    batch_images: Histogram,
    /// Time of an image between decoding and computing.
    pub queue_seconds: Histogram,
    compute_seconds: Histogram,
    point: Gauge,
    certified: Gauge,
    cheaper: Counter,
    milder: Counter,
    /// 1 if the model serves.
    pub ready: Gauge,
    /// Loads that succeeded.
    pub loaded: Counter,
    /// Loads that failed.
    pub failed: Counter,
    /// The part of the MACs that is not yet a whole 1e9.
    gmacs_left: Mutex<f64>,
    name: String,
    recorder: Arc<PrometheusRecorder>,
}

impl ModelMetrics {
    /// Counts images that were dropped before they started.
    pub fn dropped(&self, dropped: Dropped) {
        self.late.increment(dropped.late as u64);
        self.abandoned.increment(dropped.abandoned as u64);
    }

    /// Counts a batch of `images` images and `gmacs` 1e9 MACs, which took `took`.
    pub fn batch(&self, images: usize, gmacs: f64, took: Duration) {
        self.batches.increment(1);
        self.batch_images.record(images as f64);
        self.compute_seconds.record(took.as_secs_f64());
        // Counters are whole numbers.
        let mut left = self.gmacs_left.lock().unwrap_or_else(PoisonError::into_inner);
        *left += gmacs;
        self.gmacs.increment(left.trunc() as u64);
        *left = left.fract();
    }

    /// Counts `images` images that were served at `point`.
    pub fn served(&self, point: &OperatingPoint, images: usize) {
        let labels =
            vec![Label::new("model", self.name.clone()), Label::new("operating_point", point.name.clone())];
        let key = Key::from_parts("vitrim_images_total", labels);
        self.recorder.register_counter(&key, &METADATA).increment(images as u64);
    }

    /// Tells that the server is at `point`, the `index`-th.
    pub fn at(&self, index: usize, point: &OperatingPoint) {
        self.point.set(index as f64);
        self.certified.set(point.certified.as_ref().map_or(f64::NAN, |bound| bound.at_most));
    }

    /// Counts a change of the operating point from one index to another, if it is one.
    pub fn moved(&self, from: usize, to: usize) {
        if to > from {
            self.cheaper.increment(1);
        } else if to < from {
            self.milder.increment(1);
        }
    }
}
