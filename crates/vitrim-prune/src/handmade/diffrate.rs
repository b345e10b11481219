//! Dropping and merging by the class token's attention, at numbers found for the backbone.

use vitrim_vit::{
    Backbone, CpuBackbone, Output, PixelBatch, Reduction, Site, Taps, View, VitSpec, Want, cost,
};

use super::cls_attention::class_attention;
use super::cosines::{best_of_rows, normed, products};
use super::diffrate_schedules::published;
use super::fit::{FitPoint, LEAST_FIT_IMAGES};
use super::{Acts, HandMade};
use crate::divergence::divergences;
use crate::pruner::{ImageKey, Pruner, Result, Tell};
use crate::ranking::rank;
use crate::run::run_to_answer;

pub(super) const METHOD: HandMade = HandMade {
    name: "diffrate",
    about: "drops and merges what the class token attends to least, at the published numbers for DeiT, else at numbers \
            that are searched on unlabelled images",
    first_block: 0,
    keeps_budgets: false,
    acts: Acts::Fitted {
        published: published_points,
        images: SEARCH_IMAGES,
        on_images: search,
        numbers,
        make: made,
    },
};

pub(super) const SEARCHED: HandMade = HandMade {
    name: "diffrate-search",
    about: "drops and merges what the class token attends to least, at numbers that are searched on unlabelled images",
    acts: Acts::Fitted { published: |_| None, images: SEARCH_IMAGES, on_images: search, numbers, make: made },
    ..METHOD
};

/// Tokens that a step of the search takes from a block, as a share of all.
const STEP: f64 = 1.0 / 24.0;
/// Images that the search measures divergences on, unless there are fewer.
const SEARCH_IMAGES: usize = LEAST_FIT_IMAGES;
/// The search ends at this share of the dense MACs.
const LEAST_COST: f64 = 0.3;

/// DiffRate (Chen et al., ICCV 2023): between attention and MLP of every block, the patch tokens are ranked by the class
/// token's attention to them. The last leave, and the last of those that remain join the kept one that is nearest by
/// the cosine of their embeddings (never a prefix token): plain means, while a token adds its size times that cosine.
/// Attention counts sizes. All images have the same numbers of tokens, which the authors learned by gradients.
#[derive(Clone, Debug)]
struct DiffratePruner {
    schedule: Counts,
    dim: usize,
}

/// Tokens of an image, prefix tokens included, that are left in each block.
#[derive(Clone, Debug, PartialEq)]
struct Counts {
    /// After dropping, `[L]`.
    kept: Vec<usize>,
    /// After merging, `[L]`.
    merged: Vec<usize>,
}

impl Counts {
    /// All of `spec`'s tokens in all blocks.
    fn dense(spec: &VitSpec) -> Self {
        let all = vec![spec.num_tokens(); spec.depth];
        Counts { kept: all.clone(), merged: all }
    }

    /// Of an image that enters block `block`'s MLP with `tokens` tokens: how many are not dropped, and how many of these
    /// are left after merging; at least `least`.
    fn of_block(&self, block: usize, tokens: usize, least: usize) -> (usize, usize) {
        let kept = self.kept[block].max(least).min(tokens);
        (kept, self.merged[block].max(least).min(kept))
    }

    /// Tokens at the end of each block, `[L]`.
    fn trajectory(&self, spec: &VitSpec) -> Vec<usize> {
        let mut tokens = spec.num_tokens();
        let of_block = |block| {
            tokens = self.of_block(block, tokens, least(spec.num_prefix_tokens())).1;
            tokens
        };
        (0..self.kept.len()).map(of_block).collect()
    }

    fn numbers(&self) -> Vec<f64> {
        self.kept.iter().chain(&self.merged).map(|count| *count as f64).collect()
    }

    fn of_numbers(numbers: &[f64]) -> Self {
        let counts: Vec<usize> = numbers.iter().map(|number| number.round() as usize).collect();
        let (kept, merged) = counts.split_at(counts.len() / 2);
        Counts { kept: kept.to_vec(), merged: merged.to_vec() }
    }
}

/// Blocks in which what the method does can change the answer.
fn acting(spec: &VitSpec) -> usize {
    (0..spec.depth).filter(|block| Site::after_attention_of(*block) < Site::of_answer(spec)).count()
}

/// One patch token always stays.
fn least(prefix: usize) -> usize {
    prefix + 1
}

impl DiffratePruner {
    fn new(spec: &VitSpec, schedule: Counts) -> Self {
        DiffratePruner { schedule, dim: spec.dim }
    }

    /// MACs of an image; they are the same for all images.
    fn image_macs(&self, spec: &VitSpec) -> u64 {
        let (mut tokens, mut scoring, mut steps) = (spec.num_tokens(), 0, Vec::new());
        for (block, left) in self.schedule.trajectory(spec).into_iter().enumerate().take(acting(spec)) {
            scoring += self.macs(block, tokens);
            steps.push((Site::after_attention_of(block), left));
            tokens = left;
        }
        cost::image_macs(spec, &steps) + scoring
    }
}

