//! The page: sections with their figures, and a sentence where one is absent.

use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use vitrim_measure::front::Measure;
use vitrim_measure::requests::{CalibrateRequest, CommandLine, EvalRequest, PolicyArgs, Request};

use super::figure::{Figure, Panel};
use super::figures::{costs, curves, fronts, gallery, keep_maps};
use super::findings::{Findings, Group};
use super::numbers::{grouped, short};
use super::sources::Sources;
use super::{headline, tables};
use crate::error::Result;

/// Figures with more panels than this may be split between pages in print.
const PANELS_A_SHEET: usize = 6;

/// A page and the plots on it.
pub struct Page {
    pub html: String,
    /// File name without extension, and SVG document, of each plot.
    pub plots: Vec<(String, String)>,
}

/// Figures in the order of the page, numbered from 1.
#[derive(Default)]
pub(super) struct Numbered {
    plots: Vec<(String, String)>,
    /// The command of each figure.
    commands: Vec<String>,
}

/// The page of `sources`.
///
/// # Errors
/// If a plot cannot be drawn, or a picture of the gallery is missing or damaged.
pub fn lay_out(sources: &Sources) -> Result<Page> {
    let mut figures = Numbered::default();
    let findings = sources.findings.as_ref();
    let title = findings.map_or_else(|| format!("vitrim: {}", sources.run.display()), |f| f.title.clone());
    let measured = match findings {
        Some(findings) => measured(sources, findings, &mut figures)?,
        None => html! {},
    };
    let calibration = calibration(sources, &mut figures)?;
    let learning = learning(sources, &mut figures)?;
    let made = made(sources, &figures);
    let main = html! {
        (tiles(sources))
        @match findings {
            Some(findings) => (facts(findings)),
            None => p.absent {
                "Not evaluated yet: the comparison with other methods, drop against cost on test "
                "images, the cost of single images, the maps and the pictures are absent. This adds "
                "them: " (command(&evaluation_command(sources)))
            },
        }
        (measured)
        (calibration)
        (learning)
        (made)
    };
    let mut made_by = CommandLine::new("report");
    made_by.word(&sources.run.to_string_lossy());
    let made_by = made_by.to_string();
    Ok(document(&title, &headline::sentence(sources), &main, &made_by, figures))
}

/// The page with `result` under its `title`, made by the command `made_by`.
pub(super) fn document(title: &str, result: &str, main: &Markup, made_by: &str, figures: Numbered) -> Page {
    let html = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content=(concat!("vitrim ", env!("CARGO_PKG_VERSION")));
                title { (title) }
                link rel="icon" href="data:,";
                style { (PreEscaped(include_str!("style.css"))) }
            }
            body {
                header {
                    h1 { (title) }
                    p.result { (result) }
                }
                main { (main) }
                footer {
                    "Made by " (command(made_by)) ", vitrim " (env!("CARGO_PKG_VERSION"))
                    ". Every plot is also in " code { "plots/" } " as SVG and PNG."
                }
            }
        }
    };
    Page { html: html.into_string(), plots: figures.plots }
}

fn tiles(sources: &Sources) -> Markup {
    let tiles = headline::tiles(sources);
    html! {
        @if !tiles.is_empty() {
            dl.tiles {
                @for tile in tiles {
                    div { dt { (tile.what) } dd { b { (tile.number) } span { (tile.more) } } }
                }
            }
        }
    }
}

fn facts(findings: &Findings) -> Markup {
    let evaluation = &findings.evaluation;
    let unlabelled = evaluation.images - evaluation.labelled.min(evaluation.images);
    html! {
        dl.facts {
            dt { "Backbone" } dd {
                code { (findings.model) } ", frozen"
                @if let Some(dtype) = &findings.dtype { ", in " (dtype) }
            }
            dt { "Images" } dd {
                (grouped(evaluation.images)) " of the " (findings.split) " split of " code { (findings.data) }
                @if unlabelled > 0 { ", " (grouped(unlabelled)) " of them without a label" }
                @if evaluation.bad_images > 0 {
                    "; " (grouped(evaluation.bad_images)) " more could not be decoded and were left out"
                }
            }
            dt { "Seen by the policy before" } dd { (headline::provenance(findings)) }
            dt { "Policy read out by" } dd { code { (findings.read_out) } }
            dt { "Machine" } dd { (findings.machine) }
        }
    }
}

