//! Pruners on a real (small, random) backbone: counts, edge cases, read-outs, files.

mod toy;

use std::path::Path;

use vitrim_prune::policy::{BackboneId, Decision, Nonlinearity, Observation, PerceptronWeights};
use vitrim_prune::{
    KeepProfile, LearnedPruner, Method, NoPruner, Policy, Pruner, RandomPruner, ReadOut, run,
};
use vitrim_vit::{Backbone, CpuBackbone, HostState, PixelBatch, Site, Tensors, VitSpec, cost};

use toy::{FULL, MERGING, MERGING_BY_TOKENS, backbone, pixels, policy, spec};

#[test]
fn profiles_set_the_counts_at_every_batch_size() {
    let spec = spec(true);
    let model = backbone(&spec);
    let profile = KeepProfile::new(&spec, &[1, 2, 3], &[0.75, 0.5, 0.0]).unwrap();
    assert_eq!([0, 1, 2].map(|stage| profile.patch_tokens(stage, 0, 12)), [9, 6, 0]);
    let pruners: Vec<Box<dyn Pruner>> = vec![
        Box::new(RandomPruner::new(profile.clone(), 3)),
        made("cls-attention", &spec, profile),
        Box::new(
            LearnedPruner::new(&spec, &policy(&spec, FULL, Nonlinearity::Gelu))
                .with_read_out(ReadOut::TopR { keep: vec![0.75, 0.5, 0.0] }),
        ),
    ];
    let pixels = pixels(&spec, 3);
    let image = pixels.len() / 3;
    for pruner in &pruners {
        let packed = run(&model, pruner.as_ref(), PixelBatch::new(&pixels, 3), &[10, 11, 12]).unwrap();
        for b in 0..3 {
            let counts: Vec<usize> = packed.stages.iter().map(|s| s.patch_tokens(b)).collect();
            assert_eq!(counts, [9, 6, 0]);
            let alone = &pixels[b * image..(b + 1) * image];
            let single = run(&model, pruner.as_ref(), PixelBatch::new(alone, 1), &[10 + b as u64]).unwrap();
            for (of_batch, of_one) in packed.stages.iter().zip(&single.stages) {
                assert_eq!(
                    of_batch.grid_positions(b),
                    of_one.grid_positions(0),
                    "batching changes no decision"
                );
            }
            assert_eq!(packed.macs[b], single.macs[0]);
        }
    }
    let dense = run(&model, &NoPruner, PixelBatch::new(&pixels, 3), &[0, 1, 2]).unwrap();
    assert_eq!(dense.answer, model.dense_logits(PixelBatch::new(&pixels, 3)).unwrap());
    assert_eq!(dense.macs, [cost::dense_macs(&spec); 3]);
}

/// The hand-made method at `profile`.
fn made(method: &str, spec: &VitSpec, profile: KeepProfile) -> Box<dyn Pruner> {
    method.parse::<Method>().unwrap().at_profile(spec, profile).unwrap()
}

/// The state of `batch` images at the first site of `pruner`, before and after its decision.
fn decided(model: &CpuBackbone, pruner: &dyn Pruner, pixels: &[f32], batch: usize) -> (HostState, HostState) {
    let (site, taps) = pruner.sites(model.spec())[0];
    let mut state = model.embed(PixelBatch::new(pixels, batch)).unwrap();
    model.advance(&mut state, site, taps).unwrap();
    let keys: Vec<u64> = (0..batch as u64).collect();
    let reduction = pruner.decide(0, &model.view(&state).unwrap(), &keys).unwrap();
    let mut reduced = state.clone();
    model.reduce(&mut reduced, &reduction).unwrap();
    (state, reduced)
}

