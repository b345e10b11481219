//! The model card of a policy on the Hub: metadata in YAML, then text.
//!
//! The fields are those of the Hub's model cards (<https://huggingface.co/docs/hub/model-cards>).

use std::fmt::Write;
use std::path::PathBuf;

use vitrim_measure::calibrate::Calibration;
use vitrim_measure::front::{FrontPoint, Measure};
use vitrim_measure::requests::{BackboneArgs, EvalRequest, PolicyArgs, PredictRequest, Request};
use vitrim_measure::statistics::Confidence;
use vitrim_prune::AnyPolicy;
use vitrim_prune::policy::Departure;
use vitrim_vit::{Precision, VitSpec};

use crate::error::{ReportError, Result};

/// Confidence of the intervals on the card.
const CONFIDENCE: f64 = 0.95;

/// The subject of a card.
pub struct Card<'a> {
    /// The policy.
    pub policy: &'a AnyPolicy,
    /// What it is set to, in words.
    pub read_out: &'a str,
    /// Its calibration record; `None` if the record does not apply to this read-out.
    pub calibration: Option<&'a Calibration>,
    /// The backbone's owner and name on the Hub, if it is on the Hub.
    pub base_model: Option<&'a str>,
    /// The backbone as an `hf://` reference, if it was given as one.
    pub model: Option<&'a str>,
    /// The input size, pixels, if it is not the checkpoint's own.
    pub img_size: Option<[usize; 2]>,
    /// Whether the classes are described by texts.
    pub of_texts: bool,
    /// The backbone's geometry.
    pub spec: &'a VitSpec,
}

/// A point's drop with its interval, pp.
struct LossInterval {
    measured: f64,
    low: f64,
    high: f64,
}

/// The card as Markdown.
///
/// # Errors
/// If the calibration record contradicts itself.
pub fn card(card: &Card<'_>) -> Result<String> {
    let mut page = String::new();
    write_card(&mut page, card)?.map_err(|error| ReportError::Setting(error.to_string()))?;
    Ok(page)
}

/// Writing to a string cannot fail; the inner result has the formatter's error type.
fn write_card(page: &mut String, card: &Card<'_>) -> Result<std::fmt::Result> {
    let sites = card.policy.sites(card.spec)?;
    let sites = sites.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let figures = match card.calibration {
        Some(record) => {
            chosen(record).map(|point| Ok::<_, ReportError>((point, loss_interval(point)?))).transpose()?
        }
        None => None,
    };
    let others = match card.calibration {
        Some(record) => rows(record)?,
        None => Vec::new(),
    };
    Ok((|| {
        front_matter(page, card, figures.as_ref())?;
        introduction(page, card, &sites)?;
        section_figures(page, card, figures.as_ref(), &others)?;
        section_use(page, card)?;
        section_limits(page, card)
    })())
}

fn front_matter(
    page: &mut String,
    card: &Card<'_>,
    figures: Option<&(&FrontPoint, LossInterval)>,
) -> std::fmt::Result {
    writeln!(page, "---\nlibrary_name: vitrim\npipeline_tag: image-classification")?;
    writeln!(page, "tags:\n- vitrim\n- token-pruning\n- vision-transformer")?;
    if let Some(base) = card.base_model {
        writeln!(page, "base_model: {}\nbase_model_relation: adapter", quoted(base))?;
    }
    if let (Some(record), Some((point, interval))) = (card.calibration, figures) {
        let name = quoted(&format!("pruning policy for {}", card.spec.architecture));
        writeln!(page, "model-index:\n- name: {name}\n  results:")?;
        writeln!(page, "  - task:\n      type: image-classification\n    dataset:")?;
        let (data, split) = (quoted(&record.data), quoted(&record.split));
        writeln!(page, "      name: {data}\n      type: {data}\n      split: {split}\n    metrics:")?;
        let kind = loss_name(record.front.measure());
        for (kind, value) in [(kind, interval.measured), ("MACs, % of dense", 100.0 * point.cost)] {
            writeln!(page, "    - type: {}\n      value: {value:.2}", quoted(kind))?;
        }
    }
    writeln!(page, "---\n")
}