fn measured(sources: &Sources, findings: &Findings, figures: &mut Numbered) -> Result<Markup> {
    let front = fronts::evaluated(findings)?;
    let (spread, by_size) = (costs::spread(findings)?, costs::by_object_size(findings)?);
    let maps = keep_maps::by_stage(findings)?;
    let divergence = match findings.evaluation.measure() {
        Measure::Drift => {
            "The backbone has no classes: drift is 100 (1 - cos) of its pooled features to the dense \
                           ones, and D its hundredth."
        }
        _ => "D is 9 KL to the dense prediction at temperature 3.",
    };
    Ok(html! {
        section {
            h2 { "Methods compared" }
            @if findings.evaluation.measure() == Measure::Disagreement {
                p { "These images have no labels: images on which a method names another class than the dense "
                    "model does count as lost, which bounds the drop from above." }
            }
            (tables::quality(&findings.evaluation))
            p { (divergence) " Keep ratio: share of the patch tokens alive "
                "after each stage. p10, p50, p90: of the cost of single images, as a share of the dense MACs. "
                "Every method's own scoring is in its cost. Command: " (command(&findings.command)) }
            @match tables::speed(&findings.evaluation) {
                Some(table) => (table),
                None => p { "Images/s were not measured." },
            }
        }
        section {
            h2 { "Drop against cost" }
            @match front {
                Some(figure) => (figures.add(figure)),
                None => p { "No front was measured on these images." },
            }
        }
        section {
            h2 { "Where the compute goes" }
            div.pair {
                @match spread {
                    Some(figure) => (figures.add(figure)),
                    None => p { "The cost of single images was not measured." },
                }
                @if let Some(figure) = by_size { (figures.add(figure)) }
            }
            @if findings.object_sizes.is_none() {
                p { "How the cost depends on the size of the object is not shown: the data set does not say how "
                    "large its objects are." }
            }
        }
        section {
            h2 { "Which patches survive" }
            @match maps {
                Some(figure) => (figures.add(figure)),
                None => p { "No stage was measured." },
            }
            @for group in Group::ALL {
                @match gallery::of_group(&sources.run, findings, group)? {
                    Some(figure) => (figures.add(figure)),
                    None => p { "There are no pictures of " (group) " images." },
                }
            }
        }
    })
}

fn calibration(sources: &Sources, figures: &mut Numbered) -> Result<Markup> {
    let run = sources.run.display();
    Ok(html! {
        section {
            h2 { "Calibration" }
            @match (&sources.calibration, sources.has_policy) {
                (Some(record), _) => {
                    p { "The threshold was chosen so: " (record.choice) "." }
                    @if !record.certified { p { "So the policy is set to keep everything, as the dense model does." } }
                    (figures.add(fronts::calibrated(record, calibration_command(sources))?))
                },
                (None, true) => p.absent {
                    "The policy is not calibrated. This chooses its threshold: "
                    (command(&calibration_command(sources)))
                },
                (None, false) => p.absent {
                    "There is no policy in " code { (run) } " yet: training has not ended."
                },
            }
        }
    })
}

fn learning(sources: &Sources, figures: &mut Numbered) -> Result<Markup> {
    let config: Option<toml::Table> = sources.config.as_deref().and_then(|text| text.parse().ok());
    let max_drop = config.and_then(|config| config.get("constraint")?.get("max_drop")?.as_float());
    let curves = curves::over_updates(&sources.updates, max_drop, training_command(sources))?;
    Ok(html! {
        section {
            h2 { "How it was learned" }
            @match curves {
                Some(figure) => (figures.add(figure)),
                None => p.absent { "There is no training log (" code { "log.jsonl" } ") in this folder, or it is empty." },
            }
        }
    })
}

fn made(sources: &Sources, figures: &Numbered) -> Markup {
    let findings = sources.findings.as_ref();
    html! {
        section {
            h2 { "How these figures were made" }
            div.scroll tabindex="0" role="region" aria-label="The command of each figure" {
                table.made {
                    thead { tr { th scope="col" { "Figure" } th scope="col" { "Command" } } }
                    tbody {
                        @for (first, last, command) in figures.runs() {
                            tr {
                                th.figures scope="row" {
                                    (first) @if last > first { " to " (last) }
                                }
                                td { (self::command(command)) }
                            }
                        }
                    }
                }
            }
            @match findings {
                Some(findings) => {
                    p { "Evaluated on " (findings.machine) "." }
                    @if !findings.seconds.is_empty() {
                        div.scroll {
                            table.made {
                                thead { tr { th scope="col" { "Step" } th.number scope="col" { "Seconds" } } }
                                tbody {
                                    @for (step, seconds) in &findings.seconds {
                                        tr { th scope="row" { (step) } td.number { (short(*seconds)) } }
                                    }
                                }
                            }
                        }
                    }
                },
                None => p { "The machine is not known before an evaluation." },
            }
            @match &sources.config {
                Some(config) => details {
                    summary { "The configuration of the training run (" code { "config.toml" } ")" }
                    pre tabindex="0" { code { (config) } }
                },
                None => p { "There is no " code { "config.toml" } " in this folder." },
            }
        }
    }
}

