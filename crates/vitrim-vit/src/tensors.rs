//! Weights by timm's names: stored in files, under any library's names, or in memory.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use vitrim_random::SplitMix64;

use crate::error::{Result, VitError};
use crate::names::{StoredAs, StoredNames};
use crate::positions::{Resampling, resample};
use crate::spec::VitSpec;
use crate::weight_files::WeightFiles;

/// The named weights of a backbone.
pub enum Tensors {
    /// In files; tensors are read on demand.
    Stored(Box<StoredTensors>),
    /// In memory: shape and values by name.
    Owned(BTreeMap<String, (Vec<usize>, Vec<f32>)>),
}

/// A tensor's name, shape and values, row-major.
pub type NamedTensor = (String, Vec<usize>, Vec<f32>);

/// Files, and where each tensor of ours is in them.
pub struct StoredTensors {
    files: WeightFiles,
    names: StoredNames,
    /// The grid of the stored positions, if it differs from the grid asked for.
    positions: Option<StoredPositions>,
    /// Tensors from elsewhere, which are not in the files: a classifier made of texts.
    added: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

/// Position embeddings of a grid that differs from the grid asked for.
pub(crate) struct StoredPositions {
    pub prefix: usize,
    pub from: [usize; 2],
    pub to: [usize; 2],
    pub how: Resampling,
}

const POSITIONS: &str = "pos_embed";

impl Tensors {
    /// Opens `path`, whose tensors have timm's names.
    ///
    /// # Errors
    /// If the file cannot be read, or is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self::stored(WeightFiles::open(path)?, StoredNames::default(), None))
    }

    pub(crate) fn stored(files: WeightFiles, names: StoredNames, positions: Option<StoredPositions>) -> Self {
        Tensors::Stored(Box::new(StoredTensors { files, names, positions, added: BTreeMap::new() }))
    }

    /// Random weights of `spec`'s geometry for timing and tests: normal-like with timm's scale 0.02,
    /// norms at 1 and 0, LayerScale at 1. A pure function of `seed`.
    pub fn random(spec: &VitSpec, seed: u64) -> Self {
        let mut random = SplitMix64::new(seed);
        let mut value = || random.symmetric();
        let tensors = spec.tensor_shapes().into_iter().map(|(name, shape)| {
            let count = shape.iter().product();
            let tensor = if name.contains("norm") && name.ends_with("weight") || name.ends_with("gamma") {
                vec![1.0; count]
            } else if name.ends_with("bias") {
                vec![0.0; count]
            } else {
                // A sum of three uniforms in -1..1 has variance 1; scaled to a standard deviation of 0.02.
                (0..count).map(|_| (value() + value() + value()) * 0.02).collect()
            };
            (name, (shape, tensor))
        });
        Tensors::Owned(tensors.collect())
    }

    /// With the tensor `name` of `shape` from elsewhere.
    pub(crate) fn add(&mut self, name: &str, shape: Vec<usize>, values: Vec<f32>) {
        let to = match self {
            Tensors::Owned(tensors) => tensors,
            Tensors::Stored(stored) => &mut stored.added,
        };
        to.insert(name.to_owned(), (shape, values));
    }

    /// With our tensor `name` under the name `to`.
    pub(crate) fn rename(&mut self, name: &str, to: &str) {
        match self {
            Tensors::Owned(tensors) => {
                if let Some(tensor) = tensors.remove(name) {
                    tensors.insert(to.to_owned(), tensor);
                }
            }
            Tensors::Stored(stored) => {
                let parts = &mut stored.names.parts;
                let way = parts.remove(name).unwrap_or_else(|| StoredAs::Parts(vec![name.to_owned()]));
                parts.insert(to.to_owned(), way);
            }
        }
    }

