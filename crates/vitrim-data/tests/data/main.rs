//! The crate's promises, one file each. One binary, because linking is what takes long.

mod cifar;
mod codecs;
mod damage;
mod errors;
mod fixtures;
mod lists;
mod loading;
mod partition;
mod processors;
mod relabel;
mod scenes;
mod scratch;
mod shards;
mod tar_shards;
