//! A learned policy on disk: a folder with `policy.json` and `policy.safetensors`.

use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use vitrim_durable::Pair;
use vitrim_vit::{Tensors, VitError, VitSpec, is_lfs_pointer};

use crate::limits::{MAX_HEADER_BYTES, MAX_HIDDEN_LAYERS, MAX_OFFSET, MAX_WEIGHT_BYTES, MAX_WIDTH};
use crate::policy::actor::{Departure, Observation, PerceptronSpec, PerceptronWeights};
use crate::policy::read_out::ReadOut;
use crate::pruner::{PruneError, Result};

/// The policy's description; it names the weights by their hash.
pub(super) const HEADER: &str = "policy.json";
/// The actor's weights.
pub(super) const WEIGHTS: &str = "policy.safetensors";
/// Version of the folder's layout, for policies whose agents observe their embedding.
const VERSION: u32 = 1;
/// Version of the folder's layout, for policies whose actor has no input of a backbone's width. Earlier programs do not
/// read it.
pub(super) const VERSION_ANY_BACKBONE: u32 = 2;
/// Version of the folder's layout, for hand-made methods ([`Recipe`](super::Recipe)).
pub(super) const VERSION_METHOD: u32 = 3;
/// Version of the folder's layout, for policies with an offset for each stage. Earlier programs do not read it.
const VERSION_OFFSETS: u32 = 4;
/// Version of the folder's layout, for merging by a learned metric. Earlier programs do not read it.
pub(super) const VERSION_METRIC: u32 = 5;
/// The newest version.
const NEWEST: u32 = VERSION_METRIC;

/// The backbone that a policy belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneId {
    /// Architecture name, as in timm.
    pub architecture: String,
    /// Input height and width, pixels.
    pub img_size: [usize; 2],
    /// Patch side, pixels.
    pub patch_size: usize,
    /// D, the width of a token.
    pub dim: usize,
    /// L, the number of blocks.
    pub depth: usize,
    /// [`Tensors::fingerprint`] of the backbone's weights.
    pub fingerprint: String,
}

impl BackboneId {
    /// Identifies the backbone of geometry `spec` with weights `tensors`.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub fn of(spec: &VitSpec, tensors: &Tensors) -> Result<Self> {
        Ok(BackboneId {
            architecture: spec.architecture.clone(),
            img_size: spec.img_size,
            patch_size: spec.patch_size,
            dim: spec.dim,
            depth: spec.depth,
            fingerprint: tensors.fingerprint(spec)?,
        })
    }
}

impl BackboneId {
    /// Checks that the policy for this backbone, read from `folder`, is for `given`.
    ///
    /// # Errors
    /// [`PruneError::OtherBackbone`] if it is not.
    pub(super) fn check(&self, folder: &Path, given: &BackboneId) -> Result<()> {
        if self == given {
            return Ok(());
        }
        Err(PruneError::OtherBackbone {
            path: folder.to_owned(),
            trained_for: self.to_string(),
            given: given.to_string(),
        })
    }
}

impl std::fmt::Display for BackboneId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [height, width] = self.img_size;
        let short: String = self.fingerprint.chars().take(8).collect();
        write!(
            f,
            "{} at {height}x{width}, {} blocks of {}, weights {short}",
            self.architecture, self.depth, self.dim
        )
    }
}

/// Everything needed to run a policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The backbone that the policy was trained for.
    pub backbone: BackboneId,
    /// 0-based blocks at which the policy acts, see [`Departure::site`].
    pub stages: Vec<usize>,
    /// How tokens leave.
    pub departure: Departure,
    /// What the agents observe.
    pub observation: Observation,
    /// The actor's geometry.
    pub actor: PerceptronSpec,
    /// The actor's weights.
    pub weights: PerceptronWeights,
    /// Added to the logits of p_keep at each stage, `[K]`; empty: nothing ([`balance`](super::balance())).
    pub offsets: Vec<f32>,
    /// The default read-out.
    pub read_out: ReadOut,
    /// The calibration record, as the calibrator wrote it.
    pub calibration: Option<serde_json::Value>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    vitrim: String,
    backbone: BackboneId,
    stages: Vec<usize>,
    #[serde(default)]
    departure: Departure,
    observation: Observation,
    actor: PerceptronSpec,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    offsets: Vec<f32>,
    read_out: ReadOut,
    /// BLAKE3 of `policy.safetensors`, so that a mix of two policies is detected.
    weights_hash: String,
    calibration: Option<serde_json::Value>,
}

