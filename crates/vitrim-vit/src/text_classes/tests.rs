use std::io::Write;

use safetensors::tensor::{Dtype, TensorView};

use super::*;
use crate::backbone::{Backbone, PixelBatch, Want};
use crate::executor::CpuBackbone;
use crate::spec::{Pool, Pooling};

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A safetensors file of `arrays` with `names` in its header.
fn file(folder: &Path, arrays: &[(&str, &[usize], &[f32])], names: Option<&str>) -> PathBuf {
    let data: Vec<Vec<u8>> = arrays.iter().map(|(_, _, values)| bytes(values)).collect();
    let views = arrays.iter().zip(&data).map(|((name, shape, _), data)| {
        (name.to_string(), TensorView::new(Dtype::F32, shape.to_vec(), data).unwrap())
    });
    let stated = names.map(|names| [("names".to_owned(), names.to_owned())].into());
    let path = folder.join("classes.safetensors");
    std::fs::write(&path, safetensors::serialize(views, stated).unwrap()).unwrap();
    path
}

/// One array in the npy format.
fn npy(kind: &str, shape: &str, data: &[u8]) -> Vec<u8> {
    let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut array =
        [&b"\x93NUMPY\x01\x00"[..], &(header.len() as u16).to_le_bytes(), header.as_bytes()].concat();
    array.extend_from_slice(data);
    array
}

fn npz(folder: &Path, arrays: &[(&str, Vec<u8>)]) -> PathBuf {
    let path = folder.join("classes.npz");
    let mut archive = zip::ZipWriter::new(std::fs::File::create(&path).unwrap());
    for (name, array) in arrays {
        archive.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
        archive.write_all(array).unwrap();
    }
    archive.finish().unwrap();
    path
}

const ROWS: [f32; 6] = [3.0, 0.0, 4.0, 0.0, 2.0, 0.0];
const NAMED: Option<&str> = Some("[\"cat\", \"dög\"]");

#[test]
fn safetensors_and_npz_hold_the_same_classes() {
    let folder = tempfile::tempdir().unwrap();
    let arrays: [(&str, &[usize], &[f32]); 3] =
        [("text_embeddings", &[2, 3], &ROWS), ("logit_scale", &[], &[20.0]), ("logit_bias", &[1], &[-3.0])];
    let classes = TextClasses::open(&file(folder.path(), &arrays, NAMED)).unwrap();
    assert_eq!(classes.names, ["cat", "dög"]);
    assert_eq!(classes.embeddings, [0.6, 0.0, 0.8, 0.0, 1.0, 0.0]);
    assert_eq!((classes.scale, classes.bias, classes.notes.len()), (20.0, -3.0, 0));

    let names: Vec<u8> = "catdög".chars().flat_map(|letter| u32::from(letter).to_le_bytes()).collect();
    let doubles: Vec<u8> = ROWS.iter().flat_map(|value| f64::from(*value).to_le_bytes()).collect();
    let arrays = [
        ("whatever", npy("<f8", "(2, 3)", &doubles)),
        ("logit_scale", npy("<f4", "()", &bytes(&[20.0]))),
        ("logit_bias", npy("<f4", "(1,)", &bytes(&[-3.0]))),
        ("names", npy("<U3", "(2,)", &names)),
    ];
    let same = TextClasses::open(&npz(folder.path(), &arrays)).unwrap();
    assert_eq!(TextClasses { path: classes.path.clone(), ..same }, classes);
}

#[test]
fn prompts_of_a_class_are_averaged_at_length_1() {
    let folder = tempfile::tempdir().unwrap();
    let of = |shape: &[usize], rows: &[f32]| {
        let arrays: [(&str, &[usize], &[f32]); 2] = [("t", shape, rows), ("logit_scale", &[1], &[100.0])];
        TextClasses::open(&file(folder.path(), &arrays, NAMED)).unwrap().embeddings
    };
    let half = 0.5f32.sqrt();
    let mean = of(&[2, 2, 2], &[5.0, 0.0, 0.0, 0.1, 1.0, 0.0, 1.0, 0.0]);
    mean.iter().zip([half, half, 1.0, 0.0]).for_each(|(a, b)| assert!((a - b).abs() < 1e-6, "{mean:?}"));
}

