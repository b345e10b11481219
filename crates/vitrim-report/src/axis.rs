//! An axis: its quantity, its range, and the round numbers that label it.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use super::numbers::{grouped, round_step};

/// Whether the scale is linear or logarithmic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Linear,
    /// Logarithmic, for positive values.
    Log,
}

/// An axis; its range is that of the drawn values, slightly extended.
#[derive(Clone, Debug)]
pub struct Axis {
    /// The quantity with its unit. For the y axis it is the chart's title.
    pub label: String,
    pub scale: Scale,
    /// Values that must lie in the range.
    pub holds: Vec<f64>,
}

impl Axis {
    pub fn linear(label: impl Into<String>) -> Axis {
        Axis { label: label.into(), scale: Scale::Linear, holds: Vec::new() }
    }

    /// An axis with 0 in its range.
    pub fn from_zero(label: impl Into<String>) -> Axis {
        Axis::linear(label).holding([0.0])
    }

    /// Adds values that must lie in the range.
    pub fn holding(self, values: impl Into<Vec<f64>>) -> Axis {
        Axis { holds: values.into(), ..self }
    }

    pub fn log(label: impl Into<String>) -> Axis {
        Axis { scale: Scale::Log, ..Axis::linear(label) }
    }
}

/// An axis' range with its labels.
#[derive(Clone, Debug)]
pub struct Ticks {
    scale: Scale,
    pub from: f64,
    pub to: f64,
    at: Vec<f64>,
    /// Digits after the decimal point.
    digits: usize,
}

impl Ticks {
    /// Ticks from `low` to `high`, slightly extended, with labels at round numbers, in about `parts` parts.
    pub fn over((low, high): (f64, f64), scale: Scale, parts: usize) -> Ticks {
        match scale {
            Scale::Linear => Ticks::linear(low, high, parts),
            Scale::Log => Ticks::log(low, high, parts),
        }
    }

    fn linear(low: f64, high: f64, parts: usize) -> Ticks {
        let (low, high) = if high > low {
            (low, high)
        } else {
            let margin = if low == 0.0 { 1.0 } else { 0.1 * low.abs() };
            (low - margin, high + margin)
        };
        let step = round_step(high - low, parts);
        let quarter = step / 4.0;
        let from = (low / quarter + 1e-9).floor() * quarter;
        let to = (high / quarter - 1e-9).ceil() * quarter;
        let (first, last) = ((from / step - 1e-9).ceil() as i64, (to / step + 1e-9).floor() as i64);
        let at: Vec<f64> = (first..=last).map(|i| i as f64 * step).collect();
        let digits = (-step.log10().floor()).max(0.0) as usize;
        Ticks { scale: Scale::Linear, from, to, at, digits }
    }

    /// Ticks at 1, 2 and 5 times powers of ten, or at powers of ten alone if those are too many.
    fn log(low: f64, high: f64, parts: usize) -> Ticks {
        let decades = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
        let all: Vec<(f64, f64)> =
            decades.flat_map(|d| [1.0, 2.0, 5.0].map(|f| (f, f * 10f64.powi(d)))).collect();
        let values = || all.iter().map(|(_, value)| *value);
        let from = values().filter(|v| *v <= low * (1.0 + 1e-9)).fold(f64::NEG_INFINITY, f64::max);
        let to = values().filter(|v| *v >= high * (1.0 - 1e-9) && *v > from).fold(f64::INFINITY, f64::min);
        let within = |v: &f64| (from..=to).contains(v);
        let mut at: Vec<f64> = values().filter(within).collect();
        if at.len() > parts + 2 {
            at = all.iter().filter(|(factor, _)| *factor == 1.0).map(|(_, v)| *v).filter(within).collect();
        }
        Ticks { scale: Scale::Log, from, to, at, digits: 0 }
    }

    /// Position of a value along the axis, 0 to 1.
    fn share(&self, value: f64) -> f64 {
        let along = |v: f64| if self.scale == Scale::Log { v.log10() } else { v };
        (along(value) - along(self.from)) / (along(self.to) - along(self.from))
    }
}

impl Ranged for Ticks {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        first + (self.share(*value) * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.at.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for Ticks {
    fn format(value: &f64) -> String {
        value.to_string()
    }

    fn format_ext(&self, value: &f64) -> String {
        let digits = match self.scale {
            Scale::Linear => self.digits,
            // Otherwise the label is too long for the space beside the axis.
            Scale::Log if *value < 0.9e-4 => return format!("{value:.0e}"),
            Scale::Log => (-value.log10() - 1e-9).ceil().max(0.0) as usize,
        };
        // Avoids "-0".
        let value = if value.abs() < 1e-12 { 0.0 } else { *value };
        if digits == 0 && value >= 1000.0 { grouped(value as usize) } else { format!("{value:.digits$}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(ticks: &Ticks) -> Vec<String> {
        ticks.at.iter().map(|value| ticks.format_ext(value)).collect()
    }

    #[test]
    fn axes_hold_their_values_and_have_round_labels() {
        let ticks = Ticks::over((64.7, 98.8), Scale::Linear, 6);
        assert_eq!((ticks.from, ticks.to), (62.5, 100.0));
        assert_eq!(labels(&ticks), ["70", "80", "90", "100"]);
        let ticks = Ticks::over((-0.06, 0.5), Scale::Linear, 5);
        assert!(ticks.from <= -0.06 && ticks.to >= 0.5);
        assert_eq!(labels(&ticks), ["0.0", "0.2", "0.4"]);
        let ticks = Ticks::over((0.0, 1834.0), Scale::Linear, 5);
        assert_eq!(labels(&ticks), ["0", "500", "1,000", "1,500"]);
        let ticks = Ticks::over((0.3, 0.3), Scale::Linear, 5);
        assert!(ticks.from < 0.3 && ticks.to > 0.3);
    }

    #[test]
    fn logarithmic_axes_have_powers_of_ten() {
        let ticks = Ticks::over((1.9e-5, 0.0682), Scale::Log, 5);
        assert_eq!((ticks.from, ticks.to), (1e-5, 0.1));
        assert_eq!(labels(&ticks), ["1e-5", "0.0001", "0.001", "0.01", "0.1"]);
        let ticks = Ticks::over((0.03, 0.3), Scale::Log, 5);
        assert_eq!(labels(&ticks), ["0.02", "0.05", "0.1", "0.2", "0.5"]);
        assert!((ticks.share(0.02).abs() < 1e-12) && (ticks.share(0.5) - 1.0).abs() < 1e-12);
        let alike = Ticks::over((0.1, 0.1), Scale::Log, 5);
        assert!(alike.from <= 0.1 && alike.to > 0.1);
    }
}