#[test]
fn evit_fuses_what_it_drops() {
    let spec = spec(true);
    let (model, pixels, d) = (backbone(&spec), pixels(&spec, 2), spec.dim);
    let profile = KeepProfile::new(&spec, &[1], &[0.5]).unwrap();
    let (before, after) = decided(&model, made("evit", &spec, profile).as_ref(), &pixels, 2);
    let attention = before.taps.cls_attention.as_ref().unwrap();
    for b in 0..2 {
        let rows = after.packed.offsets[b]..after.packed.offsets[b + 1];
        assert_eq!(rows.len(), 1 + 6 + 1, "class token, half of the patch tokens, the fused one");
        let kept: Vec<usize> =
            after.packed.origins[rows.start + 1..rows.end - 1].iter().map(|o| o.grid().unwrap()).collect();
        let of = |grid: usize| before.packed.offsets[b] + 1 + grid;
        let dropped: Vec<usize> = (0..12).filter(|grid| !kept.contains(grid)).collect();
        let least = kept.iter().map(|g| attention[of(*g)]).fold(f32::INFINITY, f32::min);
        assert!(dropped.iter().all(|g| attention[of(*g)] <= least), "the least attended are dropped");
        for i in 0..d {
            let sum: f32 =
                dropped.iter().map(|g| attention[of(*g)] * before.packed.tokens[of(*g) * d + i]).sum();
            assert!((after.packed.tokens[(rows.end - 1) * d + i] - sum).abs() < 1e-5);
        }
        assert_eq!(after.packed.sizes[rows.end - 1], 6.0);
    }
}

#[test]
fn ats_keeps_no_more_than_it_samples() {
    let spec = spec(true);
    let (model, pixels) = (backbone(&spec), pixels(&spec, 4));
    let profile = KeepProfile::new(&spec, &[1], &[0.5]).unwrap();
    let (_, after) = decided(&model, made("ats", &spec, profile).as_ref(), &pixels, 4);
    for image in after.packed.offsets.windows(2) {
        assert!((2..=7).contains(&(image[1] - image[0])), "{:?}", after.packed.offsets);
    }
    let all = KeepProfile::new(&spec, &[1], &[1.0]).unwrap();
    let (before, after) = decided(&model, made("ats", &spec, all).as_ref(), &pixels, 4);
    assert_eq!(before.packed, after.packed, "as many points as tokens keep all");
}

#[test]
fn similarity_drops_what_the_mean_resembles() {
    let spec = spec(true);
    let (model, pixels, d) = (backbone(&spec), pixels(&spec, 1), spec.dim);
    let profile = KeepProfile::new(&spec, &[2], &[0.75]).unwrap();
    let (before, after) = decided(&model, made("similarity", &spec, profile).as_ref(), &pixels, 1);
    let token = |grid: usize| &before.packed.tokens[(1 + grid) * d..(2 + grid) * d];
    let mean: Vec<f32> = (0..d).map(|i| (0..12).map(|g| token(g)[i]).sum::<f32>() / 12.0).collect();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let cosine = |g: &usize| dot(token(*g), &mean) / (dot(token(*g), token(*g)) * dot(&mean, &mean)).sqrt();
    let kept: Vec<usize> = after.packed.origins[1..].iter().map(|o| o.grid().unwrap()).collect();
    let nearest_kept = kept.iter().map(cosine).fold(f32::NEG_INFINITY, f32::max);
    let dropped: Vec<usize> = (0..12).filter(|g| !kept.contains(g)).collect();
    assert_eq!(dropped.len(), 3);
    assert!(dropped.iter().map(cosine).all(|c| c >= nearest_kept));
}

#[test]
fn a_common_start_carries_what_is_wanted_before_the_next_attention() {
    let spec = spec(true);
    let merging = "tome".parse::<Method>().unwrap().merging(&spec, 2).unwrap();
    let at = |block| made("cls-attention", &spec, KeepProfile::new(&spec, &[block], &[0.5]).unwrap());
    let start = |others: &[&dyn Pruner]| {
        let all = std::iter::once(merging.as_ref()).chain(others.iter().copied());
        vitrim_prune::first_site(all, &spec).unwrap()
    };
    let (site, taps) = start(&[at(1).as_ref()]);
    assert_eq!(site, Site::after_attention_of(0));
    assert!(taps.keys && taps.cls_attention, "no attention runs between the two sites");
    assert!(!start(&[at(2).as_ref()]).1.cls_attention, "another attention gives it");
}