fn introduction(page: &mut String, card: &Card<'_>, sites: &str) -> std::fmt::Result {
    let Card { policy, spec, .. } = card;
    let [height, width] = spec.img_size;
    writeln!(page, "# Token-pruning policy for {}\n", spec.architecture)?;
    writeln!(
        page,
        "A policy of [vitrim](https://github.com/vitrim/vitrim): at {} it decides which patch tokens of an image leave \
         the network. {}, so that the rest takes less time. The backbone is frozen, and not in here: {} blocks of \
         width {} on {height} x {width} pixels in patches of {}{}.\n",
        sites,
        match policy {
            AnyPolicy::Method(policy) => format!("It {}", policy.recipe.about()),
            AnyPolicy::Learned(policy) => match policy.departure {
                Departure::Drop => "They are removed for real",
                Departure::Merge => "They are merged into those that they are most like",
            }
            .to_owned(),
        },
        spec.depth,
        spec.dim,
        spec.patch_size,
        card.base_model.map(|base| format!(", [{base}](https://huggingface.co/{base})")).unwrap_or_default(),
    )
}

fn section_figures(
    page: &mut String,
    card: &Card<'_>,
    figures: Option<&(&FrontPoint, LossInterval)>,
    others: &[String],
) -> std::fmt::Result {
    writeln!(page, "## Figures\n")?;
    let Some(record) = card.calibration else {
        return writeln!(
            page,
            "Not calibrated: no drop is known for its read-out, `{}`. `vitrim calibrate` measures one.\n",
            card.read_out
        );
    };
    let (images, split, data) = (record.front.images(), &record.split, &record.data);
    let drop_name = loss_name(record.front.measure());
    writeln!(page, "Measured on {images} images of `{split}` of `{data}`, in {}:\n", record.dtype)?;
    if let Some((point, interval)) = figures {
        let LossInterval { measured, low, high } = interval;
        writeln!(page, "| at `{}` | |\n| --- | --- |", card.read_out)?;
        writeln!(page, "| {drop_name} [95 % interval] | {measured:.2} [{low:.2}, {high:.2}] |")?;
        writeln!(page, "| MACs, % of dense | {:.1} |", 100.0 * point.cost)?;
        writeln!(page, "| GMACs an image | {:.3} |", point.gmacs)?;
        writeln!(page, "| patch tokens kept after each stage | {} |\n", ratios(&point.keep_ratio))?;
        writeln!(page, "{}.\n", record.choice)?;
    } else {
        writeln!(
            page,
            "{}. The policy is set to keep everything, as the dense model does.\n",
            record.choice
        )?;
    }
    let flag = if record.front.measure() == Measure::Drift { "--max-drift" } else { "--max-drop" };
    writeln!(page, "Other points, which `{flag}` and `--confidence` choose from:\n")?;
    let setting = card.policy.setting_name();
    writeln!(page, "| {setting} | {drop_name} [95 % interval] | MACs, % of dense | kept after each stage |")?;
    writeln!(page, "| --- | --- | --- | --- |")?;
    for row in others {
        writeln!(page, "{row}")?;
    }
    writeln!(page, "\nThe interval is paired; the {setting} was chosen on these very images.\n")
}

fn section_use(page: &mut String, card: &Card<'_>) -> std::fmt::Result {
    let hub = card.base_model.map(|base| format!("hf://{base}"));
    let model = card.model.map(str::to_owned).or(hub).unwrap_or_else(|| "path/to/backbone".to_owned());
    let model = PathBuf::from(model);
    let classes = card.of_texts.then(|| "path/to/text_embeddings".into());
    let backbone = BackboneArgs { img_size: card.img_size, classes };
    // The record certifies nothing for another precision.
    let dtype = card.calibration.map_or_else(Precision::default, |record| record.dtype);
    let policy = PolicyArgs { policy: Some("hf://OWNER/NAME".into()), ..PolicyArgs::default() };
    let predict = PredictRequest {
        images: vec!["photo.jpg".into()],
        model: model.clone(),
        backbone: backbone.clone(),
        dtype,
        policy: policy.clone(),
        ..PredictRequest::default()
    };
    let data = "path/to/images".into();
    let eval = EvalRequest { model, backbone, dtype, data, policy, ..EvalRequest::default() };
    writeln!(page, "## Use\n\nWith `OWNER/NAME` for this repository:\n\n```sh")?;
    writeln!(page, "{}\n{}\n```\n", predict.command_line(), eval.command_line())
}

