//! A parquet file, opened as a data set.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vitrim_fuzz::{data, file};

fuzz_target!(|bytes: &[u8]| data::read(&file("train-0.parquet", bytes)));