#[test]
fn tome_merges_in_every_block_and_keeps_all_that_was_there() {
    let spec = spec(true);
    let (model, pixels) = (backbone(&spec), pixels(&spec, 2));
    for (method, proportional) in [("tome-plain", false), ("tome", true)] {
        let pruner = method.parse::<Method>().unwrap().merging(&spec, 2).unwrap();
        let out = run(&model, pruner.as_ref(), PixelBatch::new(&pixels, 2), &[0, 1]).unwrap();
        let counts: Vec<usize> = out.stages.iter().map(|stage| stage.patch_tokens(1)).collect();
        assert_eq!(counts, [10, 8, 6], "in every block but the last, where it would change no answer");
        let (before, after) = decided(&model, pruner.as_ref(), &pixels, 2);
        assert_eq!(after.packed.sizes.iter().sum::<f32>(), 2.0 * 13.0);
        assert_eq!(after.packed.proportional, proportional);
        // Means weighted by size keep the sum of the image's tokens.
        let sum = |state: &HostState, row: usize, weigh: bool| {
            let d = spec.dim;
            let size = if weigh { state.packed.sizes[row] } else { 1.0 };
            state.packed.tokens[row * d..(row + 1) * d].iter().map(|v| v * size).sum::<f32>()
        };
        let (all, merged): (f32, f32) = (
            (0..13).map(|row| sum(&before, row, false)).sum(),
            (0..11).map(|row| sum(&after, row, true)).sum(),
        );
        assert!((all - merged).abs() < 1e-3, "{all} {merged}");
    }
    // The cost of keeping 0.4 from the second block on, scoring included.
    let profile = KeepProfile::new(&spec, &[1], &[0.4]).unwrap();
    let wanted = profile.macs(&spec, 0);
    let pruner = made("tome", &spec, profile);
    let out = run(&model, pruner.as_ref(), PixelBatch::new(&pixels, 2), &[0, 1]).unwrap();
    assert!(out.macs[0].abs_diff(wanted) < wanted / 20, "{} for {wanted}", out.macs[0]);
}

#[test]
fn images_may_have_budgets_of_their_own() {
    let spec = spec(true);
    let (model, pixels) = (backbone(&spec), pixels(&spec, 3));
    let budgets = vec![vec![12, 5, 0], vec![7, 5, 0]];
    let profile = KeepProfile::of_each_image(&spec, &[1, 3], budgets.clone()).unwrap();
    let out = run(&model, &RandomPruner::new(profile, 1), PixelBatch::new(&pixels, 3), &[4, 5, 6]).unwrap();
    for (stage, budgets) in out.stages.iter().zip(&budgets) {
        assert_eq!((0..3).map(|b| stage.patch_tokens(b)).collect::<Vec<_>>(), *budgets);
    }
    assert!(KeepProfile::of_each_image(&spec, &[3, 1], budgets).is_err());
}

#[test]
fn somebody_stays_where_the_network_needs_it() {
    for class_token in [true, false] {
        let spec = spec(class_token);
        let model = backbone(&spec);
        let pixels = pixels(&spec, 2);
        let policy = policy(&spec, FULL, Nonlinearity::Tanh);
        for read_out in [
            ReadOut::Threshold { threshold: 1.0 },
            ReadOut::TopR { keep: vec![0.0, 0.0, 0.0] },
            ReadOut::Threshold { threshold: 0.0 },
        ] {
            let all_stay = read_out == ReadOut::Threshold { threshold: 0.0 };
            let pruner = LearnedPruner::new(&spec, &policy).with_read_out(read_out);
            let out = run(&model, &pruner, PixelBatch::new(&pixels, 2), &[0, 1]).unwrap();
            assert!(out.answer.values.iter().all(|v| v.is_finite()));
            let left = if all_stay { spec.num_patches() } else { spec.min_patch_tokens() };
            assert!(out.stages.iter().all(|s| s.patch_tokens(0) == left && s.patch_tokens(1) == left));
        }
    }
}