impl Pruner for DiffratePruner {
    fn sites(&self, spec: &VitSpec) -> Vec<(Site, Taps)> {
        (0..spec.depth).map(|block| (Site::after_attention_of(block), Taps::CLS_ATTENTION)).collect()
    }

    fn decide(&self, stage: usize, view: &View<'_>, _: &[ImageKey]) -> Result<Reduction> {
        let attention = class_attention(view)?;
        let (mut images, mut sizes) = (Vec::with_capacity(view.batch()), Vec::new());
        for b in 0..view.batch() {
            let (start, n) = (view.offsets[b], view.rows(b).len());
            let (kept, merged) = self.schedule.of_block(stage, n, least(view.prefix));
            let mut ranked = rank(view.patch_rows(b), attention);
            ranked.truncate(kept - view.prefix);
            let joining = ranked.split_off(merged - view.prefix);
            let mut rows: Vec<Vec<usize>> =
                (start..start + view.prefix).chain(ranked.iter().copied()).map(|row| vec![row]).collect();
            let mut mass: Vec<f32> = rows.iter().map(|row| view.sizes[row[0]]).collect();
            if !joining.is_empty() {
                let of = |rows: &[usize]| -> Vec<f32> {
                    rows.iter().flat_map(|row| view.token(*row)).copied().collect()
                };
                let (a, b) = (normed(&of(&joining), self.dim), normed(&of(&ranked), self.dim));
                let nearest = best_of_rows(&products(&a, &b, self.dim), ranked.len());
                for (row, (cosine, place)) in joining.into_iter().zip(nearest) {
                    rows[view.prefix + place].push(row);
                    mass[view.prefix + place] += cosine * view.sizes[row];
                }
            }
            let mean = |rows: Vec<usize>| {
                let weight = 1.0 / rows.len() as f32;
                rows.into_iter().map(|row| (row, weight)).collect::<Vec<(usize, f32)>>()
            };
            images.push(rows.into_iter().map(mean).collect::<Vec<_>>());
            // A size must stay positive; only tokens that all point away from each other come near to 0.
            sizes.extend(mass.into_iter().map(|size| size.max(f32::EPSILON)));
        }
        Ok(Reduction::merge(view.offsets, &images).with_sizes(sizes).with_proportional_attention())
    }

    fn macs(&self, stage: usize, tokens: usize) -> u64 {
        // The cosines of the tokens that join with those that they may join, and the norms of both.
        let (kept, merged) = self.schedule.of_block(stage, tokens, 1);
        if kept == merged { 0 } else { (((kept - merged) * merged + kept) * self.dim) as u64 }
    }
}

/// How many numbers a schedule of `depth` blocks has.
fn numbers(depth: usize) -> usize {
    2 * depth
}

fn made(spec: &VitSpec, numbers: &[f64]) -> Box<dyn Pruner> {
    Box::new(DiffratePruner::new(spec, Counts::of_numbers(numbers)))
}

/// The point of `schedule`.
fn point(spec: &VitSpec, schedule: &Counts) -> FitPoint {
    let macs = DiffratePruner::new(spec, schedule.clone()).image_macs(spec) as f64;
    FitPoint { macs, numbers: schedule.numbers() }
}

fn published_points(spec: &VitSpec) -> Option<Vec<FitPoint>> {
    let mut points = vec![point(spec, &Counts::dense(spec))];
    for (kept, merged) in published(spec)? {
        points.push(point(spec, &Counts { kept: kept.to_vec(), merged: merged.to_vec() }));
    }
    Some(points)
}

/// Schedules at several costs, found without gradients: from the dense model on, the next step is the one that costs the
/// least divergence D on the images per MAC that it saves. A step takes some of the tokens that are left in one
/// block, by dropping or by merging. (The authors learn all numbers at once, by gradients on labelled images.)
fn search(model: &CpuBackbone, pixels: PixelBatch<'_>, tell: Tell<'_>) -> Result<Vec<FitPoint>> {
    model.enter(|| Search::new(model, pixels))?.run(tell)
}

/// The state of a search.
struct Search<'a> {
    model: &'a CpuBackbone,
    images: Vec<ImageKey>,
    embedded: <CpuBackbone as Backbone>::State,
    dense: Output,
    /// Tokens that a step takes.
    step: usize,
}

/// A step: what it takes from a block.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    block: usize,
    merges: bool,
    /// D that it costs per MAC that it saves, when it was last tried; a lower bound later, as D grows ever faster.
    price: f64,
}

