//! One pair of labelled axes with what is drawn on them, as SVG.
//!
//! Series differ in colour (Okabe and Ito's palette, which colour-blind readers tell apart), dashes and
//! markers.

use std::error::Error;
use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::coord::{CoordTranslate, Shift};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::numbers::{grouped, round_step};

/// Plot units in a pixel of a panel at full size: plotters rounds coordinates to whole units.
const UNIT: f64 = 4.0;
/// A panel's width, in pixels.
pub const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 270.0;
const TITLE: f64 = 14.0;
const LABEL: f64 = 12.5;
pub const TICK: f64 = 12.0;
const NOTE: f64 = 11.0;
/// Height of the title's line, and of each line of the legend.
const LINE: f64 = 20.0;
/// Room left of the plot for tick labels, and below it for them and the axis' label.
const LEFT: f64 = 54.0;
const BELOW: f64 = 42.0;
const RIGHT: f64 = 14.0;
/// Length of a legend's sample of a line.
const SAMPLE: f64 = 26.0;
/// Width of a letter as a share of its height, about.
const LETTER: f64 = 0.6;
/// plotters takes letters to be this much smaller than asked.
const PLOTTERS_SHRINKS: f64 = 1.24;

pub const INK: RGBColor = RGBColor(34, 34, 34);
pub const SOFT_INK: RGBColor = RGBColor(85, 85, 85);
const GRID: RGBColor = RGBColor(228, 228, 228);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn Error>>;

/// How a series looks.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    colour: RGBColor,
    /// Dash and gap, in pixels.
    dash: Option<(f64, f64)>,
    marker: Marker,
}

#[derive(Clone, Copy, Debug)]
enum Marker {
    Circle,
    Square,
    Triangle,
}

impl Style {
    /// The look of the `i`-th series; from the seventh on they come again.
    pub fn of(i: usize) -> Style {
        const fn style(colour: (u8, u8, u8), dash: Option<(f64, f64)>, marker: Marker) -> Style {
            Style { colour: RGBColor(colour.0, colour.1, colour.2), dash, marker }
        }
        const STYLES: [Style; 6] = [
            style((0, 114, 178), None, Marker::Circle),
            style((213, 94, 0), Some((7.0, 3.0)), Marker::Square),
            style((0, 158, 115), Some((2.5, 2.5)), Marker::Triangle),
            style((204, 121, 167), Some((10.0, 3.0)), Marker::Circle),
            style((86, 180, 233), Some((4.0, 4.0)), Marker::Square),
            style((230, 159, 0), None, Marker::Triangle),
        ];
        STYLES[i % STYLES.len()]
    }
}

/// Whether equal steps or equal factors are equally long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Linear,
    /// For positive values.
    Log,
}

/// An axis; its range is that of what is drawn, and a little more.
#[derive(Clone, Debug)]
pub struct Axis {
    /// The quantity with its unit. That of the y axis is the chart's title.
    pub label: String,
    pub scale: Scale,
    /// Values that the range shall hold.
    pub holds: Vec<f64>,
}

impl Axis {
    pub fn linear(label: impl Into<String>) -> Axis {
        Axis { label: label.into(), scale: Scale::Linear, holds: Vec::new() }
    }

    /// With 0 in its range.
    pub fn from_zero(label: impl Into<String>) -> Axis {
        Axis::linear(label).holding([0.0])
    }

    /// With these values in its range.
    pub fn holding(self, values: impl Into<Vec<f64>>) -> Axis {
        Axis { holds: values.into(), ..self }
    }

    pub fn log(label: impl Into<String>) -> Axis {
        Axis { scale: Scale::Log, ..Axis::linear(label) }
    }
}

/// Something on the axes. Points are (x, y); intervals are (x, lower y, upper y).
#[derive(Clone, Debug)]
pub enum Layer {
    Line(Vec<(f64, f64)>, Style),
    /// A thin pale line behind another of its colour.
    Faint(Vec<(f64, f64)>, Style),
    Markers(Vec<(f64, f64)>, Style),
    Intervals(Vec<(f64, f64, f64)>, Style),
    Band(Vec<(f64, f64, f64)>, Style),
    /// (from, to, height)
    Bars(Vec<(f64, f64, f64)>, Style),
    /// A dashed line across at y, with its name for the legend.
    Limit(f64, String),
    /// A circle around a point, with its name for the legend.
    Ring((f64, f64), String),
    /// Small words above points.
    Notes(Vec<(f64, f64, String)>),
}

