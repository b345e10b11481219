//! The properties of the crate, one file each. One binary, because linking takes most of the time.

mod cifar;
mod codecs;
mod damage;
mod errors;
mod fixtures;
mod layouts;
mod lists;
mod loading;
mod metadata;
mod partition;
mod processors;
mod references;
mod relabel;
mod scenes;
mod scratch;
mod shards;
mod tar_shards;
mod texts;
