//! The Markov game of token pruning.
//!
//! Every patch token is an agent that stays or leaves at each stage of a frozen backbone; one shared
//! actor learns by MAPPO against one centralised critic. An update happens in this order:
//! `rollout` (play), [`rewards`] and `assemble` (pay), `advantages` (judge), [`mappo`] (learn),
//! `constraint` (follow the accuracy target); `trainer` strings it together. `gumbel` is the control, which learns
//! by gradients instead. [`pretrain`] makes backbones, [`finetune`] lets them learn under a policy.
//!
//! All three ([`train`], [`pretrain`] and [`finetune`]) are one kind of run, which `run` keeps in a folder and resumes.
//! Burn lives in this crate alone; [`burn_vit`] is its differentiable Vision Transformer.

mod adam;
mod advantages;
mod assemble;
pub mod burn_vit;
mod checks;
pub mod config;
mod constraint;
mod device;
mod error;
mod experience;
pub mod finetune;
mod fused;
mod gumbel;
mod linear;
pub mod mappo;
mod norm;
pub mod perceptron;
pub mod pretrain;
mod replica;
pub mod rewards;
mod rollout;
mod run;
mod schedule;
mod session;
mod trainer;

pub use config::TrainConfig;
pub use device::DeviceChoice;
pub use error::{Result, TrainError};
pub use experience::Experience;
pub use run::{LOG_FILE, Outcome, RunEvent, RunFolder};
pub use session::{Run, Source, train, updates_done};
pub use trainer::{Images, Trainer, UpdateLog};