/// Axes, what is on them, and the names of the series.
#[derive(Clone, Debug)]
pub struct Chart {
    pub x: Axis,
    pub y: Axis,
    pub layers: Vec<Layer>,
    pub legend: Vec<(String, Style)>,
}

impl Chart {
    /// As a whole SVG document.
    ///
    /// # Errors
    /// If plotters refuses.
    pub fn svg(&self) -> Result<String, Box<dyn Error>> {
        let mut svg = String::new();
        let size = (units(WIDTH) as u32, units(HEIGHT) as u32);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        root.draw(&Text::new(self.y.label.clone(), (units(6.0), units(3.0)), title()))?;
        let lines = self.legend(&root)?;
        let (_, plot) = root.split_vertically(units(LINE * (1.0 + lines) + 6.0));
        self.plot(&plot)?;
        root.present()?;
        drop(plot);
        drop(root);
        Ok(svg)
    }

    /// Draws the legend under the title; returns its lines.
    fn legend(&self, root: &Area<'_>) -> Result<f64, Box<dyn Error>> {
        let series = self.legend.iter().map(|(name, style)| (name, Key::Series(*style)));
        let others = self.layers.iter().filter_map(|layer| match layer {
            Layer::Limit(_, name) => Some((name, Key::Limit)),
            Layer::Ring(_, name) => Some((name, Key::Ring)),
            _ => None,
        });
        let marked = self.layers.iter().any(|layer| matches!(layer, Layer::Markers(..)));
        let (mut x, mut lines) = (6.0, 0.0);
        for (name, key) in series.chain(others) {
            let width = SAMPLE + 6.0 + name.chars().count() as f64 * TICK * LETTER + 14.0;
            if lines == 0.0 || x + width > WIDTH {
                (x, lines) = (6.0, lines + 1.0);
            }
            let y = units(LINE * lines + 12.0);
            let [left, middle, right] = [0.0, 0.5, 1.0].map(|share| (units(x + share * SAMPLE), y));
            match key {
                Key::Series(style) => {
                    line(root, vec![left, right], style)?;
                    if marked {
                        marker(root, middle, style)?;
                    }
                }
                Key::Limit => limit(root, left, right)?,
                Key::Ring => ring(root, middle)?,
            }
            let text = font(TICK).color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
            root.draw(&Text::new(name.clone(), (units(x + SAMPLE + 6.0), y), text))?;
            x += width;
        }
        Ok(lines)
    }

    fn plot(&self, area: &Area<'_>) -> Drawn {
        let x = Ticks::over(self.extent(&self.x, |layer, see| layer.each_x(see)), self.x.scale, 6);
        let y = Ticks::over(self.extent(&self.y, |layer, see| layer.each_y(see)), self.y.scale, 5);
        let across = x.clone();
        let mut chart = ChartBuilder::on(area)
            .margin_right(units(RIGHT))
            .margin_bottom(units(2.0))
            .margin_top(units(4.0))
            .x_label_area_size(units(BELOW))
            .y_label_area_size(units(LEFT))
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID.stroke_width(units(1.0) as u32))
            .light_line_style(TRANSPARENT)
            .axis_style(SOFT_INK.stroke_width(units(1.0) as u32))
            .set_all_tick_mark_size(units(4.0))
            .label_style(font(TICK).color(&SOFT_INK))
            .x_desc(&self.x.label)
            .axis_desc_style(font(LABEL).color(&INK))
            .draw()?;
        self.layers.iter().try_for_each(|layer| draw(layer, chart.plotting_area(), &across))
    }

    /// Smallest and largest value that any layer has along an axis.
    fn extent(&self, axis: &Axis, each: impl Fn(&Layer, &mut dyn FnMut(f64))) -> (f64, f64) {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        let mut see = |value: f64| {
            if value.is_finite() && (axis.scale == Scale::Linear || value > 0.0) {
                (low, high) = (low.min(value), high.max(value));
            }
        };
        axis.holds.iter().copied().for_each(&mut see);
        self.layers.iter().for_each(|layer| each(layer, &mut see));
        if low <= high { (low, high) } else { (1.0, 2.0) }
    }
}

