//! The hand-made methods: the baselines of a learned policy.
//!
//! Each follows its paper, on a frozen backbone, without the training that some papers add.
//!
//! # How to add one
//!
//! Write a file beside the others: a struct that implements [`Pruner`](crate::Pruner), and a constant `METHOD` that says what
//! it is called, what it does, and how it is made for a [`KeepProfile`] (or, if it acts in every block, for a number of tokens
//! or a cost). Name the file in this one, and `METHOD` in [`registry`]'s list. The command line, Python, the sweeps and
//! studies of `compare`, and the reports' charts find it there. `similarity.rs` is the shortest example; the tests of
//! `registry` run every method on the list.

mod ats;
mod cls_attention;
mod dense;
mod evit;
mod keep_profile;
mod random;
mod registry;
mod similarity;
mod tome;

pub use dense::NoPruner;
pub use keep_profile::KeepProfile;
pub use random::RandomPruner;
use registry::{Acts, HandMade};
pub use registry::{Method, keep_shares, parse_hand_made};
