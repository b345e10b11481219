//! The hand-made methods: the baselines of a learned policy.
//!
//! Each follows its paper, on a frozen backbone, without the training that some papers add.
//!
//! # How to add one
//!
//! Write a file beside the others: a struct that implements [`Pruner`](crate::Pruner), and a constant `METHOD` that says
//! what it is called, what it does, and how it is made: from a [`KeepProfile`]; if it acts in every block, from the number
//! of tokens that each block removes; if its numbers are fitted to the backbone, from the points of a [`Fit`]. Name the file in this one,
//! and `METHOD` in [`registry`]'s list. The command line, Python, the sweeps and studies of `compare`, and the reports'
//! charts find it there. `similarity.rs` is the shortest example; the tests of `registry` run every method on the list.

mod atc;
mod ats;
mod cls_attention;
mod clustering;
mod cosines;
mod dense;
mod diffrate;
mod diffrate_schedules;
mod dtome;
mod evit;
mod fit;
mod groups;
mod keep_profile;
mod mctf;
mod pitome;
mod random;
#[cfg(test)]
mod random_states;
mod registry;
mod schedule;
mod similarity;
mod tofu;
mod tome;

pub use dense::NoPruner;
pub use fit::{FIT_IMAGES, Fit, FitPoint, LEAST_FIT_IMAGES};
pub use keep_profile::KeepProfile;
pub use random::RandomPruner;
use registry::{Acts, HandMade};
pub use registry::{Method, keep_shares, parse_hand_made};
pub(crate) use schedule::Schedule;
pub(crate) use tome::{matching_macs, merge_alike, sites_in_every_block};
