//! The Markov game of token pruning.
//!
//! Every patch token is an agent that stays or leaves at each stage of a frozen backbone; one shared
//! actor learns by MAPPO against one centralised critic. An update happens in this order:
//! [`rollout`] (play), [`rewards`] and [`assemble`] (pay), [`advantages`] (judge), [`mappo`] (learn),
//! [`constraint`] (follow the accuracy target); [`trainer`] strings it together and [`session`] keeps it
//! on disk. [`gumbel`] is the control, which learns by gradients instead; [`pretrain`] makes backbones, [`finetune`] lets them learn
//! under a policy. Burn lives in this crate alone; [`burn_vit`] is its differentiable Vision Transformer.

pub mod adam;
pub mod advantages;
pub mod assemble;
pub mod burn_vit;
pub mod checkpoint;
mod checks;
pub mod config;
pub mod constraint;
pub mod device;
mod epochs;
mod error;
pub mod experience;
pub mod finetune;
mod fused;
pub mod gumbel;
pub mod linear;
pub mod mappo;
mod norm;
pub mod perceptron;
pub mod pretrain;
pub mod random;
mod replica;
pub mod rewards;
pub mod rollout;
pub mod run_log;
mod schedule;
pub mod session;
pub mod tensorboard;
pub mod trainer;

pub use config::TrainConfig;
pub use device::DeviceChoice;
pub use error::{Result, TrainError};
pub use experience::Experience;
pub use session::{Outcome, Progress, Run, Source, train};
pub use trainer::{Images, Trainer, UpdateLog};