#[test]
fn an_image_alone_is_decided_as_in_a_batch() {
    for class_token in [true, false] {
        let spec = spec(class_token);
        let (model, pixels) = (backbone(&spec), pixels(&spec, 4));
        let image = pixels.len() / 4;
        for observation in [FULL, MERGING_BY_TOKENS] {
            let policy =
                policy(&spec, Observation { cls_attention: class_token, ..observation }, Nonlinearity::Tanh);
            for read_out in [ReadOut::Threshold { threshold: 0.5 }, ReadOut::Sample { seed: 7 }] {
                let pruner = LearnedPruner::new(&spec, &policy).with_read_out(read_out);
                let together = run(&model, &pruner, PixelBatch::new(&pixels, 4), &[3, 1, 4, 2]).unwrap();
                for (b, key) in [3, 1, 4, 2].into_iter().enumerate() {
                    let pixels = PixelBatch::new(&pixels[b * image..(b + 1) * image], 1);
                    // The result must not depend on the number of threads.
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(1 + b).build().unwrap();
                    let alone = pool.install(|| run(&model, &pruner, pixels, &[key])).unwrap();
                    assert_eq!(alone.answer.row(0), together.answer.row(b));
                    for (alone, together) in alone.stages.iter().zip(&together.stages) {
                        assert_eq!(alone.grid_positions(0), together.grid_positions(b));
                    }
                }
            }
        }
    }
}

#[test]
fn every_image_needs_a_key() {
    let spec = spec(true);
    let pruner = LearnedPruner::new(&spec, &policy(&spec, FULL, Nonlinearity::Tanh));
    let pixels = pixels(&spec, 2);
    let refusal = run(&backbone(&spec), &pruner, PixelBatch::new(&pixels, 2), &[7]).unwrap_err().to_string();
    assert_eq!(refusal, "1 keys for a batch of 2 images");
}

#[test]
fn one_patch_token_works() {
    let spec = spec(true).with_img_size([16, 16]);
    let model = backbone(&spec);
    let pruner = LearnedPruner::new(&spec, &policy(&spec, FULL, Nonlinearity::Gelu))
        .with_read_out(ReadOut::Threshold { threshold: 1.0 });
    let out = run(&model, &pruner, PixelBatch::new(&pixels(&spec, 1), 1), &[0]).unwrap();
    assert_eq!(out.stages[0].patch_tokens(0), 0);
}

#[test]
fn sampling_follows_the_probability_and_the_key() {
    let spec = spec(true);
    let model = backbone(&spec);
    let mut policy = policy(&spec, FULL, Nonlinearity::Gelu);
    // Only the head's bias acts: p_keep = sigmoid(1) everywhere.
    policy.weights = PerceptronWeights::zeros(&policy.actor);
    policy.weights.layers.last_mut().unwrap().1 = vec![0.0, 1.0];
    let batch = 500; // enough for the actor to spread over threads
    let pixels = pixels(&spec, batch);
    let keys: Vec<u64> = (0..batch as u64).collect();
    let pruner = LearnedPruner::new(&spec, &policy).with_read_out(ReadOut::Sample { seed: 4 });
    let out = run(&model, &pruner, PixelBatch::new(&pixels, batch), &keys).unwrap();
    let kept: usize = (0..batch).map(|b| out.stages[0].patch_tokens(b)).sum();
    let share = kept as f64 / (batch * spec.num_patches()) as f64;
    assert!((share - 0.731).abs() < 0.03, "{share}");
    let again = run(&model, &pruner, PixelBatch::new(&pixels, batch), &keys).unwrap();
    assert_eq!(out.stages[2].offsets, again.stages[2].offsets);
}

