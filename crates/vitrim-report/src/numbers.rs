//! Statistics for a report: bins, quantiles in bins, rank correlation, smoothing; and the formatting of numbers.

use vitrim_measure::statistics::Quantiles;

/// The smallest of 1, 2, 5 times a power of ten that divides `span` into at most `parts` parts.
pub fn round_step(span: f64, parts: usize) -> f64 {
    let least = span / parts as f64;
    let power = 10f64.powf(least.log10().floor());
    // 1e-9: rounding must not lead to the next larger step if `span` is exactly that number of steps.
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= least * (1.0 - 1e-9));
    factor.unwrap_or(10.0) * power
}

/// Tolerance for single precision at an edge, in bins.
const ROUNDING: f64 = 1e-6;

/// Bins of equal width whose edges are multiples of the width. A bin includes its lower edge; only the last bin
/// includes its upper edge.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bins {
    first: i64,
    count: usize,
    width: f64,
}

impl Bins {
    /// About `bins` bins over all of `values`. None without values.
    fn over(values: &[f64], bins: usize) -> Option<Bins> {
        let low = values.iter().copied().reduce(f64::min)?;
        let high = values.iter().copied().reduce(f64::max)?;
        let span = if high > low { high - low } else { low.abs().max(1.0) };
        let width = round_step(span, bins);
        let first = (low / width + ROUNDING).floor();
        let count = ((high / width - ROUNDING).ceil() - first).max(1.0);
        Some(Bins { first: first as i64, count: count as usize, width })
    }

    fn of(&self, value: f64) -> usize {
        let place = (value / self.width + ROUNDING).floor() as i64 - self.first;
        usize::try_from(place).unwrap_or(0).min(self.count - 1)
    }

    fn edges(&self, bin: usize) -> (f64, f64) {
        let first = self.first + bin as i64;
        (first as f64 * self.width, (first + 1) as f64 * self.width)
    }
}

/// A bin of a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counted {
    /// Lower edge.
    pub from: f64,
    /// Upper edge.
    pub to: f64,
    /// Number of values.
    pub n: usize,
}

/// Number of `values` in each of about `bins` bins of equal width.
pub fn histogram(values: &[f64], bins: usize) -> Vec<Counted> {
    let Some(bins) = Bins::over(values, bins) else { return Vec::new() };
    let mut counts = vec![0; bins.count];
    for value in values {
        counts[bins.of(*value)] += 1;
    }
    let counted = |(bin, n)| {
        let (from, to) = bins.edges(bin);
        Counted { from, to, n }
    };
    counts.into_iter().enumerate().map(counted).collect()
}

/// Quantiles of y in one bin of x.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Binned {
    /// Lower edge of the bin of x.
    pub from: f64,
    /// Upper edge.
    pub to: f64,
    /// Number of pairs; never 0.
    pub n: usize,
    /// The 10 % quantile of y.
    pub p10: f64,
    /// The median of y.
    pub median: f64,
    /// The 90 % quantile of y.
    pub p90: f64,
}

/// Quantiles of `y: [n]` in about `bins` bins of equal width of `x: [n]`; empty bins are left out.
pub fn binned(x: &[f64], y: &[f64], bins: usize) -> Vec<Binned> {
    let Some(bins) = Bins::over(x, bins) else { return Vec::new() };
    let mut members = vec![Vec::new(); bins.count];
    for (x, y) in x.iter().zip(y) {
        members[bins.of(*x)].push(*y);
    }
    let summarised = |(bin, members): (usize, Vec<f64>)| {
        let n = members.len();
        let quantiles = Quantiles::of(members)?;
        let (from, to) = bins.edges(bin);
        Some(Binned {
            from,
            to,
            n,
            p10: quantiles.at(0.1),
            median: quantiles.median(),
            p90: quantiles.at(0.9),
        })
    };
    members.into_iter().enumerate().filter_map(summarised).collect()
}

