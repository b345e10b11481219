//! Pruners: which tokens leave, and where.
//!
//! A [`Pruner`] names the sites where it acts and, at each site, turns what it sees of a packed batch into a
//! reduction. [`run`] is the one data flow that every pruner shares: pixels -> packed tokens -> (blocks, pruner,
//! reduction)* -> logits. [`LearnedPruner`] is the trained policy (it runs without an ML framework); the hand-made
//! methods, each found by its name as a [`Method`], are the baselines, and [`NoPruner`] is the dense model.
//!
//! ```
//! use vitrim_prune::{Method, run};
//! use vitrim_vit::{CpuBackbone, PixelBatch, Tensors, VitSpec};
//! let spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([32, 32]);
//! let model = CpuBackbone::new(&spec, &Tensors::random(&spec, 0)).unwrap();
//! let method: Method = "cls-attention".parse().unwrap();
//! let pruner = method.at_shares(&spec, &[3, 6, 9], &[0.7, 0.49, 0.343]).unwrap();
//! let pixels = vec![0.0; 3 * 32 * 32];
//! let pruned = run(&model, pruner.as_ref(), PixelBatch::new(&pixels, 1), &[0]).unwrap();
//! assert_eq!(pruned.stages[2].patch_tokens(0), 1); // 0.343 of 4 patch tokens
//! ```

pub mod divergence;
mod handmade;
pub mod limits;
pub mod policy;
mod pruner;
mod ranking;
mod run;

pub use handmade::{
    FIT_IMAGES, Fit, FitPoint, KeepProfile, LEAST_FIT_IMAGES, Method, NoPruner, RandomPruner, keep_shares,
    parse_hand_made,
};
pub use policy::{AnyPolicy, Dial, LearnedPruner, MethodPolicy, Policy, ReadOut};
pub use pruner::{ImageKey, PruneError, Pruner, Result, Tell};
pub use run::{
    Pruned, StageRecord, block_macs, first_site, image_macs, run, run_blocks, run_from, run_to_answer,
};