impl Numbered {
    /// The markup of the next figure.
    pub(super) fn add(&mut self, figure: Figure) -> Markup {
        self.commands.push(figure.command.clone());
        let number = self.commands.len();
        let markup = html! {
            figure.three[figure.panels.len() >= 3].long[figure.panels.len() > PANELS_A_SHEET]
                id=(format!("figure-{number}")) {
                div.panels { @for panel in &figure.panels { (show(panel)) } }
                figcaption {
                    b { "Figure " (number) ". " } (figure.caption) " Command: " (command(&figure.command))
                }
            }
        };
        let plots = figure.panels.into_iter().filter_map(|panel| match panel {
            Panel::Plot { name, svg, .. } => Some((name, svg)),
            Panel::Picture { .. } => None,
        });
        self.plots.extend(plots);
        markup
    }

    /// Ranges of neighbouring figures with the same command: first, last, command.
    fn runs(&self) -> Vec<(usize, usize, &str)> {
        let mut runs: Vec<(usize, usize, &str)> = Vec::new();
        for (number, command) in (1..).zip(&self.commands) {
            match runs.last_mut() {
                Some((_, last, alike)) if alike == command => *last = number,
                _ => runs.push((number, number, command)),
            }
        }
        runs
    }
}

fn show(panel: &Panel) -> Markup {
    match panel {
        Panel::Plot { alt, svg, .. } => html! {
            div.plot role="img" aria-label=(alt) { (PreEscaped(svg)) }
        },
        Panel::Picture { alt, png, width, height, caption } => html! {
            div.picture {
                div.scroll tabindex="0" role="region" aria-label=(caption) {
                    img alt=(alt) width=(width) height=(height)
                        src=(format!("data:image/png;base64,{}", BASE64_STANDARD.encode(png)));
                }
                p { (caption) }
            }
        },
    }
}

/// A command that may be wrapped between words, but not after the hyphens of `--model`.
fn command(line: &str) -> Markup {
    html! { code.command { @for word in line.split(' ') { span { (word) } " " } } }
}

/// Paths of the model and the data; a word in capitals if the run folder does not have the name.
fn model_and_data(sources: &Sources) -> (PathBuf, PathBuf) {
    match (&sources.findings, &sources.calibration) {
        (Some(findings), _) => (PathBuf::from(&findings.model), PathBuf::from(&findings.data)),
        (None, Some(record)) => (PathBuf::from("MODEL"), PathBuf::from(&record.data)),
        (None, None) => (PathBuf::from("MODEL"), PathBuf::from("DATA")),
    }
}

fn evaluation_command(sources: &Sources) -> String {
    let (model, data) = model_and_data(sources);
    let policy = PolicyArgs { policy: Some(sources.run.join("policy")), ..PolicyArgs::default() };
    let report = Some(sources.run.clone());
    EvalRequest { model, data, policy, report, ..EvalRequest::default() }.command_line()
}

/// The command that printed all figures, if it was one command.
fn only_command(sources: &Sources) -> Option<String> {
    sources
        .findings
        .as_ref()
        .filter(|findings| findings.command_trains)
        .map(|findings| findings.command.clone())
}

fn calibration_command(sources: &Sources) -> String {
    if let Some(command) = only_command(sources) {
        return command;
    }
    let (model, data) = model_and_data(sources);
    let mut request =
        CalibrateRequest { model, data, policy: sources.run.join("policy"), ..CalibrateRequest::default() };
    if let Some(record) = &sources.calibration {
        request.data = PathBuf::from(&record.data);
        request.dtype = record.dtype;
        request.split.clone_from(&record.split);
        request.calibration_images = record.front.images();
        request.confidence = record.confidence;
        match record.front.measure() {
            Measure::Drift => request.loss.max_drift = Some(record.max_drop),
            _ => request.loss.max_drop = Some(record.max_drop),
        }
    }
    request.command_line()
}

/// The command line of `vitrim train` for this run.
fn training_command(sources: &Sources) -> String {
    if let Some(command) = only_command(sources).or_else(|| sources.command.clone()) {
        return command;
    }
    // The folder of an earlier version.
    let (model, data) = model_and_data(sources);
    let mut command = CommandLine::new("train");
    for (flag, path) in [
        ("model", &model),
        ("data", &data),
        ("config", &sources.run.join("config.toml")),
        ("out", &sources.run),
    ] {
        command.flag(flag, &path.to_string_lossy());
    }
    command.to_string()
}
