//! Models, images, and a server.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;
use vitrim_data::RgbImage;
use vitrim_data::image::{ImageFormat, Rgb};
use vitrim_measure::Loaded;
use vitrim_measure::calibrate::Calibration;
use vitrim_measure::front::{Front, FrontPoint};
use vitrim_measure::statistics::Confidence;
use vitrim_prune::{AnyPolicy, MethodPolicy, Policy, ReadOut};
use vitrim_serve::{Server, Settings};
use vitrim_vit::{Tensors, VitSpec};

pub const CLASSES: usize = 3;
pub const SIDE: usize = 32;
/// Images of the calibration records that the tests write.
const IMAGES: usize = 2000;

/// Writes a checkpoint in timm's layout: 16 patches, 4 blocks of width 24, 3 classes.
pub fn write_model(folder: &Path, seed: u64) {
    let mut spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap().with_img_size([SIDE; 2]);
    (spec.patch_size, spec.dim, spec.depth, spec.num_classes) = (8, 24, 4, CLASSES);
    (spec.attention.heads, spec.mlp.hidden) = (3, 96);
    let config = json!({
        "architecture": "deit_tiny_patch16_224",
        "num_classes": CLASSES,
        "model_args": {"img_size": SIDE, "patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 3},
        "pretrained_cfg": {"input_size": [3, SIDE, SIDE], "crop_pct": 1.0, "label_names": ["blue", "green", "red"]},
    });
    let Tensors::Owned(tensors) = Tensors::random(&spec, seed) else { panic!("random weights are owned") };
    // Larger than timm's initial weights, so that predictions differ between images.
    let larger = |values: &[f32]| values.iter().flat_map(|v| (4.0 * v).to_le_bytes()).collect::<Vec<u8>>();
    let bytes: Vec<_> =
        tensors.iter().map(|(name, (shape, values))| (name, shape.clone(), larger(values))).collect();
    let views = bytes.iter().map(|(name, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// Writes a policy for the model in `model`, with a calibration record that certifies its thresholds: the first at a drop
/// of about 0, the others at more.
pub fn write_policy(folder: &Path, model: &Path) {
    let loaded = Loaded::open(model).unwrap();
    let mut policy = Policy::untrained(&loaded.spec, loaded.id.clone(), &[1, 2, 3], &[0.7, 0.49, 0.343]);
    policy.read_out = ReadOut::Threshold { threshold: 0.5 };
    policy.calibration = Some(record(&loaded, [0.4, 0.5, 0.55], 0.5));
    policy.save(folder).unwrap();
}

/// Writes ToMe as a policy for the model in `model`, with a record as that of [`write_policy`].
pub fn write_method(folder: &Path, model: &Path) {
    let loaded = Loaded::open(model).unwrap();
    let mut policy = MethodPolicy::new(&loaded.id, "tome".parse().unwrap(), Vec::new());
    policy.cost = 0.7;
    policy.calibration = Some(record(&loaded, [0.9, 0.7, 0.5], 0.7));
    AnyPolicy::Method(policy).save(folder).unwrap();
}

/// A calibration record that certifies `settings`, at 0.9, 0.7 and 0.5 of the dense MACs, and chose `chosen`.
fn record(loaded: &Loaded, settings: [f64; 3], chosen: f64) -> Value {
    let dense = vitrim_vit::cost::dense_macs(&loaded.spec) as f64 / 1e9;
    let point = |(setting, cost, lost): (f64, f64, usize)| FrontPoint {
        setting,
        cost,
        gmacs: cost * dense,
        images: IMAGES,
        dense_only_right: lost,
        pruned_only_right: 0,
        drift: None,
        fidelity: 0.01,
        keep_ratio: vec![cost; 3],
    };
    let [mild, middle, bold] = settings;
    let points = [(mild, 0.9, 2), (middle, 0.7, 10), (bold, 0.5, 30)].map(point).to_vec();
    let record = Calibration {
        data: "made up".into(),
        split: "test".into(),
        dtype: vitrim_vit::Precision::F32,
        max_drop: 1.0,
        confidence: Confidence::DEFAULT,
        certified: true,
        threshold: chosen,
        choice: "made up".into(),
        front: Front::new(true, IMAGES, points).unwrap(),
        pilot: None,
    };
    serde_json::to_value(record).unwrap()
}

/// A picture, another for each seed.
pub fn picture(seed: u32) -> RgbImage {
    RgbImage::from_fn(40 + seed % 7, 36, |x, y| {
        Rgb([(x * (seed + 3) % 251) as u8, (y * (seed + 7) % 241) as u8, ((x ^ y) * 5 + seed) as u8])
    })
}

/// A picture as PNG.
pub fn png(seed: u32) -> Vec<u8> {
    let mut file = Cursor::new(Vec::new());
    picture(seed).write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

/// A folder with a model and its policy.
pub struct Folder {
    pub root: TempDir,
    pub model: PathBuf,
    pub policy: PathBuf,
}

impl Folder {
    pub fn new() -> Self {
        let root = TempDir::new().unwrap();
        let (model, policy) = (root.path().join("model"), root.path().join("policy"));
        write_model(&model, 1);
        write_policy(&policy, &model);
        Folder { root, model, policy }
    }

    /// Settings that serve the model under the name `m`, on a free port.
    pub fn settings(&self) -> Settings {
        Settings { model: vec![format!("m={}", self.model.display())], port: Some(0), ..Settings::default() }
    }

    /// As [`Folder::settings`], with the policy.
    pub fn pruned(&self) -> Settings {
        Settings { policy: vec![format!("m={}", self.policy.display())], ..self.settings() }
    }
}

/// A server that runs, and a client of it.
pub struct Running {
    pub server: Server,
    pub client: Client,
}

impl Running {
    /// Listens and loads.
    pub async fn start(settings: Settings) -> Self {
        let running = Self::listen(settings).await;
        running.server.load().await.unwrap();
        running
    }

    /// Listens; no model is loaded yet.
    pub async fn listen(settings: Settings) -> Self {
        let server = Server::listen(settings.config(2, None).unwrap()).await.unwrap();
        // No answer takes as long, on however slow a machine.
        // vitrim-hub's features of reqwest leave the choice of the cryptography to the program; another test may have made it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().timeout(Duration::from_secs(120)).build().unwrap();
        Running { server, client }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.rest)
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        let response = self.client.get(self.url(path)).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    pub async fn post(&self, path: &str, body: Vec<u8>) -> (u16, Value) {
        let response = self.client.post(self.url(path)).body(body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    pub async fn post_json(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.client.post(self.url(path)).json(body).send().await.unwrap();
        (response.status().as_u16(), response.json().await.unwrap())
    }

    pub async fn metrics(&self) -> String {
        self.client.get(self.url("/metrics")).send().await.unwrap().text().await.unwrap()
    }
}

/// The value of a metric, `name{labels}` as it is printed.
pub fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}
