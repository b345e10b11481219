//! A file of `torch.save`, opened and read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vitrim_fuzz::file;
use vitrim_vit::WeightFiles;

fuzz_target!(|bytes: &[u8]| {
    let Ok(files) = WeightFiles::open(&file("model.pth", bytes)) else { return };
    for name in files.names() {
        let shape = files.shape(name).expect("a name has a shape");
        if let Ok(values) = files.read(name, shape) {
            assert!(values.len() <= bytes.len() && values.iter().all(|value| value.is_finite()));
        }
    }
});