impl<'a> Search<'a> {
    fn new(model: &'a CpuBackbone, pixels: PixelBatch<'_>) -> Result<Self> {
        let (batch, spec) = (pixels.batch.min(SEARCH_IMAGES), model.spec());
        let pixels = pixels.part(spec, 0..batch);
        Ok(Search {
            model,
            images: (0..batch as u64).collect(),
            embedded: model.embed(pixels)?,
            dense: model.dense(pixels, Want::answer(spec))?,
            step: ((spec.num_patches() as f64 * STEP) as usize).max(1),
        })
    }

    fn run(&self, tell: Tell<'_>) -> Result<Vec<FitPoint>> {
        let spec = self.model.spec();
        let mut schedule = Counts::dense(spec);
        let mut points = vec![point(spec, &schedule)];
        let dense = points[0].macs;
        let mut divergence = 0.0;
        let mut open: Vec<Step> = (0..acting(spec))
            .flat_map(|block| [false, true].map(|merges| Step { block, merges, price: f64::NEG_INFINITY }))
            .collect();
        while let Some(place) = (0..open.len()).min_by(|a, b| open[*a].price.total_cmp(&open[*b].price)) {
            let mut step = open.swap_remove(place);
            let Some(next) = self.taken(&schedule, step) else { continue };
            let (now, then) = (&points[points.len() - 1], point(spec, &next));
            let after = self.model.enter(|| self.divergence(&next))?;
            // In percent of what is to be saved.
            let saved = (1.0 - now.macs / dense) / (1.0 - LEAST_COST);
            tell((100.0 * saved).min(100.0) as usize, 100)?;
            step.price = (after - divergence) / (now.macs - then.macs).max(1.0);
            let best = open.iter().all(|other| step.price <= other.price);
            open.push(step);
            if !best {
                continue;
            }
            let cheap = then.macs < LEAST_COST * dense;
            if then.macs < now.macs {
                points.push(then);
            }
            (schedule, divergence) = (next, after);
            if cheap {
                break;
            }
        }
        Ok(points)
    }

    /// `schedule` after `step`; `None` if too few tokens are left for it.
    fn taken(&self, schedule: &Counts, step: Step) -> Option<Counts> {
        let spec = self.model.spec();
        let trajectory = schedule.trajectory(spec);
        let entering = if step.block == 0 { spec.num_tokens() } else { trajectory[step.block - 1] };
        let (kept, merged) = schedule.of_block(step.block, entering, least(spec.num_prefix_tokens()));
        // Dropping leaves the number that merge as it is.
        let left = merged.checked_sub(self.step).filter(|left| *left >= least(spec.num_prefix_tokens()))?;
        let mut next = schedule.clone();
        (next.kept[step.block], next.merged[step.block]) =
            if step.merges { (kept, left) } else { (kept - self.step, left) };
        Some(next)
    }

    /// Mean D of the images at `schedule`.
    fn divergence(&self, schedule: &Counts) -> Result<f64> {
        let spec = self.model.spec();
        let mut state = self.embedded.clone();
        run_to_answer(self.model, &DiffratePruner::new(spec, schedule.clone()), &mut state, &self.images)?;
        let answer = self.model.finish(&state, Want::answer(spec))?;
        let all = divergences(spec, &self.dense, &answer);
        Ok(all.iter().sum::<f64>() / all.len() as f64)
    }
}

#[cfg(test)]
mod tests {
    use vitrim_vit::Tensors;

    use super::*;
    use crate::handmade::random_states;

    #[test]
    fn the_published_schedules_cost_what_their_authors_count() {
        // 1e9 MACs, from the strongest to the mildest. The authors call the first three 0.6, 0.7 and 0.8.
        for (name, gmacs) in [
            ("deit_tiny_patch16_224", [0.655, 0.727, 0.809, 0.902, 1.004]),
            ("deit_small_patch16_224", [2.327, 2.505, 2.709, 2.905, 3.108]),
            ("deit_base_patch16_224", [8.731, 9.986, 10.434, 11.517, 12.523]),
        ] {
            let spec = VitSpec::from_timm_name(name).unwrap();
            for ((kept, merged), gmacs) in published(&spec).unwrap().iter().rev().zip(gmacs) {
                let schedule = Counts { kept: kept.to_vec(), merged: merged.to_vec() };
                let steps = schedule.trajectory(&spec).into_iter().enumerate();
                let steps: Vec<_> =
                    steps.map(|(block, left)| (Site::after_attention_of(block), left)).collect();
                let macs = cost::macs_of_blocks(&spec, &steps, spec.depth) + cost::head_macs(&spec);
                let macs = macs as f64 / 1e9;
                assert!((macs - gmacs).abs() < 0.001 * gmacs, "{name}: {macs} for {gmacs}");
            }
        }
        let wide = VitSpec::from_timm_name("deit_small_patch16_224").unwrap().with_img_size([384, 384]);
        assert!(published(&wide).is_none() && published_points(&wide).is_none());
    }