/// What a legend names.
enum Key {
    Series(Style),
    Limit,
    Ring,
}

impl Layer {
    fn each_x(&self, see: &mut dyn FnMut(f64)) {
        match self {
            Layer::Line(points, _) | Layer::Faint(points, _) | Layer::Markers(points, _) => {
                points.iter().for_each(|(x, _)| see(*x));
            }
            Layer::Intervals(points, _) | Layer::Band(points, _) => {
                points.iter().for_each(|(x, ..)| see(*x));
            }
            Layer::Bars(bars, _) => bars.iter().for_each(|(from, to, _)| {
                see(*from);
                see(*to);
            }),
            Layer::Limit(..) => {}
            Layer::Ring((x, _), _) => see(*x),
            Layer::Notes(notes) => notes.iter().for_each(|(x, ..)| see(*x)),
        }
    }

    fn each_y(&self, see: &mut dyn FnMut(f64)) {
        match self {
            Layer::Line(points, _) | Layer::Faint(points, _) | Layer::Markers(points, _) => {
                points.iter().for_each(|(_, y)| see(*y));
            }
            Layer::Intervals(points, _) | Layer::Band(points, _) => {
                points.iter().for_each(|(_, low, high)| {
                    see(*low);
                    see(*high);
                });
            }
            Layer::Bars(bars, _) => {
                see(0.0);
                bars.iter().for_each(|(.., height)| see(*height));
            }
            Layer::Limit(y, _) | Layer::Ring((_, y), _) => see(*y),
            Layer::Notes(notes) => notes.iter().for_each(|(_, y, _)| see(*y)),
        }
    }
}

/// An axis' range with its labels.
#[derive(Clone, Debug)]
struct Ticks {
    scale: Scale,
    from: f64,
    to: f64,
    at: Vec<f64>,
    /// Digits behind the point.
    digits: usize,
}

impl Ticks {
    /// From `low` to `high` and a little more, with labels at round numbers, in about `parts` parts.
    fn over((low, high): (f64, f64), scale: Scale, parts: usize) -> Ticks {
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

    /// At 1, 2 and 5 times powers of ten, or at powers of ten alone where those are too many.
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

    /// How far along the axis a value lies, 0 to 1.
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
            // Too long for the room beside the axis.
            Scale::Log if *value < 0.9e-4 => return format!("{value:.0e}"),
            Scale::Log => (-value.log10() - 1e-9).ceil().max(0.0) as usize,
        };
        // No minus zero.
        let value = if value.abs() < 1e-12 { 0.0 } else { *value };
        if digits == 0 && value >= 1000.0 { grouped(value as usize) } else { format!("{value:.digits$}") }
    }
}

type Plot<'a> = DrawingArea<SVGBackend<'a>, Cartesian2d<Ticks, Ticks>>;

fn draw(layer: &Layer, plot: &Plot<'_>, x: &Ticks) -> Drawn {
    match layer {
        Layer::Line(points, style) => line(plot, points.clone(), *style)?,
        Layer::Faint(points, style) => {
            plot.draw(&PathElement::new(points.clone(), stroke(&style.colour.mix(0.3), 1.0)))?;
        }
        Layer::Markers(points, style) => {
            points.iter().try_for_each(|at| marker(plot, *at, *style))?;
        }
        Layer::Intervals(points, style) => {
            for (x, low, high) in points {
                let ends = [(*x, *low), (*x, *high)];
                plot.draw(&PathElement::new(ends, stroke(&style.colour.mix(0.55), 1.4)))?;
            }
        }
        Layer::Band(points, style) => {
            let lower = points.iter().map(|(x, low, _)| (*x, *low));
            let upper = points.iter().rev().map(|(x, _, high)| (*x, *high));
            let outline: Vec<_> = lower.chain(upper).collect();
            plot.draw(&Polygon::new(outline, style.colour.mix(0.2)))?;
        }
        Layer::Bars(bars, style) => {
            for (from, to, height) in bars {
                let corners = [(*from, 0.0), (*to, *height)];
                plot.draw(&Rectangle::new(corners, style.colour.mix(0.75).filled()))?;
                plot.draw(&Rectangle::new(corners, stroke(&WHITE, 0.75)))?;
            }
        }
        Layer::Limit(y, _) => limit(plot, (x.from, *y), (x.to, *y))?,
        Layer::Ring(at, _) => ring(plot, *at)?,
        Layer::Notes(notes) => {
            let style = font(NOTE).color(&SOFT_INK).pos(Pos::new(HPos::Center, VPos::Bottom));
            for (x, y, text) in notes {
                plot.draw(&Text::new(text.clone(), (*x, *y), style.clone()))?;
            }
        }
    }
    Ok(())
}

