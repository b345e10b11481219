//! A policy for every backbone: its stages are shares of the depth, and no input of its actor has a width of a backbone.

use std::path::Path;

use serde::{Deserialize, Serialize};
use vitrim_vit::VitSpec;

use super::actor::{Departure, Observation, PerceptronSpec, PerceptronWeights};
use super::file::{self, BackboneId, Policy};
use super::read_out::ReadOut;
use crate::limits::MAX_STAGES;
use crate::pruner::{PruneError, Result};

/// The word that names the bundled policy wherever a policy is expected.
pub const UNIVERSAL: &str = "universal";

/// The bundled policy's files, and the card that says what it was trained on.
const BUNDLED: [(&str, &[u8]); 2] = [
    ("policy.json", include_bytes!("../../assets/universal/policy.json")),
    ("policy.safetensors", include_bytes!("../../assets/universal/policy.safetensors")),
];

/// A policy without a backbone. [`Universal::bind`] makes it a [`Policy`].
#[derive(Clone, Debug, PartialEq)]
pub struct Universal {
    /// The stages as shares of the depth, ascending, each in 0..1.
    pub depth_shares: Vec<f64>,
    /// How tokens leave.
    pub departure: Departure,
    /// What the agents observe; it fits any backbone.
    pub observation: Observation,
    /// The actor's geometry.
    pub actor: PerceptronSpec,
    /// The actor's weights.
    pub weights: PerceptronWeights,
    /// The read-out.
    pub read_out: ReadOut,
    /// The backbones that it was trained on, each in one line.
    pub trained_on: Vec<String>,
}

/// `policy.json` of a policy without a backbone.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    vitrim: String,
    depth_shares: Vec<f64>,
    departure: Departure,
    observation: Observation,
    actor: PerceptronSpec,
    read_out: ReadOut,
    weights_hash: String,
    #[serde(default)]
    trained_on: Vec<String>,
}

/// Blocks at `shares` of `depth` blocks, for tokens that leave by `departure`: ascending, each once, and only where a
/// later attention gains by it.
pub fn blocks_at(shares: &[f64], depth: usize, departure: Departure) -> Vec<usize> {
    let mut blocks: Vec<usize> = shares.iter().map(|share| (share * depth as f64).round() as usize).collect();
    blocks.dedup();
    blocks.retain(|&block| departure.next_attention(block) < depth);
    blocks
}

impl Universal {
    /// The shares at which the preset `universal` has its stages: blocks 0 to 4 and 6 of 12.
    pub const DEPTH_SHARES: [f64; 6] = [0.0, 1.0 / 12.0, 2.0 / 12.0, 3.0 / 12.0, 4.0 / 12.0, 6.0 / 12.0];

    /// The policy that comes with the program.
    ///
    /// # Panics
    /// Never: a test reads it.
    pub fn bundled() -> Self {
        let [(_, header), (_, weights)] = BUNDLED;
        Self::decode(header, weights).expect("the bundled policy is valid")
    }

    /// The policy for the backbone `id` of geometry `spec`.
    ///
    /// # Errors
    /// [`PruneError::Setting`] if the backbone is too shallow to have a stage.
    pub fn bind(&self, spec: &VitSpec, id: &BackboneId) -> Result<Policy> {
        let stages = blocks_at(&self.depth_shares, spec.depth, self.departure);
        if stages.is_empty() {
            return Err(PruneError::Setting(format!(
                "a universal policy needs a backbone of at least 2 blocks; this one has {}",
                spec.depth
            )));
        }
        Ok(Policy {
            backbone: id.clone(),
            stages,
            departure: self.departure,
            observation: self.observation,
            actor: self.actor.clone(),
            weights: self.weights.clone(),
            read_out: self.read_out.clone(),
            offsets: Vec::new(),
            calibration: None,
        })
    }

    /// A hash of everything that determines its decisions on any backbone.
    pub fn identity(&self) -> String {
        let header = (&self.depth_shares, self.departure, &self.observation, &self.actor, &self.read_out);
        let header = serde_json::to_vec(&header).expect("plain data");
        file::hash(&[file::serialize_weights(&self.actor, &self.weights), header].concat())
    }

    /// Reads a folder that [`Universal::save`] wrote; `None` if its policy is for one backbone. The path `universal` is the
    /// bundled policy; a folder of that name is `./universal`.
    ///
    /// # Errors
    /// If there is no readable policy, or it is invalid.
    pub fn open(folder: &Path) -> Result<Option<Self>> {
        if folder == Path::new(UNIVERSAL) {
            return Ok(Some(Self::bundled()));
        }
        let read = file::read(folder)?;
        if read.header.get("depth_shares").is_none() {
            return Ok(None);
        }
        let policy = Self::of_values(read.header, &read.weights?);
        policy.map(Some).map_err(|reason| PruneError::BadPolicy { path: folder.to_owned(), reason })
    }

    /// Writes the folder, durably, as [`Policy::save`] does.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let weights = file::serialize_weights(&self.actor, &self.weights);
        let header = Header {
            version: file::VERSION_ANY_BACKBONE,
            vitrim: env!("CARGO_PKG_VERSION").to_owned(),
            depth_shares: self.depth_shares.clone(),
            departure: self.departure,
            observation: self.observation,
            actor: self.actor.clone(),
            read_out: self.read_out.clone(),
            weights_hash: file::hash(&weights),
            trained_on: self.trained_on.clone(),
        };
        let json = serde_json::to_string_pretty(&header).expect("a header is plain data");
        Ok(file::files(folder).replace(json.as_bytes(), &weights)?)
    }

    fn decode(header: &[u8], weights: &[u8]) -> Result<Self, String> {
        let value = serde_json::from_slice(header).map_err(|error| format!("not valid JSON: {error}"))?;
        Self::of_values(value, weights)
    }

    fn of_values(header: serde_json::Value, bytes: &[u8]) -> Result<Self, String> {
        let header: Header =
            serde_json::from_value(header).map_err(|error| format!("not a policy: {error}"))?;
        let Header { depth_shares, departure, observation, actor, read_out, trained_on, .. } = header;
        if depth_shares.is_empty()
            || depth_shares.len() > MAX_STAGES
            || depth_shares.windows(2).any(|w| w[0] >= w[1])
            || depth_shares.iter().any(|share| !(0.0..1.0).contains(share))
        {
            return Err(format!("its {} stages do not ascend from 0 to below 1", depth_shares.len()));
        }
        if !observation.fits_any_backbone() || [actor.dim, actor.positions, actor.stages] != [0; 3] {
            return Err("its actor has inputs of one backbone".into());
        }
        if !matches!(read_out, ReadOut::Threshold { .. } | ReadOut::Sample { .. }) {
            return Err("its read-out is of one backbone; use threshold or sample".into());
        }
        file::check_actor(departure, &observation, &actor)?;
        read_out.check(depth_shares.len()).map_err(|error| error.to_string())?;
        let weights = file::weights_of(bytes, &actor)?;
        Ok(Universal { depth_shares, departure, observation, actor, weights, read_out, trained_on })
    }
}