impl Policy {
    /// The blocks before which a method that drops tokens acts in place of this policy, `[K]`.
    pub fn drop_stages(&self) -> Vec<usize> {
        self.stages.iter().map(|&block| self.departure.next_attention(block)).collect()
    }

    /// A hash of everything that determines its decisions: weights, stages, observation and read-out.
    pub fn identity(&self) -> String {
        let header = (&self.stages, self.departure, &self.observation, &self.actor, &self.read_out);
        let header = serde_json::to_vec(&header).expect("plain data");
        let offsets = self.offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
        hash(&[self.serialize_weights(), header, offsets].concat())
    }

    /// Writes the folder, durably. A reader finds the old policy or the new one, also after a crash at any moment;
    /// see [`Pair`] for what is on disk in between.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let [(_, header), (_, weights)] = self.encoded();
        Ok(files(folder).replace(&header, &weights)?)
    }

    /// Name and content of the files that [`Policy::save`] writes: the header, then the weights.
    pub fn encoded(&self) -> [(&'static str, Vec<u8>); 2] {
        let weights = self.serialize_weights();
        let header = Header {
            version: match self.observation {
                _ if !self.offsets.is_empty() => VERSION_OFFSETS,
                Observation { embedding: true, relative: false, .. } => VERSION,
                _ => VERSION_ANY_BACKBONE,
            },
            vitrim: env!("CARGO_PKG_VERSION").to_owned(),
            backbone: self.backbone.clone(),
            stages: self.stages.clone(),
            departure: self.departure,
            observation: self.observation,
            actor: self.actor.clone(),
            offsets: self.offsets.clone(),
            read_out: self.read_out.clone(),
            weights_hash: hash(&weights),
            calibration: self.calibration.clone(),
        };
        let json = serde_json::to_string_pretty(&header).expect("a header is plain data");
        [(HEADER, json.into_bytes()), (WEIGHTS, weights)]
    }

    /// Reads a folder that [`Policy::save`] wrote.
    ///
    /// # Errors
    /// If the folder is missing, damaged, or of a version that this code does not read; or if it states what could not
    /// run or be held ([`limits`](crate::limits)).
    pub fn load(folder: &Path) -> Result<Self> {
        let (json_path, weights_path) = (folder.join(HEADER), folder.join(WEIGHTS));
        let Read { header, weights } = read(folder)?;
        if header.get("depth_shares").is_some() {
            let reason = "a policy for every backbone; `vitrim calibrate --out` makes one for yours of it";
            return Err(bad(&json_path, reason.into()));
        }
        if is_method(&header) {
            return Err(no_actor(folder, header["method"].as_str().unwrap_or_default()));
        }
        let header: Header =
            serde_json::from_value(header).map_err(|e| bad(&json_path, format!("not a policy: {e}")))?;
        let bytes = weights?;
        check_parts(&header)
            .map_err(|reason| bad(&json_path, format!("{reason}; train the policy again")))?;
        if values(&header.actor) > bytes.len() / size_of::<f32>() {
            return Err(bad(&json_path, MORE_WEIGHTS.into()));
        }
        let weights =
            deserialize_weights(&bytes, &header.actor).map_err(|reason| bad(&weights_path, reason))?;
        Ok(Policy {
            backbone: header.backbone,
            stages: header.stages,
            departure: header.departure,
            observation: header.observation,
            actor: header.actor,
            offsets: header.offsets,
            weights,
            read_out: header.read_out,
            calibration: header.calibration,
        })
    }

    /// Checks that the policy, read from `folder`, belongs to `backbone`.
    ///
    /// # Errors
    /// [`PruneError::OtherBackbone`] if it does not.
    pub fn check_backbone(&self, folder: &Path, backbone: &BackboneId) -> Result<()> {
        self.backbone.check(folder, backbone)
    }

    fn serialize_weights(&self) -> Vec<u8> {
        serialize_weights(&self.actor, &self.weights)
    }
}