fn section_limits(page: &mut String, card: &Card<'_>) -> std::fmt::Result {
    writeln!(page, "## Limits\n")?;
    writeln!(
        page,
        "* It belongs to the backbone that it was trained for, and refuses others: {}.",
        card.policy.backbone()
    )?;
    if let Some(record) = card.calibration {
        writeln!(
            page,
            "* Its figures hold for images like those it was calibrated on, and in {}; on others, measure them with \
             `vitrim eval`, or calibrate it again.",
            record.dtype
        )?;
        if record.front.measure() == Measure::Disagreement {
            writeln!(
                page,
                "* Those images had no labels: disagreement with the dense model bounds the drop."
            )?;
        }
    }
    writeln!(
        page,
        "* MACs are not time: how much of them comes back depends on backbone, machine and batch size."
    )
}

/// The point to which the policy is set; None if every token stays, as without a certified point.
fn chosen(record: &Calibration) -> Option<&FrontPoint> {
    record.front.points().iter().find(|point| record.certified && point.setting == record.threshold)
}

/// One row per point; of settings with equal decisions, only the last.
fn rows(record: &Calibration) -> Result<Vec<String>> {
    let points = record.front.points();
    let alike = |i: usize| points.get(i + 1).is_some_and(|next| next.keep_ratio == points[i].keep_ratio);
    let row = |i: usize| {
        let point = &points[i];
        let LossInterval { measured, low, high } = loss_interval(point)?;
        let (setting, cost, kept) = (point.setting, 100.0 * point.cost, ratios(&point.keep_ratio));
        Ok(format!("| {setting} | {measured:.2} [{low:.2}, {high:.2}] | {cost:.1} | {kept} |"))
    };
    (0..points.len()).filter(|i| !alike(*i)).map(row).collect()
}

fn loss_interval(point: &FrontPoint) -> Result<LossInterval> {
    let loss = point.loss()?;
    let (low, high) = loss.interval(Confidence::new(CONFIDENCE)?);
    Ok(LossInterval { measured: loss.measured(), low, high })
}

/// The loss as a column header.
fn loss_name(measure: Measure) -> &'static str {
    match measure {
        Measure::AccuracyLoss => "top-1 drop, pp",
        Measure::Disagreement => "top-1 disagreement, %",
        Measure::Drift => "feature drift 100 (1 - cos), %",
    }
}

fn ratios(keep: &[f64]) -> String {
    keep.iter().map(|ratio| format!("{ratio:.3}")).collect::<Vec<_>>().join(" ")
}

