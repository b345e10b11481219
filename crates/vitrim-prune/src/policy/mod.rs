//! The learned policy: one actor shared by all agents, and how its probabilities become decisions.

pub mod actor;
mod balance;
mod file;
mod inference;
mod learned;
mod pairing;
mod read_out;
pub mod relative;
mod universal;
mod untrained;

pub use actor::{Departure, Nonlinearity, Observation, PerceptronSpec, PerceptronWeights};
pub use balance::{BALANCE_IMAGES, balance};
pub use file::{BackboneId, Policy};
pub use inference::contexts;
pub use learned::{Decision, LearnedPruner};
pub use pairing::Pairing;
pub use read_out::ReadOut;
pub use universal::{UNIVERSAL, Universal, blocks_at};
