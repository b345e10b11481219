//! Images of any aspect ratio in one packed batch (NaFlex): each has a grid of its own.

mod reference;
mod stored;

use serde_json::{Value, json};
use stored::own;
use vitrim_kernels::reference::{relative_difference, values};
use vitrim_vit::{
    AttentionPool, AttentionSpec, Backbone, Checkpoint, CpuBackbone, Embedding, HostState, MlpActivation,
    MlpSpec, NormSpec, PixelBatch, Pool, Pooling, Positions, Precision, Reduction, Site, Taps, Tensors,
    VitSpec, Want, WeightFiles, cost,
};

const PATCH: usize = 4;
/// Larger and smaller than the grid of the positions along either side, and equal to it.
const GRIDS: [[usize; 2]; 5] = [[2, 6], [3, 4], [1, 5], [7, 2], [3, 3]];

/// Backbones with learned positions of 3 x 4 patches: SigLIP 2's, and one with prefix tokens.
fn backbones() -> [VitSpec; 2] {
    let mlp = MlpSpec::plain(40, MlpActivation::GeluTanh);
    let pool = AttentionPool { heads: 3, prefix: false, query: true, bias: true, mlp: Some(mlp) };
    let embedding = Embedding { class_token: false, position_grid: Some([3, 4]), ..Embedding::default() };
    let siglip = VitSpec {
        architecture: "test".into(),
        img_size: [3 * PATCH, 4 * PATCH],
        patch_size: PATCH,
        dim: 24,
        depth: 4,
        num_classes: 5,
        embedding,
        positions: Positions::All,
        attention: AttentionSpec::plain(3),
        mlp,
        norm: NormSpec::layer(1e-6),
        layer_scale: false,
        pooling: Pooling { attention: Some(pool), ..Pooling::plain(Pool::Map, false) },
    };
    let mut mean = VitSpec { pooling: Pooling::plain(Pool::Avg, true), ..siglip.clone() };
    (mean.embedding.class_token, mean.embedding.reg_tokens) = (true, 2);
    [siglip, mean]
}

/// Weights large enough for attention to differ between tokens.
fn tensors(spec: &VitSpec, seed: u64) -> Tensors {
    let Tensors::Owned(mut tensors) = Tensors::random(spec, seed) else { unreachable!() };
    for (_, values) in tensors.iter_mut().filter(|(name, _)| !name.contains("norm")).map(|(_, t)| t) {
        values.iter_mut().for_each(|v| *v *= 8.0);
    }
    Tensors::Owned(tensors)
}

/// The sizes of images of `grids`, and their pixels, one image after the other.
fn images(grids: &[[usize; 2]]) -> (Vec<[usize; 2]>, Vec<Vec<f32>>) {
    let sizes: Vec<[usize; 2]> = grids.iter().map(|grid| grid.map(|side| side * PATCH)).collect();
    let mut values = values(11);
    let images = sizes.iter().map(|[h, w]| (0..3 * h * w).map(|_| values()).collect()).collect();
    (sizes, images)
}

/// The tensors of `spec` with the positions of `grid`, by the formula of transformers' `Siglip2VisionEmbeddings`.
fn of_grid(spec: &VitSpec, tensors: &Tensors, grid: [usize; 2]) -> (VitSpec, Tensors) {
    let (from, d, prefix) = (spec.embedding.position_grid.unwrap(), spec.dim, spec.embedded_prefix());
    let mut fixed = spec.clone().with_img_size(grid.map(|side| side * PATCH));
    fixed.embedding.position_grid = None;
    let read = |name: &str, shape: &[usize]| tensors.get(name, shape).unwrap().into_owned();
    let stored = read("pos_embed", &[1, spec.position_rows(), d]);
    let weights = |axis: usize, at: usize| -> Vec<f32> {
        let scale = from[axis] as f32 / grid[axis] as f32;
        let centre = (at as f32 + 0.5) * scale - 0.5;
        let weight = |source: usize| (1.0 - (source as f32 - centre).abs() / scale.max(1.0)).max(0.0);
        let sum: f32 = (0..from[axis]).map(weight).sum();
        (0..from[axis]).map(|source| weight(source) / sum).collect()
    };
    let mut positions = stored[..prefix * d].to_vec();
    for (row, column) in (0..grid[0]).flat_map(|row| (0..grid[1]).map(move |column| (row, column))) {
        let (rows, columns) = (weights(0, row), weights(1, column));
        for i in 0..d {
            let term = |r: usize, c: usize| rows[r] * columns[c] * stored[(prefix + r * from[1] + c) * d + i];
            positions.push(
                (0..from[0]).flat_map(|r| (0..from[1]).map(move |c| (r, c))).map(|(r, c)| term(r, c)).sum(),
            );
        }
    }
    let owned = fixed.tensor_shapes().into_iter().map(|(name, shape)| match name.as_str() {
        "pos_embed" => (name, (shape, positions.clone())),
        _ => (name.clone(), (shape.clone(), read(&name, &shape))),
    });
    let owned = Tensors::Owned(owned.collect());
    (fixed, owned)
}