/// The weights file of an actor.
pub(super) fn serialize_weights(actor: &PerceptronSpec, weights: &PerceptronWeights) -> Vec<u8> {
    let shapes = actor.tensor_shapes();
    let named = weights.named();
    let bytes: Vec<Vec<u8>> =
        named.iter().map(|(_, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect()).collect();
    let views = named.iter().zip(&shapes).zip(&bytes).map(|(((name, _), (_, shape)), bytes)| {
        let view =
            TensorView::new(Dtype::F32, shape.clone(), bytes).expect("as many bytes as the shape says");
        (name.clone(), view)
    });
    safetensors::serialize(views, None).expect("the names are distinct")
}

/// The header of a policy folder, of a version that this code reads, and its weights file or what is wrong with it.
pub(super) struct Read {
    pub header: serde_json::Value,
    pub weights: Result<Vec<u8>>,
}

/// Reads the two files of `folder`.
///
/// # Errors
/// If the header is missing, too large, not JSON, or of another version.
pub(super) fn read(folder: &Path) -> Result<Read> {
    let (json_path, weights_path) = (folder.join(HEADER), folder.join(WEIGHTS));
    if !json_path.is_file() {
        return Err(bad(folder, "no policy here: give the folder that holds policy.json".into()));
    }
    for (path, limit) in [(&json_path, MAX_HEADER_BYTES), (&weights_path, MAX_WEIGHT_BYTES)] {
        let Ok(file) = std::fs::metadata(path) else { continue };
        if !file.is_file() || file.len() > limit {
            return Err(bad(path, format!("is no file of at most {limit} bytes, and so not of a policy")));
        }
    }
    let (json, bytes) = files(folder).read()?;
    if is_lfs_pointer(&json) {
        return Err(VitError::LfsPointer { path: json_path }.into());
    }
    let text = vitrim_text::utf8(&json).map_err(|e| bad(&json_path, e.to_string()))?;
    let header: serde_json::Value =
        serde_json::from_str(text).map_err(|e| bad(&json_path, format!("not valid JSON: {e}")))?;
    let version = header.get("version").and_then(serde_json::Value::as_u64);
    if !version.is_some_and(|version| (u64::from(VERSION)..=u64::from(NEWEST)).contains(&version)) {
        let found = header.get("version").map_or("none".to_owned(), ToString::to_string);
        let reason = format!("policy version {found}; this vitrim reads versions {VERSION} to {NEWEST}");
        return Err(bad(&json_path, reason));
    }
    let weights = bytes.ok_or_else(|| {
        if std::fs::read(&weights_path).is_ok_and(|bytes| is_lfs_pointer(&bytes)) {
            return VitError::LfsPointer { path: weights_path.clone() }.into();
        }
        let reason =
            "damaged, or not the weights that policy.json was written with; copy the whole folder again";
        bad(&weights_path, reason.into())
    });
    Ok(Read { header, weights })
}

/// Whether `header` is that of a method that is set to a cost.
pub(super) fn is_method(header: &serde_json::Value) -> bool {
    let version = header.get("version").and_then(serde_json::Value::as_u64);
    version == Some(VERSION_METHOD.into()) || version == Some(VERSION_METRIC.into())
}

/// Said where an actor is needed, of the policy in `folder`, which is of the method `method`.
pub(super) fn no_actor(folder: &Path, method: &str) -> PruneError {
    let method: String = method.chars().take(40).collect();
    bad(folder, format!("is of the method {method}, which has no actor to learn; give a learned policy"))
}

fn bad(path: &Path, reason: String) -> PruneError {
    PruneError::BadPolicy { path: path.to_owned(), reason }
}

/// Said of a header whose actor is larger than the weights file.
const MORE_WEIGHTS: &str = "names more weights than policy.safetensors holds";

/// Number of weights of `actor`.
fn values(actor: &PerceptronSpec) -> usize {
    actor.tensor_shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

/// The weights of `actor`, checked before memory for them is taken.
///
/// # Errors
/// A description of what is wrong with the file.
pub(super) fn weights_of(bytes: &[u8], actor: &PerceptronSpec) -> Result<PerceptronWeights, String> {
    if values(actor) > bytes.len() / size_of::<f32>() {
        return Err(MORE_WEIGHTS.into());
    }
    deserialize_weights(bytes, actor)
}

/// Checks that the parts of a policy agree with each other.
///
/// # Errors
/// A description of the disagreement.
fn check_parts(header: &Header) -> Result<(), String> {
    let Header { backbone, stages, departure, observation, actor, offsets, read_out, .. } = header;
    check_widths(backbone)?;
    check_actor(*departure, observation, actor)?;
    let depth = backbone.depth;
    if stages.is_empty() || stages.windows(2).any(|w| w[0] >= w[1]) || stages.iter().any(|l| *l >= depth) {
        return Err(format!("its {} stages do not ascend below {depth} blocks", stages.len()));
    }
    if *departure == Departure::Merge && stages.contains(&(depth - 1)) {
        return Err(STAGES.into());
    }
    let small = |offset: &f32| offset.abs() <= MAX_OFFSET;
    if !(offsets.is_empty() || offsets.len() == stages.len() && offsets.iter().all(small)) {
        return Err(format!("its {} offsets do not fit its {} stages", offsets.len(), stages.len()));
    }
    let patches = backbone.img_size.iter().map(|side| side / backbone.patch_size).product();
    let one_hot = |observed: bool, width: usize, wanted: usize| width == if observed { wanted } else { 0 };
    if !one_hot(observation.position, actor.positions, patches)
        || !one_hot(observation.stage, actor.stages, stages.len())
        || !one_hot(observation.embedding, actor.dim, backbone.dim)
    {
        return Err("the actor does not fit what its agents observe".into());
    }
    read_out.check(stages.len()).map_err(|error| error.to_string())
}

/// Checks that a backbone of the size that `backbone` states can be held.
///
/// # Errors
/// A description of what is wrong.
pub(super) fn check_widths(backbone: &BackboneId) -> Result<(), String> {
    let mut widths = [backbone.dim, backbone.depth, backbone.patch_size].into_iter().chain(backbone.img_size);
    match widths.any(|width| width == 0 || width > MAX_WIDTH) {
        true => Err(format!("a width or depth lies outside 1 to {MAX_WIDTH}")),
        false => Ok(()),
    }
}

/// Said of stages at which a policy cannot act.
const STAGES: &str = "its stages do not fit what becomes of those that leave";

/// Checks that an actor can be built, and sees what its agents observe.
///
/// # Errors
/// A description of the disagreement.
pub(super) fn check_actor(
    departure: Departure,
    observation: &Observation,
    actor: &PerceptronSpec,
) -> Result<(), String> {
    if actor.hidden.iter().any(|&width| width == 0 || width > MAX_WIDTH) {
        return Err(format!("a width or depth lies outside 1 to {MAX_WIDTH}"));
    }
    let shapeless = actor.hidden.is_empty() || actor.hidden.len() > MAX_HIDDEN_LAYERS;
    if shapeless || actor.outputs != 2 {
        return Err("the actor's geometry is impossible".into());
    }
    let pair = observation.pair || observation.pair_tokens || observation.relative;
    if pair && departure != Departure::Merge {
        return Err(STAGES.into());
    }
    let blind = !observation.embedding && (actor.dim > 0 || actor.context || observation.context);
    if blind || actor.scalars != observation.scalars() {
        return Err("the actor does not fit what its agents observe".into());
    }
    Ok(())
}

pub(super) fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..32].to_owned()
}

