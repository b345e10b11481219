//! A small random backbone, a small data set, and the program.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use image::{Rgb, RgbImage};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;
use vitrim_vit::{Tensors, VitSpec};

/// Options with which a training run takes a second.
pub const TINY: [&str; 10] = [
    "--set",
    "images_per_update=8",
    "--set",
    "rollouts_per_image=2",
    "--set",
    "reward.reference_images=8",
    "--set",
    "checkpoint_every=1",
    "--set",
    "critic.hidden=[8]",
];

/// A scratch folder with `model/` and `data/{train,val,test}/{blue,green,red}/*.png`.
pub struct Scratch {
    folder: TempDir,
}

impl Scratch {
    pub fn new() -> Self {
        let scratch = Scratch::empty();
        write_checkpoint(&scratch.path("model"), 1);
        for (split, count) in [("train", 12), ("val", 6), ("test", 6)] {
            write_images(&scratch.path(&format!("data/{split}")), split, count);
        }
        scratch
    }

    /// An empty scratch folder.
    pub fn empty() -> Self {
        Scratch { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the program in the scratch folder.
    pub fn run(&self, args: &[&str]) -> Run {
        Run(self.command(args).output().unwrap())
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vitrim"));
        command.args(args).current_dir(self.folder.path());
        command
    }

    /// Trains three updates into `run/`.
    pub fn train(&self, more: &[&str]) -> Run {
        let args = ["train", "--model", "model", "--data", "data", "--out", "run", "--updates", "3"];
        self.run(&[&args, &TINY[..], more].concat())
    }

    /// Every file below `name`, with its bytes.
    pub fn snapshot(&self, name: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.path(name)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.insert(path.clone(), std::fs::read(&path).unwrap());
                }
            }
        }
        files
    }
}

/// The output of the program.
pub struct Run(pub Output);

impl Run {
    pub fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// Its stdout, after it succeeded.
    pub fn good(&self) -> String {
        assert!(self.0.status.success(), "{}\n{}", self.stdout(), self.stderr());
        self.stdout()
    }

    /// Each line of its stdout as JSON.
    pub fn json(&self) -> Vec<Value> {
        self.good().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Checks that it failed with one line on stderr that holds all of `words`.
    pub fn refused(&self, words: &[&str]) {
        let stderr = self.stderr();
        assert_eq!(self.0.status.code(), Some(1), "{stderr}");
        assert_eq!(self.stdout(), "", "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.trim_end().lines().count() == 1, "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "no `{word}` in {stderr}");
        }
    }
}

/// A checkpoint folder in timm's layout: 16 patches, 4 blocks of width 24, 3 classes.
pub fn write_checkpoint(folder: &Path, seed: u64) {
    let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([32, 32]);
    (spec.patch_size, spec.dim, spec.depth, spec.num_classes) = (8, 24, 4, 3);
    (spec.attention.heads, spec.mlp.hidden) = (3, 96);
    let config = json!({
        "architecture": "deit_tiny_patch16_224",
        "num_classes": 3,
        "model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3},
        "pretrained_cfg": {"input_size": [3, 32, 32], "crop_pct": 1.0, "label_names": ["blue", "green", "red"]},
    });
    let Tensors::Owned(tensors) = Tensors::random(&spec, seed) else { panic!("random weights are owned") };
    let bytes: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        // Larger than timm's initial weights, so that predictions differ between images.
        .map(|(name, (shape, values))| {
            (name, shape, values.iter().flat_map(|v| (4.0 * v).to_le_bytes()).collect())
        })
        .collect();
    let views = bytes
        .iter()
        .map(|(name, shape, bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// `count` images of each colour below `folder`.
pub fn write_images(folder: &Path, key: &str, count: u32) {
    for (class, name) in ["blue", "green", "red"].into_iter().enumerate() {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        for i in 0..count {
            let salt = i * 31 + key.len() as u32 * 7 + u32::from(key.as_bytes()[0]);
            let image = RgbImage::from_fn(40, 36, |x, y| {
                let mut pixel = [((x * salt + y * 13) % 97) as u8, ((y * salt + x * 5) % 89) as u8, 40];
                pixel[2 - class] = 200 + ((x + y + i) % 50) as u8;
                Rgb(pixel)
            });
            image.save(folder.join(name).join(format!("{key}{i:02}.png"))).unwrap();
        }
    }
}
