//! A chart: one pair of labelled axes and its layers, as SVG.
//!
//! Series differ in colour (Okabe and Ito's palette, which colour-blind readers tell apart), dashes and
//! markers.

use std::error::Error;

use plotters::coord::{CoordTranslate, Shift};
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::{Axis, Scale, Ticks};

/// Plot units per pixel of a panel at full size: plotters rounds coordinates to whole units.
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
/// Space left of the plot for tick labels, and below it for tick labels and the axis' label.
const LEFT: f64 = 54.0;
const BELOW: f64 = 42.0;
const RIGHT: f64 = 14.0;
/// Length of a legend's sample of a line.
const SAMPLE: f64 = 26.0;
/// Approximate ratio of a letter's width to its height.
const LETTER: f64 = 0.6;
/// plotters assumes letters to be smaller than requested by this factor.
const PLOTTERS_SHRINKS: f64 = 1.24;

pub const INK: RGBColor = RGBColor(34, 34, 34);
pub const SOFT_INK: RGBColor = RGBColor(85, 85, 85);
const GRID: RGBColor = RGBColor(228, 228, 228);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn Error>>;

/// The style of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Style {
    colour: RGBColor,
    /// Dash and gap, in pixels.
    dash: Option<(f64, f64)>,
    marker: Marker,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Marker {
    Circle,
    Square,
    Triangle,
}

impl Style {
    /// The style of the `i`-th series. Colours repeat from the ninth on, with other markers and dashes; styles from the 25th.
    pub fn of(i: usize) -> Style {
        const fn style(colour: (u8, u8, u8), dash: Option<(f64, f64)>, marker: Marker) -> Style {
            Style { colour: RGBColor(colour.0, colour.1, colour.2), dash, marker }
        }
        const STYLES: [Style; 8] = [
            style((0, 114, 178), None, Marker::Circle),
            style((213, 94, 0), Some((7.0, 3.0)), Marker::Square),
            style((0, 158, 115), Some((2.5, 2.5)), Marker::Triangle),
            style((204, 121, 167), Some((10.0, 3.0)), Marker::Circle),
            style((86, 180, 233), Some((4.0, 4.0)), Marker::Square),
            style((230, 159, 0), None, Marker::Triangle),
            style((85, 85, 85), Some((2.0, 4.0)), Marker::Circle),
            style((0, 0, 0), Some((8.0, 2.0)), Marker::Square),
        ];
        let (first, again) = (STYLES[i % STYLES.len()], i / STYLES.len());
        let shifted = STYLES[(i + again) % STYLES.len()];
        Style { dash: shifted.dash, marker: shifted.marker, ..first }
    }
}

/// A layer of a chart. Points are (x, y); intervals are (x, lower y, upper y).
#[derive(Clone, Debug)]
pub enum Layer {
    Line(Vec<(f64, f64)>, Style),
    /// A thin pale line behind another line of the same colour.
    Faint(Vec<(f64, f64)>, Style),
    Markers(Vec<(f64, f64)>, Style),
    Intervals(Vec<(f64, f64, f64)>, Style),
    Band(Vec<(f64, f64, f64)>, Style),
    /// Bars: (from, to, height).
    Bars(Vec<(f64, f64, f64)>, Style),
    /// A dashed horizontal line at y, with its name for the legend.
    Limit(f64, String),
    /// A circle around a point, with its name for the legend.
    Ring((f64, f64), String),
    /// Short texts above points.
    Notes(Vec<(f64, f64, String)>),
}

/// Axes, layers, and the names of the series.
#[derive(Clone, Debug)]
pub struct Chart {
    pub x: Axis,
    pub y: Axis,
    pub layers: Vec<Layer>,
    pub legend: Vec<(String, Style)>,
}

impl Chart {
    /// The chart as an SVG document.
    ///
    /// # Errors
    /// If plotters returns an error.
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

    /// Draws the legend below the title; returns the height of its lines.
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

    /// Smallest and largest value of all layers along an axis.
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

/// The symbol of a legend's entry.
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

/// `pixels` in plot units.
pub fn units(pixels: f64) -> i32 {
    (UNIT * pixels).round() as i32
}

/// Text style of a panel's title.
pub fn title() -> TextStyle<'static> {
    ("sans-serif", UNIT * TITLE * PLOTTERS_SHRINKS, FontStyle::Bold).into_text_style(&(1, 1)).color(&INK)
}

/// Text style with letters of the given height.
pub fn font(pixels: f64) -> TextStyle<'static> {
    ("sans-serif", UNIT * pixels * PLOTTERS_SHRINKS).into_text_style(&(1, 1))
}

/// Style of a solid line.
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

    #[test]
    fn two_dozen_series_can_be_told_apart() {
        let styles: Vec<Style> = (0..24).map(Style::of).collect();
        for (i, style) in styles.iter().enumerate() {
            assert!(!styles[..i].contains(style), "series {i}");
        }
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
