//! Learning rate schedules.

/// The value at `progress` (0 to 1) of a half cosine from `first` to `last`.
pub fn cosine(first: f64, last: f64, progress: f64) -> f64 {
    last + (first - last) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos())
}

/// The learning rate at step `step` of `steps`: linear from 0 to `rates[0]` over the share `warmup` of the steps,
/// then along a cosine to `rates[1]` at the last step.
pub fn warmed_up_cosine(rates: [f64; 2], warmup: f64, step: usize, steps: usize) -> f64 {
    let (step, warmup) = (step as f64, warmup * steps as f64);
    if step + 1.0 < warmup {
        return rates[0] * (step + 1.0) / warmup;
    }
    let progress = (step - warmup) / (steps as f64 - 1.0 - warmup).max(1.0);
    cosine(rates[0], rates[1], progress.clamp(0.0, 1.0))
}
