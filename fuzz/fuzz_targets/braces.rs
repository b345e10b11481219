//! A pattern of file names with braces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vitrim_data::Dataset;
use vitrim_fuzz::folder;

fuzz_target!(|pattern: &str| {
    // Only inside the folder: a pattern may lead anywhere. Two dots within a name are a range.
    if pattern.split('/').all(|part| part != "..") {
        let _ = Dataset::splits(folder().join(pattern.trim_start_matches('/')));
    }
});
