//! Accuracy that gives way before requests do: which operating point serves, given the queue and the load.
//!
//! The controller is a function of numbers alone (time in seconds, images that wait), so that a simulation can replay it.
//!
//! * **Towards cheaper points at once**, when the images that wait would take more than `WAITING_SHARE` of the target to
//!   clear, or when the offered load exceeds `FULL` of what the streams carry at the present point: to the mildest point
//!   at which neither holds.
//! * **Back one point at a time**, when the next milder point would carry the load with room to spare (`ROOMY`) and
//!   nearly nothing waits, and this has held for a dwell time. The gap between the two conditions is the hysteresis.
//! * If a step back has to be taken forward again soon, the dwell time doubles, up to `LONGEST_DWELL`: a load that lies
//!   between two points is then served at the cheaper one, and the server does not flutter.

/// Share of the target that clearing what waits may take. A batch that is running, and the image's own batch, take at
/// most [`BATCH_SHARE`] each; the rest is for decoding and the network.
const WAITING_SHARE: f64 = 0.4;
/// Largest time of a batch as a share of the target.
pub const BATCH_SHARE: f64 = 0.2;
/// Share of the target that clearing what waits may take at the milder point before the server steps back.
const CALM_SHARE: f64 = 0.1;
/// Load, as a share of what the streams carry, above which the point is too mild.
const FULL: f64 = 0.97;
/// Load at a cheaper point to which the server moves.
const COMFORTABLE: f64 = 0.9;
/// Load at the milder point below which the server may step back.
const ROOMY: f64 = 0.75;
/// Shortest time for which a milder point must suffice before the server steps back, seconds.
const DWELL: f64 = 2.0;
/// Longest such time, seconds.
const LONGEST_DWELL: f64 = 60.0;
/// Time constant of the measured arrival rate, seconds.
const RATE_SECONDS: f64 = 5.0;
/// Weight of a new measurement of the speed, in a moving average.
const SPEED_WEIGHT: f64 = 0.05;

/// What the controller knows of one model.
#[derive(Clone, Debug)]
pub struct Elastic {
    /// Expected cost of an image at each point, 1e9 MACs, descending.
    costs: Vec<f64>,
    /// Streams that compute at the same time.
    streams: f64,
    /// The latency that 99 of 100 images should stay below, seconds.
    target: f64,
    /// Seconds that one stream takes for 1e9 MACs.
    seconds_per_gmac: f64,
    rate: ArrivalRate,
    level: usize,
    /// Since when the next milder point would suffice.
    calm_since: Option<f64>,
    /// When the server last stepped back.
    stepped_back: f64,
    dwell: f64,
}

impl Elastic {
    /// A controller at the mildest of the points with these `costs` (1e9 MACs per image, descending), for `streams`
    /// streams that need `seconds_per_gmac` each, and a `target` latency in seconds.
    pub fn new(costs: Vec<f64>, streams: usize, seconds_per_gmac: f64, target: f64) -> Self {
        Elastic {
            costs,
            streams: streams as f64,
            target,
            seconds_per_gmac,
            rate: ArrivalRate::default(),
            level: 0,
            calm_since: None,
            stepped_back: f64::NEG_INFINITY,
            dwell: DWELL,
        }
    }

    /// The point that serves now.
    pub fn level(&self) -> usize {
        self.level
    }

    /// The most 1e9 MACs that a batch on one stream may have, so that no image waits long for its end.
    pub fn batch_gmacs(&self) -> f64 {
        BATCH_SHARE * self.target / self.seconds_per_gmac
    }

    /// Notes that `images` were offered at time `now`, whether they were admitted or not.
    pub fn arrived(&mut self, now: f64, images: usize) {
        self.rate.arrived(now, images as f64);
    }

    /// Notes that a stream took `seconds` for a batch of `gmacs` 1e9 MACs.
    pub fn computed(&mut self, gmacs: f64, seconds: f64) {
        if gmacs > 0.0 && seconds > 0.0 {
            self.seconds_per_gmac += SPEED_WEIGHT * (seconds / gmacs - self.seconds_per_gmac);
        }
    }

    /// Chooses the point for what starts at time `now`, while `waiting` images of this model wait, and work of `others`
    /// seconds of one stream for other models.
    pub fn choose(&mut self, now: f64, waiting: usize, others: f64) -> usize {
        let rate = self.rate.at(now);
        let last = self.costs.len() - 1;
        let too_mild = |level: usize, load: f64| {
            self.clearing(level, waiting, others) > WAITING_SHARE * self.target
                || self.load(level, rate) > load
        };
        if self.level < last && too_mild(self.level, FULL) {
            let enough = (self.level + 1..last).find(|level| !too_mild(*level, COMFORTABLE));
            // The load of the step back that failed returns: wait longer before the next.
            if now - self.stepped_back < 2.0 * self.dwell {
                self.dwell = (2.0 * self.dwell).min(LONGEST_DWELL);
            }
            self.level = enough.unwrap_or(last);
            self.calm_since = None;
        } else if self.level > 0 {
            let milder = self.level - 1;
            let calm = self.clearing(milder, waiting, others) <= CALM_SHARE * self.target
                && self.load(milder, rate) <= ROOMY;
            let since = *self.calm_since.get_or_insert(now);
            if !calm {
                self.calm_since = None;
            } else if now - since >= self.dwell {
                if now - self.stepped_back > 4.0 * self.dwell {
                    self.dwell = (0.5 * self.dwell).max(DWELL);
                }
                self.level = milder;
                self.stepped_back = now;
                self.calm_since = None;
            }
        }
        self.level
    }

    /// Seconds until the streams have cleared what waits, at point `level`.
    fn clearing(&self, level: usize, waiting: usize, others: f64) -> f64 {
        (waiting as f64 * self.costs[level] * self.seconds_per_gmac + others) / self.streams
    }

    /// The offered load at point `level`, as a share of what the streams carry.
    fn load(&self, level: usize, rate: f64) -> f64 {
        rate * self.costs[level] * self.seconds_per_gmac / self.streams
    }

    /// Seconds that one stream takes for the `waiting` images at the present point.
    pub fn work(&self, waiting: usize) -> f64 {
        waiting as f64 * self.costs[self.level] * self.seconds_per_gmac
    }
}

/// Images per second, in an exponential window.
#[derive(Clone, Debug, Default)]
struct ArrivalRate {
    /// Images in the window, at time `at`.
    images: f64,
    at: Option<f64>,
    since: f64,
}

impl ArrivalRate {
    fn arrived(&mut self, now: f64, images: f64) {
        let before = match self.at {
            Some(at) => self.images * decay(now - at),
            None => {
                self.since = now;
                0.0
            }
        };
        (self.images, self.at) = (before + images, Some(now));
    }

    /// The rate at time `now`.
    fn at(&self, now: f64) -> f64 {
        let Some(at) = self.at else { return 0.0 };
        // Before the window is full once, it is as long as the time since the first image, but at least half of it:
        // a first burst is no rate.
        let full = (1.0 - decay(now - self.since)).max(0.5);
        self.images * decay(now - at) / (RATE_SECONDS * full)
    }
}

fn decay(seconds: f64) -> f64 {
    (-seconds.max(0.0) / RATE_SECONDS).exp()
}