/// The mean of each value and the `window - 1` before it, or of as many as there are.
pub fn trailing_mean(values: &[f64], window: usize) -> Vec<f64> {
    let mean = |end: usize| {
        let recent = &values[(end + 1).saturating_sub(window)..=end];
        recent.iter().sum::<f64>() / recent.len() as f64
    };
    (0..values.len()).map(mean).collect()
}

/// Formats a rounded number: `5`, `0.2`.
pub fn plain(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Formats with separators: `20,000`.
pub fn grouped(n: usize) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats with about three significant digits: `0.0004`, `0.213`, `61.8`, `1,240`.
pub fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1000.0 => {
            let sign = if value < 0.0 { "-" } else { "" };
            format!("{sign}{}", grouped(size.round() as usize))
        }
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        size => format!("{value:.*}", (2.0 - size.log10().floor()) as usize),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round() {
        let cases = [
            (1.0, 5, 0.2),
            (0.97, 5, 0.2),
            (10.0, 4, 5.0),
            (300.0, 6, 50.0),
            (0.03, 5, 0.01),
            (7.0, 1, 10.0),
        ];
        for (span, parts, step) in cases {
            assert!((round_step(span, parts) / step - 1.0).abs() < 1e-9, "{span} in {parts}");
        }
    }

    #[test]
    fn every_value_is_in_one_bin_also_the_largest() {
        let bins = histogram(&[0.5, 0.51, 0.549, 0.55, 0.6, 0.7], 4);
        assert_eq!(bins.len(), 4, "{bins:?}");
        let total: usize = bins.iter().map(|bin| bin.n).sum();
        assert_eq!(total, 6);
        assert!(bins.windows(2).all(|pair| pair[0].to == pair[1].from));
        assert_eq!(bins.iter().map(|bin| bin.n).collect::<Vec<_>>(), [3, 1, 1, 1]);
        let alike = histogram(&[0.9; 7], 30);
        assert_eq!(alike.len(), 1);
        assert_eq!(alike[0].n, 7);
        assert!(alike[0].from <= 0.9 && 0.9 < alike[0].to);
        assert_eq!(histogram(&[], 10), []);
        let below_zero = histogram(&[-0.35, 0.35], 7);
        assert_eq!((below_zero[0].n, below_zero.last().unwrap().n), (1, 1));
    }

    #[test]
    fn bins_hold_quantiles_and_empty_ones_are_left_out() {
        let x: Vec<f64> = (0..=10).map(f64::from).chain([41.0]).collect();
        let y: Vec<f64> = (0..=10).map(|v| f64::from(v) / 10.0).chain([9.0]).collect();
        let bins = binned(&x, &y, 3);
        assert_eq!(bins.len(), 2);
        assert_eq!((bins[0].from, bins[0].to, bins[0].n), (0.0, 20.0, 11));
        assert!((bins[0].p10 - 0.1).abs() < 1e-12 && (bins[0].p90 - 0.9).abs() < 1e-12);
        assert_eq!(bins[0].median, 0.5);
        assert_eq!((bins[1].from, bins[1].n, bins[1].median), (40.0, 1, 9.0));
    }

    #[test]
    fn means_trail() {
        assert_eq!(trailing_mean(&[2.0, 4.0, 6.0, 0.0], 2), [2.0, 3.0, 5.0, 3.0]);
        assert!(trailing_mean(&[], 5).is_empty());
    }

    #[test]
    fn numbers_are_short_and_grouped() {
        assert_eq!([0, 999, 1000, 1234567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        let written = [0.0, 0.00042, 0.2134, 1.618, 61.84, 812.4, 20000.4, -4.28].map(short);
        assert_eq!([5.0, 0.6 - 0.4, 20.0].map(plain), ["5", "0.2", "20"]);
        assert_eq!(written, ["0", "0.000420", "0.213", "1.62", "61.8", "812", "20,000", "-4.28"]);
    }
}
