//! A label map; the first byte says of which kind.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vitrim_data::LabelMap;
use vitrim_fuzz::file;

const KINDS: [&str; 4] = ["map.json", "map.csv", "map.tsv", "map.txt"];

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, map)) = bytes.split_first() else { return };
    let Ok(map) = LabelMap::open(file(KINDS[usize::from(*kind) % KINDS.len()], map)) else { return };
    let _ = (map.max_class(), map.of_index(0), map.of_index(u32::MAX), map.of_name("cat"));
});