/// A string in YAML, of which JSON is a subset.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use vitrim_prune::{Policy, ReadOut};

    use super::*;
    use vitrim_measure::front::Front;
    use vitrim_measure::model::Loaded;

    /// A policy, and a record of 1,000 images that chose 0.5 from three thresholds.
    fn calibrated(labelled: bool, certified: bool) -> (Policy, Calibration, VitSpec) {
        let loaded = Loaded::random("vit_tiny_patch16_224", Precision::F32).unwrap();
        let stages = loaded.spec.default_stages();
        let mut policy = Policy::untrained(&loaded.spec, loaded.id.clone(), &stages, &[0.7, 0.49, 0.343]);
        let point = |setting: f64, cost: f64, lost: usize| FrontPoint {
            setting,
            cost,
            gmacs: 1.25 * cost,
            keep_ratio: vec![cost, cost / 2.0, cost / 4.0],
            drift: None,
            fidelity: 0.1,
            images: 1000,
            dense_only_right: lost,
            pruned_only_right: 2,
        };
        let points = vec![point(0.3, 0.9, 3), point(0.4, 0.9, 3), point(0.5, 0.75, 6), point(0.7, 0.5, 40)];
        let record = Calibration {
            data: "photos \"of\" cats".to_owned(),
            split: "validation".to_owned(),
            dtype: Precision::F32,
            max_drop: 1.0,
            confidence: Confidence::new(0.9).unwrap(),
            certified,
            threshold: if certified { 0.5 } else { 0.0 },
            choice: "the choice in words".to_owned(),
            front: Front::new(labelled, 1000, points).unwrap(),
            pilot: None,
        };
        policy.read_out = ReadOut::Threshold { threshold: record.threshold };
        (policy, record, loaded.spec)
    }

    fn page(
        policy: &Policy,
        spec: &VitSpec,
        record: Option<&Calibration>,
        base_model: Option<&str>,
    ) -> String {
        let (read_out, policy) = (policy.read_out.to_string(), AnyPolicy::from(policy.clone()));
        card(&Card {
            policy: &policy,
            read_out: &read_out,
            calibration: record,
            base_model,
            model: None,
            img_size: Some([160, 224]),
            of_texts: false,
            spec,
        })
        .unwrap()
    }

    #[test]
    fn the_card_has_the_records_figures() {
        let (policy, mut record, spec) = calibrated(true, true);
        let page = |record: &Calibration| page(&policy, &spec, Some(record), Some("timm/vit"));
        record.dtype = Precision::Bf16;
        assert!(
            page(&record).contains(
                "vitrim eval --model hf://timm/vit --img-size 160x224 --dtype bf16 --data path/to/images --policy \
                 hf://OWNER/NAME\n"
            )
        );
        record.dtype = Precision::F32;
        let page = page(&record);
        let front = page.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap().0;
        for line in [
            "library_name: vitrim",
            "base_model: \"timm/vit\"",
            "      name: \"photos \\\"of\\\" cats\"",
            "    - type: \"top-1 drop, pp\"\n      value: 0.40",
            "    - type: \"MACs, % of dense\"\n      value: 75.00",
        ] {
            assert!(front.contains(line), "no `{line}` in {front}");
        }
        for text in [
            "Measured on 1000 images of `validation`",
            "| at `threshold=0.5` |",
            "| top-1 drop, pp [95 % interval] | 0.40 [",
            "| GMACs an image | 0.938 |",
            "| patch tokens kept after each stage | 0.750 0.375 0.188 |",
            "| 0.7 | 3.80 [",
            "at the input of block 3, the input of block 6, the input of block 9 it decides",
            "vitrim predict --model hf://timm/vit --img-size 160x224 --policy hf://OWNER/NAME photo.jpg\n",
        ] {
            assert!(page.contains(text), "no `{text}` in {page}");
        }
        assert!(
            !page.contains("| 0.3 |") && page.contains("| 0.4 |"),
            "thresholds that decide alike are one row"
        );
    }

    #[test]
    fn what_is_not_known_is_not_claimed() {
        let (policy, record, spec) = calibrated(false, false);
        let uncertified = page(&policy, &spec, Some(&record), None);
        assert!(uncertified.contains("set to keep everything") && uncertified.contains("had no labels"));
        assert!(uncertified.contains("top-1 disagreement, %") && !uncertified.contains("model-index"));
        assert!(uncertified.contains("--model path/to/backbone") && !uncertified.contains("base_model"));
        let bare = page(&policy, &spec, None, None);
        assert!(bare.contains("Not calibrated: no drop is known") && !bare.contains("model-index"), "{bare}");
    }

    #[test]
    fn a_merging_policy_is_said_to_merge() {
        let (mut policy, _, spec) = calibrated(true, true);
        policy.departure = Departure::Merge;
        let page = page(&policy, &spec, None, None);
        assert!(
            page.contains("at the attention output of block 3,") && page.contains("They are merged"),
            "{page}"
        );
    }
}