/// Whether a patch stays: the first always, to be pooled.
fn stays(image: usize, patch: usize) -> bool {
    patch == 0 || (patch * 7 + image) % 3 != 1
}

/// The state at the end, of images `first` and those after it. A third of each image's patches leaves before block 1 and,
/// with `merging`, the first pair of each image becomes one before block 2.
fn run(model: &CpuBackbone, pixels: PixelBatch<'_>, first: usize, merging: bool) -> HostState {
    let mut state = model.embed(pixels).unwrap();
    model.advance(&mut state, Site::input_of(1), Taps::NONE).unwrap();
    let view = model.view(&state).unwrap();
    let mut keep = vec![true; view.total()];
    for b in 0..view.batch() {
        assert_eq!(view.num_patches(b), view.patch_rows(b).len());
        view.patch_rows(b).for_each(|row| keep[row] = stays(first + b, view.origins[row].grid().unwrap()));
    }
    let reduction = Reduction::keep(view.offsets, &keep);
    model.reduce(&mut state, &reduction).unwrap();
    if merging {
        model.advance(&mut state, Site::input_of(2), Taps::ALL).unwrap();
        let view = model.view(&state).unwrap();
        let mut into: Vec<usize> = (0..view.total()).collect();
        (0..view.batch())
            .map(|b| view.patch_rows(b))
            .filter(|rows| rows.len() > 1)
            .for_each(|rows| into[rows.start + 1] = rows.start);
        let reduction = Reduction::join(view.offsets, &into, view.sizes).with_proportional_attention();
        model.reduce(&mut state, &reduction).unwrap();
    }
    model.advance(&mut state, Site::end(model.spec()), Taps::NONE).unwrap();
    state
}

/// However a batch is composed, an image's tokens and answers are bit for bit those that it has alone.
#[test]
fn a_mixed_batch_equals_its_images_one_by_one() {
    let (sizes, images) = images(&GRIDS);
    let all = images.concat();
    for spec in backbones() {
        for precision in Precision::ALL {
            let model = CpuBackbone::in_precision(&spec, &tensors(&spec, 3), precision).unwrap();
            let together = run(&model, PixelBatch::of_sizes(&all, &sizes), 0, true);
            assert_eq!(together.packed.grids, GRIDS);
            for (b, image) in images.iter().enumerate() {
                let alone = run(&model, PixelBatch::of_sizes(image, &sizes[b..=b]), b, true);
                let rows = together.packed.offsets[b]..together.packed.offsets[b + 1];
                assert_eq!(together.packed.origins[rows.clone()], alone.packed.origins);
                assert_eq!(
                    together.packed.tokens[rows.start * spec.dim..rows.end * spec.dim],
                    alone.packed.tokens
                );
                for want in [Want::Logits, Want::Pooled] {
                    let (all, one) =
                        (model.finish(&together, want).unwrap(), model.finish(&alone, want).unwrap());
                    assert_eq!(all.row(b), one.values, "{want:?} of image {b} in {precision}");
                }
            }
            // The other images, in another order.
            let order = [4, 2, 0];
            let some: Vec<f32> = order.iter().flat_map(|b| images[*b].clone()).collect();
            let dense = model.dense_logits(PixelBatch::of_sizes(&all, &sizes)).unwrap();
            let dense_some =
                model.dense_logits(PixelBatch::of_sizes(&some, &order.map(|b| sizes[b]))).unwrap();
            order.iter().enumerate().for_each(|(i, b)| assert_eq!(dense_some.row(i), dense.row(*b)));
        }
    }
}