/// Compares the pair's observations with values computed from the view.
#[test]
fn agents_see_their_pair() {
    let spec = spec(true);
    let model = backbone(&spec);
    let observation = MERGING_BY_TOKENS;
    let pruner = LearnedPruner::new(&spec, &policy(&spec, observation, Nonlinearity::Gelu));
    let mut state = model.embed(PixelBatch::new(&pixels(&spec, 2), 2)).unwrap();
    let (site, taps) = pruner.sites(&spec)[1];
    model.advance(&mut state, site, taps).unwrap();
    let view = model.view(&state).unwrap();
    let decision = pruner.decision(1, &view).unwrap();
    let pairing = decision.pairing.as_ref().unwrap();
    let attention = view.cls_attention.unwrap();
    let mut seen = 0;
    for b in 0..2 {
        let n = view.rows(b).len() as f32;
        for t in view.patch_rows(b) {
            let row = &decision.scalars[t * observation.scalars()..(t + 1) * observation.scalars()];
            let share = |t: usize| (attention[t] * n).ln();
            assert!((row[0] - share(t)).abs() < 1e-4);
            if !decision.may_leave(t) {
                assert_eq!(row[1..], [0.0; 5], "nothing where there is no choice");
                continue;
            }
            let to = pairing.partner[t];
            let centred = [t, to].map(|t| {
                let mean = view.token(t).iter().sum::<f32>() / spec.dim as f32;
                view.token(t).iter().map(|v| v - mean).collect::<Vec<f32>>()
            });
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let [a, c] = &centred;
            let cosine = dot(a, c) / (dot(a, a) * dot(c, c)).sqrt();
            assert!(
                (row[4] - ((1.0 - cosine).ln() + 1.0).clamp(-4.0, 4.0)).abs() < 1e-2,
                "{row:?}, {cosine}"
            );
            assert!((row[5] - share(to)).abs() < 1e-4);
            assert!((row[1] - ((1.0 - pairing.similarity[t]).ln() + 3.0).clamp(-4.0, 4.0)).abs() < 1e-4);
            seen += 1;
        }
    }
    assert!(seen > 4, "{seen} agents have a choice");
}

#[test]
fn inference_equals_the_perceptron_written_out() {
    inference_equals(FULL);
    inference_equals(MERGING);
    inference_equals(MERGING_BY_TOKENS);
}

fn inference_equals(observation: Observation) {
    let spec = spec(true);
    let model = backbone(&spec);
    let policy = policy(&spec, observation, Nonlinearity::Tanh);
    let pruner = LearnedPruner::new(&spec, &policy);
    let mut state = model.embed(PixelBatch::new(&pixels(&spec, 2), 2)).unwrap();
    let (site, taps) = pruner.sites(&spec)[1];
    model.advance(&mut state, site, taps).unwrap();
    let view = model.view(&state).unwrap();
    let decision = pruner.decision(1, &view).unwrap();
    let Decision { logits, scalars, .. } = &decision;
    let n = observation.scalars();
    let w = &policy.weights;
    let normed = |x: &[f32]| {
        let (ones, zeros) = (vec![1.0; x.len()], vec![0.0; x.len()]);
        vitrim_kernels::reference::layer_norm(x, &ones, &zeros, 1e-5)
    };
    for b in 0..2 {
        let context = normed(view.token(view.offsets[b]));
        for t in view.patch_rows(b) {
            if !decision.may_leave(t) {
                assert!(observation.pair && logits[t] == f32::INFINITY);
                continue;
            }
            let x = normed(view.token(t));
            let grid = view.origins[t].grid().unwrap();
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            let first: Vec<f32> = (0..8)
                .map(|j| {
                    let d = spec.dim;
                    let sum = dot(&w.embedding[j * d..(j + 1) * d], &x)
                        + dot(&w.context[j * d..(j + 1) * d], &context)
                        + w.position[grid * 8 + j]
                        + w.stage[8 + j]
                        + dot(&w.scalar[j * n..(j + 1) * n], &scalars[t * n..(t + 1) * n])
                        + w.bias[j];
                    sum.tanh()
                })
                .collect();
            let second: Vec<f32> = (0..6)
                .map(|j| (dot(&w.layers[0].0[j * 8..(j + 1) * 8], &first) + w.layers[0].1[j]).tanh())
                .collect();
            let past = |j: usize| {
                let shortcut = w.shortcut.chunks_exact(n).nth(j);
                shortcut.map_or(0.0, |weights| dot(weights, &scalars[t * n..(t + 1) * n]))
            };
            let out: Vec<f32> = (0..2)
                .map(|j| dot(&w.layers[1].0[j * 6..(j + 1) * 6], &second) + w.layers[1].1[j] + past(j))
                .collect();
            assert!((logits[t] - (out[1] - out[0])).abs() < 1e-4, "{} {:?}", logits[t], out);
        }
    }
}