/// The weights of `actor` in `bytes`, or a description of what is wrong with them.
fn deserialize_weights(bytes: &[u8], actor: &PerceptronSpec) -> Result<PerceptronWeights, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| format!("no safetensors file ({error})"))?;
    let mut weights = PerceptronWeights::zeros(actor);
    for ((name, values), (_, shape)) in weights.named_mut().into_iter().zip(actor.tensor_shapes()) {
        let view = file.tensor(&name).ok().filter(|view| view.shape() == shape && view.dtype() == Dtype::F32);
        let view = view.ok_or_else(|| format!("no f32 tensor '{name}' of shape {shape:?}"))?;
        let floats = view.data().chunks_exact(4);
        *values = floats.map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect();
        if values.iter().any(|value| !value.is_finite()) {
            return Err(format!(
                "tensor '{name}' has values that are NaN or infinite; train the policy again"
            ));
        }
    }
    Ok(weights)
}

/// The folder's two files; a reader never finds one new and one old.
pub(super) fn files(folder: &Path) -> Pair {
    Pair::new(folder, HEADER, WEIGHTS, |header, weights| {
        let text = vitrim_text::utf8(header).ok();
        let header: Option<serde_json::Value> = text.and_then(|text| serde_json::from_str(text).ok());
        header.is_some_and(|header| header["weights_hash"] == hash(weights))
    })
}
