//! Weights by name: memory-mapped from a safetensors file, or drawn at random.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use vitrim_kernels::mapped::MappedFile;
use vitrim_kernels::reference::values;

use crate::error::{Result, VitError};
use crate::spec::VitSpec;

/// The named weights of a backbone.
pub enum Tensors {
    /// A safetensors file, mapped; nothing is copied until it is asked for.
    Mapped(MappedTensors),
    /// Owned values by name, with shapes.
    Owned(BTreeMap<String, (Vec<usize>, Vec<f32>)>),
}

/// A memory-mapped safetensors file.
pub struct MappedTensors {
    path: PathBuf,
    map: MappedFile,
}

impl Tensors {
    /// Maps `path` and checks its header.
    ///
    /// # Errors
    /// If the file cannot be read or is no safetensors file.
    pub fn open(path: &Path) -> Result<Self> {
        let read = |source| VitError::Read { path: path.to_owned(), source };
        let map = MappedFile::open(path).map_err(read)?;
        let tensors = MappedTensors { path: path.to_owned(), map };
        tensors.parse()?;
        Ok(Tensors::Mapped(tensors))
    }

    /// Random weights of `spec`'s geometry for timing and tests: normal-like with timm's scale 0.02,
    /// norms at 1 and 0. A pure function of `seed`.
    pub fn random(spec: &VitSpec, seed: u64) -> Self {
        let mut values = values(seed);
        let tensors = spec.tensor_shapes().into_iter().map(|(name, shape)| {
            let count = shape.iter().product();
            let tensor = if name.contains("norm") && name.ends_with("weight") {
                vec![1.0; count]
            } else if name.ends_with("bias") {
                vec![0.0; count]
            } else {
                // A sum of three uniforms in -1..1 has variance 1; scaled to a standard deviation of 0.02.
                (0..count).map(|_| (values() + values() + values()) * 0.02).collect()
            };
            (name, (shape, tensor))
        });
        Tensors::Owned(tensors.collect())
    }

    /// The tensor `name` as f32 values.
    ///
    /// # Errors
    /// If it is missing, or has another shape or a type that is not F32, F16 or BF16.
    pub fn get(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [f32]>> {
        let missing = |path: &Path| VitError::MissingTensor {
            path: path.to_owned(),
            name: name.to_owned(),
            expected: shape.to_vec(),
        };
        let misshapen = |path: &Path, found: &[usize]| VitError::TensorShape {
            path: path.to_owned(),
            name: name.to_owned(),
            found: found.to_vec(),
            expected: shape.to_vec(),
        };
        match self {
            Tensors::Owned(tensors) => {
                let memory = Path::new("the weights in memory");
                let (found, values) = tensors.get(name).ok_or_else(|| missing(memory))?;
                if found != shape {
                    return Err(misshapen(memory, found));
                }
                Ok(Cow::Borrowed(values))
            }
            Tensors::Mapped(mapped) => {
                let file = mapped.parse()?;
                let tensor = file.tensor(name).map_err(|_| missing(&mapped.path))?;
                if tensor.shape() != shape {
                    return Err(misshapen(&mapped.path, tensor.shape()));
                }
                let bytes = tensor.data();
                let values = match tensor.dtype() {
                    Dtype::F32 => words(bytes).map(f32::from_le_bytes).collect(),
                    Dtype::F16 => words(bytes).map(|w| f16::from_le_bytes(w).to_f32()).collect(),
                    Dtype::BF16 => words(bytes).map(|w| bf16::from_le_bytes(w).to_f32()).collect(),
                    other => {
                        return Err(VitError::TensorType {
                            path: mapped.path.clone(),
                            name: name.to_owned(),
                            dtype: format!("{other:?}"),
                        });
                    }
                };
                Ok(Cow::Owned(values))
            }
        }
    }

    /// Checks that every tensor of `spec` is there in its shape, and no other.
    ///
    /// # Errors
    /// Naming the first tensor that is missing, misshapen or surplus.
    pub fn check(&self, spec: &VitSpec) -> Result<()> {
        let Tensors::Mapped(mapped) = self else { return Ok(()) };
        let file = mapped.parse()?;
        let mut names: Vec<&str> = file.names();
        names.sort_unstable();
        for (name, expected) in spec.tensor_shapes() {
            let Ok(tensor) = file.tensor(&name) else {
                return Err(VitError::MissingTensor { path: mapped.path.clone(), name, expected });
            };
            if tensor.shape() != expected {
                let found = tensor.shape().to_vec();
                return Err(VitError::TensorShape { path: mapped.path.clone(), name, found, expected });
            }
            names.retain(|n| *n != name);
        }
        match names.first() {
            None => Ok(()),
            Some(first) => Err(VitError::SurplusTensors {
                path: mapped.path.clone(),
                count: names.len(),
                first: (*first).to_owned(),
            }),
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

impl MappedTensors {
    fn parse(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.map)
            .map_err(|e| VitError::Safetensors { path: self.path.clone(), reason: e.to_string() })
    }
}

fn words<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.chunks_exact(N).map(|w| w.try_into().expect("chunks_exact gives N bytes"))
}
