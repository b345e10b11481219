//! A list of images; the first byte says of which kind.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vitrim_fuzz::{data, file};

const KINDS: [&str; 4] = ["images.txt", "images.csv", "images.tsv", "images.jsonl"];

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, list)) = bytes.split_first() else { return };
    data::read(&file(KINDS[usize::from(*kind) % KINDS.len()], list));
});