#[test]
fn those_that_leave_become_part_of_their_partners() {
    for class_token in [true, false] {
        let spec = spec(class_token);
        let (model, pixels, d) = (backbone(&spec), pixels(&spec, 3), spec.dim);
        let policy = policy(&spec, Observation { cls_attention: class_token, ..MERGING }, Nonlinearity::Gelu);
        let pruner = LearnedPruner::new(&spec, &policy);
        let (before, after) = decided(&model, &pruner, &pixels, 3);
        let view = model.view(&before).unwrap();
        let decision = pruner.decision(0, &view).unwrap();
        let pairing = decision.pairing.as_ref().unwrap();
        let leaves = |t: &usize| decision.logits[*t] <= 0.0;
        let left = (0..view.total()).filter(leaves).count();
        assert!(left > 3 && after.packed.offsets[3] == view.total() - left, "{left} leave");
        let mut survivors = (0..view.total()).filter(|t| !leaves(t)).enumerate();
        assert!(survivors.all(|(to, t)| {
            let joined: Vec<usize> =
                (0..view.total()).filter(|i| i == &t || leaves(i) && pairing.partner[*i] == t).collect();
            let mean = (0..d).map(|c| {
                joined.iter().map(|i| before.packed.tokens[i * d + c]).sum::<f32>() / joined.len() as f32
            });
            let rows = after.packed.tokens[to * d..(to + 1) * d].iter();
            after.packed.sizes[to] == joined.len() as f32 && rows.zip(mean).all(|(x, m)| (x - m).abs() < 1e-5)
        }));

        // Whatever the read-out, tokens that have to stay do stay, and no token is lost.
        let all = ReadOut::Threshold { threshold: 1.0 };
        for read_out in [all, ReadOut::TopR { keep: vec![0.0; 3] }, ReadOut::Sample { seed: 3 }] {
            let pruner = LearnedPruner::new(&spec, &policy).with_read_out(read_out.clone());
            let (_, after) = decided(&model, &pruner, &pixels, 3);
            let sizes: f32 = after.packed.sizes.iter().sum();
            assert_eq!(sizes, view.total() as f32, "{read_out:?}");
            let stayed = after.packed.offsets[3];
            let had_to = (0..view.total()).filter(|t| !pairing.may_leave(*t)).count();
            assert!(stayed >= had_to && (stayed == had_to || matches!(read_out, ReadOut::Sample { .. })));
            let out = run(&model, &pruner, PixelBatch::new(&pixels, 3), &[0, 1, 2]).unwrap();
            assert!(out.answer.values.iter().all(|v| v.is_finite()));
        }
        let nobody = LearnedPruner::new(&spec, &policy).with_read_out(ReadOut::Threshold { threshold: 0.0 });
        let out = run(&model, &nobody, PixelBatch::new(&pixels, 3), &[0, 1, 2]).unwrap();
        let dense = model.dense_logits(PixelBatch::new(&pixels, 3)).unwrap();
        let difference = vitrim_kernels::reference::relative_difference(&out.answer.values, &dense.values);
        assert!(difference < 1e-5, "{difference}");
        let own: u64 = (0..3).map(|stage| nobody.macs(stage, spec.num_tokens())).sum();
        assert_eq!(out.macs, [cost::dense_macs(&spec) + own; 3]);
    }
}

