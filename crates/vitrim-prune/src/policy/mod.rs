//! Policies: the learned one (one actor shared by all agents, and how its probabilities become decisions), and methods that
//! are fitted to a backbone and set to a cost: hand-made ones, and merging by a learned metric. A folder holds either
//! ([`AnyPolicy`]).

pub mod actor;
mod any;
mod balance;
mod cosines;
mod file;
mod inference;
mod learned;
mod method;
mod metric;
mod pairing;
mod read_out;
pub mod relative;
mod universal;
mod untrained;

pub use actor::{Departure, Nonlinearity, Observation, PerceptronSpec, PerceptronWeights};
pub use any::{AnyPolicy, Dial};
pub use balance::{BALANCE_IMAGES, balance};
pub use file::{BackboneId, Policy};
pub use inference::contexts;
pub use learned::{Decision, LearnedPruner};
pub use method::{MethodPolicy, Recipe};
pub use metric::{METRIC_NORM_EPS, MetricHeads};
pub use pairing::Pairing;
pub use read_out::ReadOut;
pub use universal::{UNIVERSAL, Universal, blocks_at};
