//! The crate's promises, one file each. One binary, because linking is what takes long.

mod cifar;
mod errors;
mod fixtures;
mod loading;
mod partition;
mod processors;
mod scenes;
mod scratch;