#[test]
fn masked_equals_removed_on_every_grid() {
    let (sizes, images) = images(&GRIDS);
    for spec in backbones() {
        let tensors = tensors(&spec, 5);
        let model = CpuBackbone::new(&spec, &tensors).unwrap();
        let all = images.concat();
        let state = run(&model, PixelBatch::of_sizes(&all, &sizes), 0, false);
        let logits = model.finish(&state, Want::Logits).unwrap();
        for (b, image) in images.iter().enumerate() {
            let (fixed, fixed_tensors) = of_grid(&spec, &tensors, GRIDS[b]);
            let mask = (0..fixed.num_patches()).map(|patch| stays(b, patch)).collect();
            let masked = reference::masked_logits(&fixed, &fixed_tensors, image, &[(1, mask)]);
            let difference = relative_difference(logits.row(b), &masked);
            assert!(difference < 1e-4, "{:?}: {difference}", GRIDS[b]);
            // A backbone of that one size gives the same, and costs the same.
            let fixed_model = CpuBackbone::new(&fixed, &fixed_tensors).unwrap();
            let alone = run(&fixed_model, PixelBatch::new(image, 1), b, false);
            let alone = fixed_model.finish(&alone, Want::Logits).unwrap();
            assert!(relative_difference(logits.row(b), &alone.values) < 1e-5);
            assert_eq!(cost::dense_macs(&spec.of_grid(GRIDS[b])), cost::dense_macs(&fixed));
        }
    }
}

#[test]
fn a_part_of_a_batch_is_its_images() {
    let spec = &backbones()[0];
    let (sizes, images) = images(&GRIDS);
    let all = images.concat();
    let batch = PixelBatch::of_sizes(&all, &sizes);
    let part = batch.part(spec, 1..3);
    assert_eq!((part.batch, part.grids(spec)), (2, GRIDS[1..3].to_vec()));
    assert_eq!(part.data, images[1..3].concat());
    let uniform = PixelBatch::new(&images[1], 1);
    assert_eq!(uniform.part(spec, 0..1).data, images[1]);
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let spec = &backbones()[0];
    let model = CpuBackbone::new(spec, &tensors(spec, 1)).unwrap();
    let refused = |model: &CpuBackbone, size: [usize; 2], values: usize, words: &str| {
        let (sizes, pixels) = ([size], vec![0.0; values]);
        let error = model.embed(PixelBatch::of_sizes(&pixels, &sizes)).err().unwrap().to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{error}");
    };
    refused(&model, [PATCH, PATCH + 1], 3 * PATCH * (PATCH + 1), "patches of 4 pixels do not tile");
    refused(&model, [0, PATCH], 0, "do not tile");
    refused(&model, [1 << 14, 1 << 14], 0, "more than the limit of 16777216");
    refused(&model, [usize::MAX - 3, PATCH], 0, "more than the limit of 16777216");
    refused(&model, [PATCH, PATCH], 7, "7 pixel values");
    let fixed = VitSpec::from_timm_name("vit_tiny_patch16_224").unwrap().with_img_size([32, 48]);
    let model =
        CpuBackbone::new(&VitSpec { depth: 1, ..fixed.clone() }, &Tensors::random(&fixed, 1)).unwrap();
    refused(&model, [48, 32], 3 * 48 * 32, "takes images of 32x48 only");
    let mut odd = spec.clone();
    odd.positions = Positions::None;
    assert!(odd.check().unwrap_err().to_string().contains("learned positions"));
}

