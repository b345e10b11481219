//! How learning rates change while something is trained.

/// From `first` to `last` along half a cosine, at `progress` of the way, 0 to 1.
pub fn cosine(first: f64, last: f64, progress: f64) -> f64 {
    last + (first - last) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}

/// At step `step` of `steps`: from 0 up to `rates[0]` in a straight line over the share `warmup` of the steps, then along a
/// cosine to `rates[1]`, which the last step has.
pub fn warmed_up_cosine(rates: [f64; 2], warmup: f64, step: usize, steps: usize) -> f64 {
    let (step, warmup) = (step as f64, warmup * steps as f64);
    if step + 1.0 < warmup {
        return rates[0] * (step + 1.0) / warmup;
    }
    let progress = (step - warmup) / (steps as f64 - 1.0 - warmup).max(1.0);
    cosine(rates[0], rates[1], progress.clamp(0.0, 1.0))
}