/// Plot units of `pixels`.
pub fn units(pixels: f64) -> i32 {
    (UNIT * pixels).round() as i32
}

/// The look of a panel's title.
pub fn title() -> TextStyle<'static> {
    ("sans-serif", UNIT * TITLE * PLOTTERS_SHRINKS, FontStyle::Bold).into_text_style(&(1, 1)).color(&INK)
}

/// Letters of this height.
pub fn font(pixels: f64) -> TextStyle<'static> {
    ("sans-serif", UNIT * pixels * PLOTTERS_SHRINKS).into_text_style(&(1, 1))
}

/// A solid line's look.
fn stroke(colour: &impl Color, pixels: f64) -> ShapeStyle {
    colour.stroke_width(units(pixels) as u32)
}

fn line<C: CoordTranslate>(area: &DrawingArea<SVGBackend<'_>, C>, points: Vec<C::From>, style: Style) -> Drawn
where
    C::From: Clone + 'static,
{
    let stroke = stroke(&style.colour, 2.2);
    match style.dash {
        None => area.draw(&PathElement::new(points, stroke))?,
        Some((dash, gap)) => area.draw(&DashedPathElement::new(points, units(dash), units(gap), stroke))?,
    }
    Ok(())
}

fn marker<C: CoordTranslate>(area: &DrawingArea<SVGBackend<'_>, C>, at: C::From, style: Style) -> Drawn
where
    C::From: Clone + 'static,
{
    let filled = style.colour.filled();
    match style.marker {
        Marker::Circle => area.draw(&Circle::new(at, units(4.0), filled))?,
        Marker::Triangle => area.draw(&TriangleMarker::new(at, units(5.2), filled))?,
        Marker::Square => {
            let half = units(3.6);
            area.draw(&(EmptyElement::at(at) + Rectangle::new([(-half, -half), (half, half)], filled)))?;
        }
    }
    Ok(())
}

fn limit<C: CoordTranslate>(area: &DrawingArea<SVGBackend<'_>, C>, from: C::From, to: C::From) -> Drawn
where
    C::From: Clone + 'static,
{
    let (dash, gap) = (units(5.0), units(4.0));
    Ok(area.draw(&DashedPathElement::new([from, to], dash, gap, stroke(&SOFT_INK, 1.4)))?)
}

fn ring<C: CoordTranslate>(area: &DrawingArea<SVGBackend<'_>, C>, at: C::From) -> Drawn
where
    C::From: Clone + 'static,
{
    Ok(area.draw(&Circle::new(at, units(7.0), stroke(&INK, 1.6)))?)
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

    #[test]
    fn words_in_a_chart_are_escaped() {
        let chart = Chart {
            x: Axis::linear("a < b & \"c\""),
            y: Axis::linear("<script>"),
            layers: vec![Layer::Line(vec![(1.0, 2.0), (2.0, 3.0)], Style::of(0))],
            legend: vec![("</svg>".into(), Style::of(0))],
        };
        let svg = chart.svg().unwrap();
        assert!(svg.contains("&lt;script&gt;") && svg.contains("a &lt; b &amp; "), "{svg}");
        assert!(!svg.contains("<script") && svg.matches("</svg>").count() == 1, "{svg}");
    }
}