    #[test]
    fn numbers_hold_a_schedule() {
        let schedule = Counts { kept: vec![9, 7], merged: vec![8, 5] };
        assert_eq!(Counts::of_numbers(&schedule.numbers()), schedule);
        assert_eq!(schedule.of_block(1, 6, 2), (6, 5), "no more than enter");
        assert_eq!(schedule.of_block(1, 9, 8), (8, 8), "at least so many");
    }

    #[test]
    fn the_search_takes_the_cheapest_steps() {
        let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([64, 64]);
        (spec.dim, spec.depth, spec.num_classes) = (24, 3, 5);
        (spec.attention.heads, spec.mlp.hidden) = (3, 48);
        let Tensors::Owned(mut tensors) = Tensors::random(&spec, 1) else { panic!("random ones are owned") };
        // Large enough for tokens to matter.
        for (name, (_, values)) in tensors.iter_mut().filter(|(name, _)| name.ends_with("weight")) {
            values.iter_mut().filter(|_| !name.contains("norm")).for_each(|v| *v *= 10.0);
        }
        let model = CpuBackbone::new(&spec, &Tensors::Owned(tensors)).unwrap();
        let values: Vec<f32> = (0..3 * 3 * 64 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
        let pixels = PixelBatch::new(&values, 3);
        let found = search(&model, pixels, &mut |_, _| Ok(())).unwrap();
        // All but one patch token leave in block 0; on so small an image, little more can be saved.
        let none = Counts { kept: vec![2; 3], merged: vec![2; 3] };
        let least = found[found.len() - 1].macs;
        assert!(least <= 1.05 * point(&spec, &none).macs, "{least}");
        assert!(found.iter().all(|point| point.numbers.len() == numbers(spec.depth)));
        let search = Search::new(&model, pixels).unwrap();
        let all = Counts::dense(&spec);
        let first = search.taken(&all, Step { block: 0, merges: true, price: 0.0 }).unwrap();
        assert_eq!(first.trajectory(&spec), [16, 16, 16]);
        assert!(search.divergence(&first).unwrap() > 1e-9);
        // In the last block only the class token's way to the head is left: dropping there saves nothing and costs nothing.
        let last = search.taken(&all, Step { block: 2, merges: false, price: 0.0 }).unwrap();
        assert_eq!(last.trajectory(&spec), [17, 17, 16]);
        assert_eq!(point(&spec, &last).macs, point(&spec, &all).macs);
        assert!(search.divergence(&last).unwrap() < 1e-9);
        assert!(search.taken(&none, Step { block: 1, merges: false, price: 0.0 }).is_none());
    }

    #[test]
    fn decisions_are_the_definition() {
        for seed in 0..30 {
            let spec = random_states::spec(seed % 2 == 0);
            let state = random_states::state(&spec, seed);
            let (view, prefix) = (state.view(&spec), spec.num_prefix_tokens());
            for (kept, merged) in [(9, 6), (12, 12), (8, 2), (30, 30), (30, 5), (1, 1)] {
                let pruner = DiffratePruner::new(&spec, Counts { kept: vec![kept], merged: vec![merged] });
                let reduction = pruner.decide(0, &view, &[0, 1, 2]).unwrap();
                let expected: Vec<_> = (0..3)
                    .map(|b| {
                        let mut ranked: Vec<usize> = view.patch_rows(b).collect();
                        let attention = view.cls_attention.unwrap();
                        ranked.sort_by(|x, y| attention[*y].total_cmp(&attention[*x]));
                        ranked.truncate(kept.max(prefix + 1) - prefix);
                        let joining = ranked.split_off((merged.max(prefix + 1) - prefix).min(ranked.len()));
                        let target = |row: usize| {
                            let scored = ranked
                                .iter()
                                .map(|to| (random_states::cosine(view.token(row), view.token(*to)), *to));
                            scored.max_by(|x, y| x.0.total_cmp(&y.0)).unwrap()
                        };
                        let of_row = |row: usize| {
                            let mut group = vec![row];
                            let mut size = f64::from(view.sizes[row]);
                            for source in &joining {
                                let (cosine, to) = target(*source);
                                if to == row {
                                    group.push(*source);
                                    size += cosine * f64::from(view.sizes[*source]);
                                }
                            }
                            let mean = |i: usize| {
                                group.iter().map(|row| view.token(*row)[i]).sum::<f32>() / group.len() as f32
                            };
                            (row, (0..spec.dim).map(mean).collect(), (size as f32).max(f32::EPSILON))
                        };
                        let start = view.offsets[b];
                        (start..start + prefix).chain(ranked.iter().copied()).map(of_row).collect()
                    })
                    .collect();
                random_states::check(&state, &spec, &reduction, &expected);
            }
        }
    }
}