#[test]
fn what_a_file_lacks_is_said_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let scale: (&str, &[usize], &[f32]) = ("logit_scale", &[], &[100.0]);
    let rows: (&str, &[usize], &[f32]) = ("t", &[2, 3], &ROWS);
    let zero: (&str, &[usize], &[f32]) = ("t", &[2, 3], &[0.0; 6]);
    let flat: (&str, &[usize], &[f32]) = ("t", &[6], &ROWS);
    let several: (&str, &[usize], &[f32]) = ("u", &[1], &[1.0]);
    let wrong: (&str, &[usize], &[f32]) = ("logit_scale", &[2], &[1.0, 2.0]);
    let negative: (&str, &[usize], &[f32]) = ("logit_scale", &[], &[-1.0]);
    for (arrays, names, said) in [
        (vec![rows], NAMED, "no logit_scale; store the factor of cosines: model.logit_scale.exp()"),
        (vec![rows, wrong], NAMED, "logit_scale of shape [2] is not one finite number"),
        (vec![rows, negative], NAMED, "not positive"),
        (vec![rows, scale], None, "no names of the classes"),
        (vec![rows, scale], Some("cat, dog"), "no list of texts in JSON"),
        (vec![rows, scale], Some("[\"cat\"]"), "1 names for 2 classes"),
        (vec![scale], NAMED, "0 arrays besides logit_scale"),
        (vec![rows, several, scale], NAMED, "2 arrays besides logit_scale"),
        (vec![flat, scale], NAMED, "t is of shape [6]; text embeddings are [classes, width]"),
        (vec![zero, scale], NAMED, "class 0 is 0"),
    ] {
        let error = TextClasses::open(&file(folder.path(), &arrays, names)).unwrap_err().to_string();
        assert!(
            error.contains(said) && error.contains("classes.safetensors") && !error.contains('\n'),
            "{error}"
        );
    }
    let objects = [("t", npy("|O", "(2, 3)", &[])), ("logit_scale", npy("<f4", "()", &bytes(&[1.0])))];
    let error = TextClasses::open(&npz(folder.path(), &objects)).unwrap_err().to_string();
    assert!(error.contains("t: type '|O' is not read"), "{error}");
    let cut = [("t", npy("<f4", "(2, 3)", &bytes(&ROWS[..4])))];
    let error = TextClasses::open(&npz(folder.path(), &cut)).unwrap_err().to_string();
    assert!(error.contains("shorter than its header"), "{error}");
    let huge = [("t", npy("<f4", "(9999999999, 9999999999)", &[]))];
    let error = TextClasses::open(&npz(folder.path(), &huge)).unwrap_err().to_string();
    assert!(error.contains("above the limits"), "{error}");
}

#[test]
fn the_logarithm_of_a_scale_is_suspected() {
    let folder = tempfile::tempdir().unwrap();
    let arrays: [(&str, &[usize], &[f32]); 2] = [("t", &[2, 3], &ROWS), ("logit_scale", &[], &[4.6052])];
    let classes = TextClasses::open(&file(folder.path(), &arrays, NAMED)).unwrap();
    assert!(classes.notes[0].contains("logit_scale 4.6052 is small"), "{:?}", classes.notes);
}

/// A small timm CLIP, whose projection is its classifier of 3 outputs, and pixels of two images.
fn clip() -> (VitSpec, Tensors, Vec<f32>) {
    let mut spec = VitSpec::from_timm_name("vit_base_patch32_clip_224").unwrap().with_img_size([64, 32]);
    (spec.dim, spec.depth, spec.mlp.hidden, spec.num_classes, spec.attention.heads) = (24, 2, 32, 3, 4);
    let tensors = Tensors::random(&spec, 1);
    let pixels = (0..2 * 3 * 64 * 32).map(|i| ((i * 37 % 101) as f32 / 50.0) - 1.0).collect();
    (spec, tensors, pixels)
}

#[test]
fn a_tower_answers_with_scaled_cosines() {
    let folder = tempfile::tempdir().unwrap();
    let arrays: [(&str, &[usize], &[f32]); 3] =
        [("t", &[2, 3], &ROWS), ("logit_scale", &[], &[20.0]), ("logit_bias", &[], &[-3.0])];
    let classes = TextClasses::open(&file(folder.path(), &arrays, NAMED)).unwrap();
    let (mut spec, mut tensors, pixels) = clip();
    let embed = CpuBackbone::new(&spec, &tensors).unwrap();
    let embedded = embed.dense_logits(PixelBatch::new(&pixels, 2)).unwrap();
    classes.classify(&mut spec, &mut tensors).unwrap();
    let model = CpuBackbone::new(&spec, &tensors).unwrap();
    let logits = model.dense_logits(PixelBatch::new(&pixels, 2)).unwrap();
    assert_eq!((logits.width, model.spec().num_classes), (2, 2));
    for image in 0..2 {
        let e = embedded.row(image);
        let length = e.iter().map(|v| v * v).sum::<f32>().sqrt();
        for (class, t) in [[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]].iter().enumerate() {
            let cosine = e.iter().zip(t).map(|(e, t)| e * t).sum::<f32>() / length;
            let (expected, found) = (20.0 * cosine - 3.0, logits.row(image)[class]);
            assert!((expected - found).abs() < 1e-4, "{expected} {found}");
        }
    }
    let again = model.dense(PixelBatch::new(&pixels, 2), Want::Embedding).unwrap();
    assert_eq!(again, embedded, "the embedding stays as it was");
}

#[test]
fn a_backbone_without_an_embedding_or_of_another_width_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let arrays: [(&str, &[usize], &[f32]); 2] = [("t", &[2, 3], &ROWS), ("logit_scale", &[], &[20.0])];
    let classes = TextClasses::open(&file(folder.path(), &arrays, NAMED)).unwrap();
    let refusal = |mut spec: VitSpec| {
        let mut tensors = Tensors::random(&spec, 1);
        classes.classify(&mut spec, &mut tensors).unwrap_err().to_string()
    };
    let (clip, ..) = clip();
    let wide = refusal(VitSpec { num_classes: 5, ..clip.clone() });
    assert!(wide.contains("width 3") && wide.contains("ends in 5 values"), "{wide}");
    let none = refusal(VitSpec { num_classes: 0, ..clip.clone() });
    assert!(none.contains("no image embedding to compare with texts"), "{none}");
    let projected = Pooling { projection: Some(4), ..Pooling::plain(Pool::Token, true) };
    let other = refusal(VitSpec { num_classes: 0, pooling: projected, ..clip });
    assert!(other.contains("width 3") && other.contains("have width 4"), "{other}");
    let deit = VitSpec { num_classes: 3, ..VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap() };
    assert!(refusal(deit).contains("deit_tiny_patch16_224 has no image embedding"));
}