#[test]
fn policies_survive_the_disk_and_damage_is_named() {
    let spec = spec(true);
    let folder = tempfile::tempdir().unwrap();
    let merging = policy(&spec, MERGING, Nonlinearity::Tanh);
    merging.save(folder.path()).unwrap();
    assert_eq!(Policy::load(folder.path()).unwrap(), merging);
    let policy = policy(&spec, FULL, Nonlinearity::Gelu);
    policy.save(folder.path()).unwrap();
    assert_eq!(Policy::load(folder.path()).unwrap(), policy);
    let mut balanced = policy.clone();
    balanced.offsets = vec![0.75; policy.stages.len()];
    balanced.save(folder.path()).unwrap();
    assert_eq!(Policy::load(folder.path()).unwrap(), balanced);
    assert_ne!(balanced.identity(), policy.identity());
    policy.save(folder.path()).unwrap();

    let other = BackboneId::of(&spec, &Tensors::random(&spec, 2)).unwrap();
    let refusal = policy.check_backbone(folder.path(), &other).unwrap_err().to_string();
    assert!(refusal.contains("trained for") && !refusal.contains('\n'), "{refusal}");
    policy.check_backbone(folder.path(), &policy.backbone).unwrap();

    let weights = folder.path().join("policy.safetensors");
    let good = std::fs::read(&weights).unwrap();
    std::fs::write(&weights, &good[..good.len() / 2]).unwrap();
    assert!(Policy::load(folder.path()).unwrap_err().to_string().contains("damaged"));
    std::fs::write(&weights, &good).unwrap();
    let json = folder.path().join("policy.json");
    let text = std::fs::read_to_string(&json).unwrap();
    std::fs::write(&json, format!("\u{feff}{text}")).unwrap();
    assert_eq!(Policy::load(folder.path()).unwrap(), policy, "as Notepad saves it");
    std::fs::write(&json, text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    assert!(Policy::load(folder.path()).unwrap_err().to_string().contains("policy.json: is UTF-16 text"));
    std::fs::write(&json, text.replace("\"version\": 1", "\"version\": 99")).unwrap();
    assert!(Policy::load(folder.path()).unwrap_err().to_string().contains("version 99"));
    std::fs::write(&json, &text[..text.len() / 3]).unwrap();
    assert!(Policy::load(folder.path()).unwrap_err().to_string().contains("not valid JSON"));
    assert!(Policy::load(&folder.path().join("none")).unwrap_err().to_string().contains("no policy here"));
}

#[test]
fn a_save_that_is_broken_off_leaves_the_old_policy_or_the_new_one() {
    let spec = spec(true);
    let [old, new] = [MERGING, FULL].map(|observation| policy(&spec, observation, Nonlinearity::Gelu));
    let written = tempfile::tempdir().unwrap();
    new.save(written.path()).unwrap();
    let copy = |name: &str, folder: &Path, to: &str| {
        std::fs::copy(written.path().join(name), folder.join(to)).unwrap();
    };
    let weights = |folder: &Path| copy("policy.safetensors", folder, "policy.safetensors.new");
    let header = |folder: &Path| copy("policy.json", folder, "policy.json");
    let steps: [&dyn Fn(&Path); 2] = [&weights, &header];
    for (done, expected) in [(0, &old), (1, &old), (2, &new)] {
        let folder = tempfile::tempdir().unwrap();
        old.save(folder.path()).unwrap();
        steps[..done].iter().for_each(|step| step(folder.path()));
        assert_eq!(&Policy::load(folder.path()).unwrap(), expected, "after {done} steps");
        for next in [&old, &new] {
            next.save(folder.path()).unwrap();
            assert_eq!(&Policy::load(folder.path()).unwrap(), next, "saved after {done} steps");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "two files are a policy");
    }
}

#[test]
fn impossible_profiles_are_refused() {
    let spec = spec(true);
    for (stages, shares) in [(vec![1, 2], vec![0.5]), (vec![2, 1], vec![0.5, 0.4]), (vec![4], vec![0.5])] {
        assert!(KeepProfile::new(&spec, &stages, &shares).is_err());
    }
    assert!(KeepProfile::new(&spec, &[1, 2], &[0.4, 0.5]).is_err(), "what is pruned stays pruned");
    assert!(KeepProfile::new(&spec, &[1], &[1.5]).is_err());
    let early = "cls-attention".parse::<Method>().unwrap().at_shares(&spec, &[0], &[0.5]);
    assert_eq!(early.err().unwrap().to_string(), "keep profile: cls-attention cannot act before block 1");
}