/// SigLIP's small checkpoint of transformers, rewritten as SigLIP 2's of the same weights: a linear layer over patches with
/// their channels last.
fn siglip2() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let files = WeightFiles::open(&own("hf_siglip").join("model.safetensors")).unwrap();
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = files
        .names()
        .map(|name| {
            let mut shape = files.shape(name).unwrap().to_vec();
            let mut values = files.read(name, &shape).unwrap();
            if name.ends_with("patch_embedding.weight") {
                let (old, pixels) = (values.clone(), PATCH * PATCH);
                for (i, value) in values.iter_mut().enumerate() {
                    let (output, at) = (i / (3 * pixels), i % (3 * pixels));
                    *value = old[output * 3 * pixels + at % 3 * pixels + at / 3];
                }
                shape = vec![shape[0], 3 * pixels];
            }
            (name.to_owned(), shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
        })
        .collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes);
        (name, view.unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.path().join("model.safetensors")).unwrap();
    let config = std::fs::read(own("hf_siglip").join("config.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&config).unwrap();
    config["architectures"] = json!(["Siglip2VisionModel"]);
    config["num_patches"] = json!(16);
    config.as_object_mut().unwrap().remove("image_size");
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

/// On the grid of its positions, SigLIP 2 of the same weights gives what transformers' SigLIP gives.
#[test]
fn a_checkpoint_is_read_and_written_back() {
    let folder = siglip2();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let (spec, fixture) = (checkpoint.spec.clone(), own("hf_siglip"));
    assert_eq!((spec.embedding.position_grid, spec.is_naflex()), (Some([4, 4]), true));
    // transformers' processor allows 256 patches if nothing is said.
    assert_eq!(spec.grid(), [16, 16]);
    let stored = WeightFiles::open(&folder.path().join("model.safetensors")).unwrap();
    for (name, shape, values) in checkpoint.in_its_layout(&checkpoint.tensors).unwrap() {
        assert_eq!(stored.read(&name, &shape).unwrap(), values, "{name}");
    }
    let expected = WeightFiles::open(&fixture.join("expected.safetensors")).unwrap();
    let whole = expected.read("pixel_values", &[2, 3, 18, 18]).unwrap();
    // SigLIP's convolution leaves out the last two rows and columns of 18.
    let rows = whole.chunks_exact(18).enumerate().filter(|(row, _)| row % 18 < 16);
    let pixels: Vec<f32> = rows.flat_map(|(_, row)| row[..16].to_vec()).collect();
    let model = checkpoint.into_backbone(Precision::F32).unwrap();
    let batch = PixelBatch::of_sizes(&pixels, &[[16, 16], [16, 16]]);
    for (name, want, shape) in
        [("features", Want::Tokens, vec![2, 16, 18]), ("pooled", Want::Pooled, vec![2, 18])]
    {
        let expected = expected.read(name, &shape).unwrap();
        let difference = relative_difference(&model.dense(batch, want).unwrap().values, &expected);
        assert!(difference <= 1e-4, "{name}: {difference}");
    }
}

#[test]
fn the_processor_says_how_many_patches_an_image_has() {
    let folder = siglip2();
    let processor = |patches: Value| {
        let text = json!({"image_processor_type": "Siglip2ImageProcessor", "max_num_patches": patches});
        std::fs::write(folder.path().join("preprocessor_config.json"), text.to_string()).unwrap();
        Checkpoint::open(folder.path())
    };
    assert_eq!(processor(json!(30)).unwrap().spec.grid(), [5, 6]);
    assert_eq!(processor(json!(1)).unwrap().spec.grid(), [1, 1]);
    let at = Checkpoint::open_at(folder.path(), Some([8, 24])).unwrap().spec;
    assert_eq!((at.grid(), at.embedding.position_grid), ([2, 6], Some([4, 4])));
    let error = processor(json!("many")).err().unwrap().to_string();
    assert!(error.contains("max_num_patches"), "{error}");
    let config = std::fs::read_to_string(folder.path().join("config.json")).unwrap();
    std::fs::write(
        folder.path().join("config.json"),
        config.replace("\"num_patches\":16", "\"num_patches\":18"),
    )
    .unwrap();
    let error = processor(json!(16)).err().unwrap().to_string();
    assert!(error.contains("num_patches = 18 is not the number of patches of a square grid"), "{error}");
}
