use std::time::{Duration, Instant};
use vitrim_kernels::reference::values;
use vitrim_kernels::*;
fn draw(n: usize) -> Vec<f32> {
    let mut v = values(1);
    (0..n).map(|_| v()).collect()
}
fn best(mut f: impl FnMut()) -> f64 {
    f();
    f();
    let mut b = f64::MAX;
    let t0 = Instant::now();
    while t0.elapsed() < Duration::from_millis(120) {
        let t = Instant::now();
        f();
        b = b.min(t.elapsed().as_secs_f64());
    }
    b
}
fn main() {
    let top = std::env::args().nth(1).unwrap_or_default();
    let levels: Vec<Level> =
        if top == "all" { Level::supported().collect() } else { vec![Level::detected()] };
    for level in levels {
        let peaks: Vec<f64> =
            Precision::ALL.iter().map(|p| fma_peak(level, *p, Duration::from_millis(150)) / 1e9).collect();
        println!("{level} peaks {peaks:.1?}");
        for (rows, k, n) in [
            (128, 384, 1152),
            (99, 384, 1152),
            (128, 384, 384),
            (128, 384, 1536),
            (128, 1536, 384),
            (128, 192, 576),
            (128, 768, 3072),
            (128, 3072, 768),
            (128, 96, 32),
        ] {
            let (x, w, b) = (draw(rows * k), draw(n * k), draw(n));
            let mut y = vec![0.0; rows * n];
            print!("{rows:4} x {k:4} x {n:4}:");
            for (i, p) in Precision::ALL.into_iter().enumerate() {
                let layer = Linear::packed(&w, Some(&b), n, k, Packing { precision: p, level, gamma: None });
                let mut r = RowBuffer::default();
                r.fill_at(level, p, &x, k);
                let macs = (rows * n * k) as f64 / 1e9;
                let g = macs / best(|| layer.apply(&r, Output::Store(&mut y)));
                let g2 = macs / best(|| layer.apply(&r, Output::Gelu(&mut y)));
                print!("  {p:?} {g:6.1} ({:3.0} %) gelu {g2:6.1}", g / peaks[i] * 100.0);
            }
            println!();
        }
        let (n, h, d) = (197, 6, 64);
        let qkv = draw(n * 3 * h * d);
        let mut out = vec![0.0; n * h * d];
        let a = Attention { heads: h, head_dim: d, class_token: true };
        for p in [Precision::F32, Precision::Bf16] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            let t = pool.install(|| {
                best(|| {
                    a.run(
                        &qkv,
                        &[0, n],
                        &mut out,
                        AttentionOptions { precision: p, level, ..AttentionOptions::default() },
                    )
                })
            });
            println!(
                "attention {p:?} {:.1} us = {:.1} GMAC/s",
                t * 1e6,
                (2 * n * n * d * h) as f64 / t / 1e9
            );
        }
        let x = draw(128 * 1536);
        let mut y = vec![0.0; x.len()];
        let ln = LayerNorm::new(&draw(384), &draw(384), 1e-6);
        println!(
            "layer norm {:.2} ns/value",
            best(|| ln.forward_at(level, &x, &mut y, 384)) / x.len() as f64 * 1e9
        );
        for p in Precision::ALL {
            let mut r = RowBuffer::default();
            println!(
                "  to {p:?}: norm {:.2} fill {:.2} ns/value",
                best(|| ln.forward_rows_at(level, &x, &mut r, p, 384)) / x.len() as f64 * 1e9,
                best(|| r.fill_at(level, p, &x, 384)) / x.len() as f64 * 1e9
            );
        }
        println!("gelu {:.2} ns/value", best(|| gelu_at(level, &mut y)) / x.len() as f64 * 1e9);
    }
}
