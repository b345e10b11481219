//! Linear layers of DeiT-S against `rten-gemm`, and the processor's peak.
//! `cargo bench -p vitrim-kernels -- --max-time 0.3`, optionally with the name of a part; items are MACs.

use std::time::{Duration, Instant};

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use rayon::prelude::*;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
use rten_tensor::NdTensorView;
use vitrim_kernels::reference::values;
use vitrim_kernels::{
    Activation, Epilogue, InstructionSet, Linear, Packing, Precision, ROW_CHUNK, RowBuffer, rows_per_task,
};

/// (rows, inputs, outputs): QKV, projection, MLP in and out of DeiT-S at batch 1 and 32.
const SHAPES: [(usize, usize, usize); 8] = [
    (197, 384, 1152),
    (197, 384, 384),
    (197, 384, 1536),
    (197, 1536, 384),
    (6304, 384, 1152),
    (6304, 384, 384),
    (6304, 384, 1536),
    (6304, 1536, 384),
];

fn draw(n: usize) -> Vec<f32> {
    let mut values = values(1);
    (0..n).map(|_| values()).collect()
}

/// The counter is in MACs, so that divan's items/s are MAC/s.
fn macs((rows, inputs, outputs): (usize, usize, usize)) -> ItemsCount {
    ItemsCount::new(rows * inputs * outputs)
}

/// Chunks of rows, as in the executor.
fn ours<const THREADS: usize>(bencher: Bencher, shape: (usize, usize, usize), precision: Precision) {
    let (rows, inputs, outputs) = shape;
    let (x, mut y) = (draw(rows * inputs), vec![0.0; rows * outputs]);
    let packing = Packing::new(precision);
    let layer = Linear::packed(&draw(outputs * inputs), Some(&draw(outputs)), outputs, inputs, packing);
    let chunk = rows_per_task(rows);
    bencher.counter(macs(shape)).bench_local(|| {
        let (x, y) = (black_box(&x), black_box(&mut y));
        if THREADS == 1 {
            let pieces = x.chunks(chunk * inputs).zip(y.chunks_mut(chunk * outputs));
            pieces.for_each(|(x, y)| layer.forward(x, y));
        } else {
            let pieces = x.par_chunks(chunk * inputs).zip(y.par_chunks_mut(chunk * outputs));
            pieces.for_each(|(x, y)| layer.forward(x, y));
        }
    });
}

#[divan::bench(args = SHAPES, consts = [1, 2])]
fn f32<const THREADS: usize>(bencher: Bencher, shape: (usize, usize, usize)) {
    ours::<THREADS>(bencher, shape, Precision::F32);
}

#[divan::bench(args = SHAPES, consts = [1, 2])]
fn bf16<const THREADS: usize>(bencher: Bencher, shape: (usize, usize, usize)) {
    ours::<THREADS>(bencher, shape, Precision::Bf16);
}

#[divan::bench(args = SHAPES, consts = [1, 2])]
fn int8<const THREADS: usize>(bencher: Bencher, shape: (usize, usize, usize)) {
    ours::<THREADS>(bencher, shape, Precision::Int8);
}

#[divan::bench(args = SHAPES, consts = [1, 2])]
fn rten<const THREADS: usize>(bencher: Bencher, shape: (usize, usize, usize)) {
    let (rows, inputs, outputs) = shape;
    let (x, weight, mut y) = (draw(rows * inputs), draw(outputs * inputs), vec![0.0; rows * outputs]);
    let gemm = GemmExecutor::<f32>::new();
    let packed = gemm.prepack_b(NdTensorView::from_data([outputs, inputs], &weight[..]).transposed());
    // `rten-gemm` uses the threads of the current pool.
    let alone = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    bencher.counter(macs(shape)).bench_local(|| {
        let x = NdTensorView::from_data([rows, inputs], &black_box(&x)[..]);
        let (y, packed, x) = (black_box(&mut y), GemmInputB::Packed(&packed), GemmInputA::Unpacked(x));
        let run = |gemm: &GemmExecutor<f32>, y: &mut [f32]| {
            gemm.gemm(y, x, packed, GemmOptions::default()).expect("shapes match");
        };
        if THREADS == 1 { alone.install(|| run(&GemmExecutor::new(), y)) } else { run(&gemm, y) }
    });
}

