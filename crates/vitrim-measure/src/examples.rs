//! Single images at the cheap, the typical and the expensive end of a policy's costs, with the patches that it keeps.

use std::fmt;

use serde::{Deserialize, Serialize};
use vitrim_data::{Corruption, Dataset, RgbImage};
use vitrim_prune::{AnyPolicy, ImageKey, run};
use vitrim_vit::PixelBatch;

use crate::error::Result;
use crate::evaluate::Details;
use crate::model::Loaded;
use crate::predict::size_of;

/// Ranks of the cheap, typical and expensive images, as shares of all images sorted by cost.
const RANKS: [(Group, [f64; 3]); 3] = [
    (Group::Cheap, [0.01, 0.03, 0.05]),
    (Group::Typical, [0.48, 0.50, 0.52]),
    (Group::Expensive, [0.95, 0.97, 0.99]),
];

/// Rank of an image among all images by its cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// Among the cheapest.
    Cheap,
    /// Around the median.
    Typical,
    /// Among the most expensive.
    Expensive,
}

impl Group {
    /// All groups, in the order of a page.
    pub const ALL: [Group; 3] = [Group::Cheap, Group::Typical, Group::Expensive];
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Group::Cheap => "cheap",
            Group::Typical => "typical",
            Group::Expensive => "expensive",
        })
    }
}

/// An image, and the patches that the policy keeps.
pub struct Example {
    /// The group for which it was chosen.
    pub group: Group,
    /// Its position in the data set.
    pub index: usize,
    /// The backbone's input, before normalisation.
    pub crop: RgbImage,
    /// Grid positions that are left after each stage, `[K]`.
    pub kept: Vec<Vec<usize>>,
    /// The pruned model's class; `None` without classes.
    pub class: Option<usize>,
    /// MACs of the image as a share of the dense model's.
    pub cost: f32,
}

/// Some images at each rank of `details.costs`, run through `policy` again, with the corruption of the evaluation.
///
/// # Errors
/// If an image cannot be read, or the policy returns an error.
pub fn examples(
    loaded: &Loaded,
    policy: &AnyPolicy,
    dataset: &Dataset,
    details: &Details,
    corruption: Option<Corruption>,
) -> Result<Vec<Example>> {
    let mut order: Vec<usize> = (0..details.costs.len()).collect();
    order.sort_by(|a, b| details.costs[*a].total_cmp(&details.costs[*b]));
    let mut chosen: Vec<(Group, usize)> = Vec::new();
    for (group, rank) in RANKS.iter().flat_map(|(group, ranks)| ranks.iter().map(move |rank| (*group, rank)))
    {
        if let Some(&place) = order.get((rank * order.len() as f64) as usize)
            && chosen.iter().all(|(_, before)| *before != place)
        {
            chosen.push((group, place));
        }
    }
    let pruner = policy.pruner(&loaded.spec)?;
    let example = |(group, place): (Group, usize)| -> Result<Example> {
        let index = details.indices[place];
        let mut crop = loaded.transform.cropped(&dataset.image(index)?);
        if let Some(corruption) = corruption {
            crop = corruption.apply(&crop, index)?;
        }
        let pixels = loaded.transform.normalized(&crop);
        let pruned = run(
            &loaded.model,
            pruner.as_ref(),
            PixelBatch::of_sizes(&pixels, &[size_of(&crop)]),
            &[index as ImageKey],
        )?;
        Ok(Example {
            group,
            index,
            crop,
            kept: pruned.stages.iter().map(|stage| stage.grid_positions(0)).collect(),
            class: (loaded.spec.num_classes > 0).then(|| pruned.answer.argmax()[0]),
            cost: details.costs[place],
        })
    };
    chosen.into_iter().map(example).collect()
}