    /// The tensor `name` as f32 values.
    ///
    /// # Errors
    /// If the tensor is missing, or has another shape or a type that is not F32, F16 or BF16.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [f32]>> {
        match self {
            Tensors::Owned(tensors) => {
                let path = || Path::new("the weights in memory").to_owned();
                let (name, expected) = (name.to_owned(), shape.to_vec());
                match tensors.get(&name) {
                    None => Err(VitError::MissingTensor { path: path(), name, expected }),
                    Some((found, _)) if found != shape => {
                        Err(VitError::TensorShape { path: path(), name, found: found.clone(), expected })
                    }
                    Some((_, values)) => Ok(Cow::Borrowed(values)),
                }
            }
            Tensors::Stored(stored) => stored.get(name, shape).map(Cow::Owned),
        }
    }

    /// The values of `tensors`, of geometry `spec`, under the names and in the shapes of the stored tensors; then the
    /// stored tensors that inference does not need, unchanged.
    ///
    /// # Errors
    /// If one of `tensors` is missing or has the wrong shape, or a stored tensor cannot be read.
    pub(crate) fn translate(&self, spec: &VitSpec, tensors: &Tensors) -> Result<Vec<NamedTensor>> {
        let mut stored: Vec<NamedTensor> = Vec::new();
        for (name, shape) in spec.tensor_shapes() {
            if matches!(self, Tensors::Stored(stored) if stored.added.contains_key(&name)) {
                continue;
            }
            let values = tensors.get(&name, &shape)?;
            let way = match self {
                Tensors::Owned(_) => None,
                Tensors::Stored(stored) => stored.names.parts.get(&name),
            };
            let way = way.cloned().unwrap_or_else(|| StoredAs::Parts(vec![name]));
            let ours = shape.clone();
            let shape = match &way {
                // Fine-tuned at another size, the grid may not be a square one.
                StoredAs::Grid(_) => [&[1][..], &spec.grid(), &shape[2..]].concat(),
                way => way.shape(&shape),
            };
            if let StoredAs::Share { name, start: start @ 1.., end, .. } = &way {
                // The parts before it were stored before it; a part that the backbone lacks is 0 (the keys' bias).
                let before = stored.iter_mut().find(|(stored, ..)| stored == name);
                let whole = &mut before.expect("shares are in order").2;
                whole.resize(values.len() / (end - start) * start, 0.0);
                whole.extend_from_slice(&values);
                continue;
            }
            let values = match &way {
                StoredAs::Transposed(_) => Cow::Owned(transposed(&values, ours[1])),
                StoredAs::ChannelsLast(_) => {
                    let (patch, channels) = (ours[1..].iter().product(), ours[1]);
                    let turned = |patch: &[f32]| transposed(patch, patch.len() / channels);
                    Cow::Owned(values.chunks_exact(patch).flat_map(turned).collect())
                }
                _ => values,
            };
            let each = values.chunks_exact(values.len() / way.names().len());
            let parts = way.names().iter().zip(each);
            stored.extend(parts.map(|(part, values)| (part.clone(), shape.clone(), values.to_vec())));
        }
        if let Tensors::Stored(source) = self {
            let StoredTensors { files, names, .. } = &**source;
            // Indices of positions are integers; the library makes them itself.
            for name in names.ignored.iter().filter(|name| !name.ends_with("position_ids")) {
                if let Some(shape) = files.shape(name) {
                    stored.push((name.clone(), shape.to_vec(), files.read(name, shape)?));
                }
            }
        }
        Ok(stored)
    }

    /// Checks that every tensor of `spec` exists with its shape, and that there is no other tensor.
    ///
    /// # Errors
    /// Names the first tensor that is missing, has the wrong shape, or is surplus.
    pub fn check(&self, spec: &VitSpec) -> Result<()> {
        match self {
            Tensors::Owned(_) => Ok(()),
            Tensors::Stored(stored) => stored.check(spec),
        }
    }

    /// A BLAKE3 hash over names, shapes and values (as f32, so that a copy in another float type
    /// differs only where its values do), 32 hexadecimal digits.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub fn fingerprint(&self, spec: &VitSpec) -> Result<String> {
        let mut hasher = blake3::Hasher::new();
        for (name, shape) in spec.tensor_shapes() {
            hasher.update(format!("{name}{shape:?}").as_bytes());
            for value in self.get(&name, &shape)?.chunks(4096) {
                let bytes: Vec<u8> = value.iter().flat_map(|v| v.to_le_bytes()).collect();
                hasher.update(&bytes);
            }
        }
        Ok(hasher.finalize().to_hex()[..32].to_owned())
    }
}

/// The rows of `columns` values as columns.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| values[column..].iter().step_by(columns)).copied().collect()
}

impl StoredTensors {
    fn get(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        if let Some((added, values)) = self.added.get(name) {
            assert_eq!(added, shape, "a classifier is added together with its geometry");
            return Ok(values.clone());
        }
        let mut values = Vec::with_capacity(shape.iter().product());
        for (stored, shape) in self.parts(name, shape) {
            values.append(&mut self.files.read(stored, &shape)?);
        }
        if let Some(StoredAs::Share { start, end, of, .. }) = self.names.parts.get(name) {
            let part = values.len() / of;
            values.truncate(end * part);
            values.drain(..start * part);
        }
        match self.names.parts.get(name) {
            Some(StoredAs::Transposed(_)) => values = transposed(&values, shape[0]),
            Some(StoredAs::ChannelsLast(_)) => {
                let patches = values.chunks_exact(shape[1..].iter().product());
                values = patches.flat_map(|patch| transposed(patch, shape[1])).collect();
            }
            _ => {}
        }
        Ok(match &self.positions {
            Some(StoredPositions { prefix, from, to, how }) if name == POSITIONS => {
                resample(&values, *prefix, *from, *to, shape[2], *how)
            }
            _ => values,
        })
    }

    fn check(&self, spec: &VitSpec) -> Result<()> {
        let mut surplus: BTreeSet<&str> = self.files.names().collect();
        surplus.retain(|name| !self.names.ignored.contains(*name));
        for (name, shape) in spec.tensor_shapes() {
            for (stored, shape) in self.parts(&name, &shape) {
                self.files.check(stored, &shape)?;
                surplus.remove(stored);
            }
        }
        match surplus.first() {
            None => Ok(()),
            Some(first) => Err(VitError::SurplusTensors {
                path: self.files.path().to_owned(),
                count: surplus.len(),
                first: (*first).to_owned(),
            }),
        }
    }

    /// The stored parts of tensor `name` of `shape`: names and shapes, in order.
    fn parts<'s>(&'s self, name: &'s str, shape: &[usize]) -> Vec<(&'s str, Vec<usize>)> {
        let mut shape = shape.to_vec();
        if let (POSITIONS, Some(StoredPositions { prefix, from, .. })) = (name, &self.positions) {
            shape[1] = prefix + from[0] * from[1];
        }
        match self.names.parts.get(name) {
            None => vec![(name, shape)],
            Some(way) => way.names().iter().map(|part| (part.as_str(), way.shape(&shape))).collect(),
        }
    }
}
