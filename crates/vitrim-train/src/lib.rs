//! The Markov game of token pruning.
//!
//! Every patch token is an agent that stays or leaves at each stage of a frozen backbone; one shared actor is trained
//! by MAPPO with one centralised critic. The steps of an update are `rollout` (play), [`rewards`] and `assemble`
//! (rewards), `advantages`, [`mappo`] (learning) and `constraint` (beta follows the accuracy target); `trainer` runs
//! them in this order. `gumbel` is a control, which learns by gradients instead. [`pretrain`] trains backbones from
//! scratch, [`finetune`] trains them under a policy.
//!
//! All three ([`train`], [`pretrain`] and [`finetune`]) are the same kind of run, which `run` keeps in a folder and
//! resumes. Only this crate uses Burn; [`burn_vit`] is its differentiable Vision Transformer.

mod adam;
mod advantages;
mod assemble;
pub mod burn_vit;
mod checks;
pub mod config;
mod constraint;
mod device;
mod division;
mod error;
mod experience;
pub mod finetune;
mod fused;
mod gumbel;
mod linear;
pub mod mappo;
pub mod metric;
mod norm;
pub mod perceptron;
pub mod pretrain;
pub mod rewards;
mod rollout;
mod run;
mod schedule;
mod session;
mod share;
mod trainer;

pub use checks::one_size;
pub use config::TrainConfig;
pub use device::DeviceChoice;
pub use error::{Result, TrainError};
pub use experience::Experience;
pub use run::{LOG_FILE, Outcome, RunEvent, RunFolder};
pub use session::{Aim, Ground, Run, Source, train, updates_done};
pub use trainer::{Images, Start, Trainer, UpdateLog};
