//! Why `rten-gemm`: its pre-packed weights against the `gemm` crate, on the shapes of DeiT-S and of the
//! CIFAR-10 backbone, all threads. `cargo bench -p vitrim-kernels`.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use vitrim_kernels::Linear;
use vitrim_kernels::reference::values;

/// (rows, inputs, outputs): QKV, MLP in and out of DeiT-S at batch 1 and 32; MLP of the CIFAR-10 backbone
/// at batch 64.
const SHAPES: [(usize, usize, usize); 8] = [
    (197, 384, 1152),
    (197, 384, 1536),
    (197, 1536, 384),
    (6304, 384, 1152),
    (6304, 384, 1536),
    (6304, 1536, 384),
    (4160, 128, 512),
    (4160, 512, 128),
];

fn operands((rows, inputs, outputs): (usize, usize, usize)) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let mut values = values(1);
    let mut draw = |n: usize| (0..n).map(|_| values()).collect::<Vec<f32>>();
    (draw(rows * inputs), draw(outputs * inputs), vec![0.0; rows * outputs])
}

/// The counter is in MACs, so that divan's items/s are MAC/s.
fn macs((rows, inputs, outputs): (usize, usize, usize)) -> ItemsCount {
    ItemsCount::new(rows * inputs * outputs)
}

#[divan::bench(args = SHAPES)]
fn rten_prepacked(bencher: Bencher, shape: (usize, usize, usize)) {
    let (x, weight, mut y) = operands(shape);
    let layer = Linear::new(&weight, Some(&vec![0.0; shape.2]), shape.2, shape.1);
    bencher.counter(macs(shape)).bench_local(|| layer.forward(black_box(&x), black_box(&mut y)));
}

#[divan::bench(args = SHAPES)]
fn gemm_crate(bencher: Bencher, shape: (usize, usize, usize)) {
    let (rows, inputs, outputs) = shape;
    let (x, weight, mut y) = operands(shape);
    bencher.counter(macs(shape)).bench_local(|| {
        // SAFETY: the pointers cover rows x inputs, inputs x outputs and rows x outputs values at the
        // strides given: row-major x and y, and the transpose of a row-major [outputs, inputs] weight.
        unsafe {
            gemm::gemm(
                rows,
                outputs,
                inputs,
                black_box(&mut y).as_mut_ptr(),
                1,
                outputs as isize,
                false,
                black_box(&x).as_ptr(),
                1,
                inputs as isize,
                weight.as_ptr(),
                inputs as isize,
                1,
                0.0,
                1.0,
                false,
                false,
                false,
                gemm::Parallelism::Rayon(0),
            );
        }
    });
}

fn main() {
    divan::main();
}
