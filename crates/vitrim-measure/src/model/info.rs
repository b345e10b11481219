//! A backbone's geometry and its cost at several keep ratios.

use serde::Serialize;
use vitrim_vit::{Site, VitSpec, cost};

/// Keep ratios per stage that are shown by default.
pub const KEEP_RATIOS: [f64; 5] = [0.9, 0.8, 0.7, 0.6, 0.5];

/// Everything about a backbone that needs no image.
#[derive(Clone, Debug, Serialize)]
pub struct Info {
    /// Geometry, under timm's names.
    pub spec: VitSpec,
    /// Number of parameters.
    pub parameters: usize,
    /// N0, the number of patch tokens.
    pub patch_tokens: usize,
    /// Number of prefix tokens, which are never pruned.
    pub prefix_tokens: usize,
    /// Default stages.
    pub default_stages: Vec<usize>,
    /// MACs of the dense model's answer per image, in units of 1e9: without what nobody reads in the last block.
    pub dense_gmacs: f64,
    /// MACs of the dense model per image as papers count, in units of 1e9: all tokens in all blocks.
    pub published_gmacs: f64,
    /// Costs at keep ratios.
    pub profiles: Vec<ProfileCost>,
    /// What was chosen among several readings of the checkpoint; left out of the JSON if there is nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Info {
    /// With the notes of the checkpoint that was opened.
    #[must_use]
    pub fn with_notes(self, notes: Vec<String>) -> Self {
        Info { notes, ..self }
    }
}

/// The cost of one keep ratio: the same share of the survivors stays at each default stage.
#[derive(Clone, Debug, Serialize)]
pub struct ProfileCost {
    /// Share of the survivors that stays at a stage.
    pub keep: f64,
    /// Tokens after each stage, prefix tokens included.
    pub tokens: Vec<usize>,
    /// MACs per image, in units of 1e9, without any scoring.
    pub gmacs: f64,
    /// MACs as a share of the dense model's.
    pub cost: f64,
}

/// Information on `spec`, with costs at `keep_ratios`.
pub fn info(spec: &VitSpec, keep_ratios: &[f64]) -> Info {
    let stages = spec.default_stages();
    let dense = cost::dense_macs(spec);
    let profile = |&keep: &f64| {
        let shares: Vec<f64> = (1..=stages.len()).map(|k| keep.powi(k as i32)).collect();
        let tokens = cost::profile_tokens(spec, &shares);
        let trajectory: Vec<(Site, usize)> =
            stages.iter().zip(&tokens).map(|(block, n)| (Site::input_of(*block), *n)).collect();
        let macs = cost::image_macs(spec, &trajectory);
        ProfileCost { keep, tokens, gmacs: macs as f64 / 1e9, cost: macs as f64 / dense as f64 }
    };
    Info {
        parameters: spec.num_parameters(),
        patch_tokens: spec.num_patches(),
        prefix_tokens: spec.num_prefix_tokens(),
        dense_gmacs: dense as f64 / 1e9,
        published_gmacs: cost::published_macs(spec) as f64 / 1e9,
        profiles: keep_ratios.iter().map(profile).collect(),
        default_stages: stages,
        spec: spec.clone(),
        notes: Vec::new(),
    }
}