/// The MLPs of a model's twelve blocks, `width` wide, over the tokens of two images of 197 per thread. The weights do
/// not fit into any cache, as in a forward pass. The threads are half a pass apart.
#[divan::bench(args = [384, 768], consts = [1, 2])]
fn mlps<const THREADS: usize>(bencher: Bencher, width: usize) {
    const BLOCKS: usize = 12;
    const ROWS: usize = 394;
    let layer = |outputs: usize, inputs: usize| {
        Linear::new(&draw(outputs * inputs), Some(&draw(outputs)), outputs, inputs)
    };
    let blocks: Vec<_> = (0..BLOCKS).map(|_| (layer(4 * width, width), layer(width, 4 * width))).collect();
    let chunk = ROWS.div_ceil(ROWS.div_ceil(ROW_CHUNK)) * width;
    let x = draw(ROWS * width);
    let pass = |thread: usize| {
        let (mut y, mut hidden) = (vec![0.0; chunk], RowBuffer::default());
        for i in 0..BLOCKS {
            let (fc1, fc2) = &blocks[(i + thread * BLOCKS / 2) % BLOCKS];
            for x in x.chunks(chunk) {
                fc1.apply(x, Epilogue::ActivateRows(Activation::Gelu, &mut hidden, Precision::F32));
                fc2.apply(&hidden, Epilogue::Store(&mut y[..x.len()]));
            }
        }
        black_box(y);
    };
    let macs = THREADS * BLOCKS * ROWS * 8 * width * width;
    bencher.counter(ItemsCount::new(macs)).bench_local(|| (0..THREADS).into_par_iter().for_each(pass));
}

/// A layer of DeiT-B's width over 96 rows, repeated on each of two threads: 48 outputs stay in L2 together with the
/// rows, 3072 pass through it. Compare with the result of [`sustained`].
#[divan::bench(args = [48, 3072])]
fn again(bencher: Bencher, outputs: usize) {
    const INPUTS: usize = 768;
    const ROWS: usize = 96;
    const TIMES: usize = 100;
    let layer = || Linear::new(&draw(outputs * INPUTS), None, outputs, INPUTS);
    let layers = [layer(), layer()];
    let x = draw(ROWS * INPUTS);
    let mut y = [vec![0.0; ROWS * outputs], vec![0.0; ROWS * outputs]];
    let macs = layers.len() * TIMES * ROWS * INPUTS * outputs;
    bencher.counter(ItemsCount::new(macs)).bench_local(|| {
        layers.par_iter().zip(&mut y).for_each(|(layer, y)| {
            for _ in 0..TIMES {
                layer.forward(black_box(&x), y);
            }
        });
    });
}

/// The median and the maximum over a second of bursts of half a millisecond, in MAC/s, of one of two threads that
/// only execute f32 multiply-adds: the sustained speed of a core.
fn sustained() -> (f64, f64) {
    let bursts = |_: usize| {
        let start = Instant::now();
        let burst = || InstructionSet::current().fma_peak(Precision::F32, Duration::from_micros(500));
        let mut bursts: Vec<f64> =
            std::iter::repeat_with(burst).take_while(|_| start.elapsed() < Duration::from_secs(1)).collect();
        bursts.sort_by(f64::total_cmp);
        (bursts[bursts.len() / 2], bursts[bursts.len() - 1])
    };
    let threads: Vec<_> = (0..2).into_par_iter().map(bursts).collect();
    threads[0]
}

fn main() {
    // This thread is one of the two, so that no step is handed over from outside the pool.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).use_current_thread();
    pool.build_global().expect("the pool is set up once");
    for set in InstructionSet::supported() {
        for precision in Precision::ALL {
            let peak = set.fma_peak(precision, Duration::from_millis(100)) / 1e9;
            println!("peak of one thread, {set}, {precision:?}: {peak:.1} GMAC/s");
        }
    }
    let (median, fastest) = sustained();
    println!(
        "both threads, {}, f32: median burst {:.1} GMAC/s, {:.1} % of the fastest",
        InstructionSet::current(),
        median / 1e9,
        100.0 * median / fastest
    );
    divan::main();
}
