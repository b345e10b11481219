//! Prints how many images a second the loader gives:
//! `cargo run --release -p vitrim-data --example decode_rate -- PATH [SPLIT|-] [SIZE] [WORKERS] [REPEATS]`.

use std::time::Instant;

use vitrim_data::{DataError, Dataset, Loader, LoaderOptions, Order, Preprocess, Transform};

fn main() -> Result<(), DataError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let Some(path) = arguments.first() else {
        eprintln!("give a data set: PATH [SPLIT|-] [SIZE] [WORKERS] [REPEATS]");
        return Ok(());
    };
    let number = |at: usize, or: usize| arguments.get(at).and_then(|a| a.parse().ok()).unwrap_or(or);
    let split = arguments.get(1).map(String::as_str).filter(|split| *split != "-");
    let (size, workers, repeats) = (number(2, 224), number(3, 2), number(4, 3));
    // CIFAR's images have their backbone's size; others are resized as for DeiT.
    let crop_pct = if size == 32 { 1.0 } else { 0.9 };
    let transform =
        Transform::new(Preprocess { input_size: [3, size, size], crop_pct, ..Preprocess::default() })?;

    let started = Instant::now();
    let dataset = Dataset::open(path, split)?;
    println!("opened {} images in {:.1} ms", dataset.len(), started.elapsed().as_secs_f64() * 1e3);
    for epoch in 0..repeats as u64 {
        for order in [Order::Sequential, Order::Shuffled { seed: 0, epoch }] {
            let started = Instant::now();
            let mut images = 0;
            for batch in
                Loader::new(&dataset, order, &transform, LoaderOptions { workers, ..Default::default() })?
            {
                images += batch?.len();
            }
            println!("{order:?}: {:.0} images/s", images as f64 / started.elapsed().as_secs_f64());
        }
    }
    Ok(())
}
