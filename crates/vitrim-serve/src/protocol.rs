//! The Open Inference Protocol (KServe v2), as REST and gRPC share it: tensors in, tensors out.
//!
//! A model takes `pixel_values`, FP32 `[n, 3, H, W]`, normalised as the checkpoint asks; or `images`, BYTES `[n]`, encoded
//! images, which are decoded, resized, cropped and normalised here. It gives `logits` (with classes), `features` (pooled) or
//! `embedding` (with a projection), all FP32 `[n, ...]`; `gmacs`, FP32 `[n]`; and `operating_point`, BYTES `[n]`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::Serialize;
use vitrim_measure::model::features::{FeatureKind, Features};

use crate::app::{App, Given, Request};
use crate::engine::{Ask, Engine};
use crate::points::Limits;
use crate::refusal::Refusal;
use crate::scheduler::Served;

/// Extensions that the server has.
pub const EXTENSIONS: [&str; 2] = ["binary_tensor_data", "model_repository"];
/// The platform in a model's metadata.
pub const PLATFORM: &str = "vitrim";
/// Input: normalised pixels.
const PIXELS: &str = "pixel_values";
/// Input: encoded images.
const IMAGES: &str = "images";

/// A tensor of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// `FP32` or `BYTES`.
    pub datatype: String,
    /// Its shape.
    pub shape: Vec<i64>,
    /// Its values.
    pub data: Data,
}

/// The values of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// As in the binary extension: little endian, row-major; each element of BYTES after its length in 4 bytes.
    Raw(Bytes),
    /// Numbers, row-major.
    Numbers(Vec<f32>),
    /// Elements of BYTES.
    Elements(Vec<Bytes>),
}

/// A request for inference.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Infer {
    /// The inputs: one of the two that a model takes.
    pub inputs: Vec<Tensor>,
    /// Names of the outputs; empty for the model's usual ones.
    pub outputs: Vec<String>,
    /// The loss and the cost that are allowed.
    pub limits: Limits,
    /// How long the client waits.
    pub timeout: Option<Duration>,
}

/// A tensor of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// Its name.
    pub name: &'static str,
    /// Its shape.
    pub shape: Vec<i64>,
    /// Its values.
    pub values: Values,
}

/// The values of an output; in JSON, a flat list.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Values {
    /// FP32, row-major.
    Numbers(Vec<f32>),
    /// BYTES.
    Texts(Vec<String>),
}

impl Values {
    /// `FP32` or `BYTES`.
    pub fn datatype(&self) -> &'static str {
        match self {
            Values::Numbers(_) => "FP32",
            Values::Texts(_) => "BYTES",
        }
    }

    /// The bytes of the binary extension.
    pub fn raw(&self) -> Vec<u8> {
        match self {
            Values::Numbers(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Values::Texts(texts) => {
                let length = |text: &String| u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
                texts.iter().flat_map(|text| length(text).into_iter().chain(text.bytes())).collect()
            }
        }
    }
}

/// Name, datatype and shape of a tensor in a model's metadata; -1 for the number of images.
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// Its datatype.
    pub datatype: &'static str,
    /// Its shape.
    pub shape: Vec<i64>,
}

/// The inputs of `engine`, of which a request gives one.
pub fn inputs(engine: &Engine) -> Vec<Described> {
    let [height, width] = engine.spec().img_size.map(as_i64);
    vec![
        Described { name: PIXELS, datatype: "FP32", shape: vec![-1, 3, height, width] },
        Described { name: IMAGES, datatype: "BYTES", shape: vec![-1] },
    ]
}

/// The outputs of `engine`.
pub fn outputs(engine: &Engine) -> Vec<Described> {
    let spec = engine.spec();
    let mut outputs = Vec::new();
    if spec.num_classes > 0 {
        outputs.push(Described {
            name: "logits",
            datatype: "FP32",
            shape: vec![-1, as_i64(spec.num_classes)],
        });
    }
    if let Some(width) = spec.pooling.projection {
        outputs.push(Described { name: "embedding", datatype: "FP32", shape: vec![-1, as_i64(width)] });
    }
    let features = vec![-1, as_i64(spec.num_features())];
    outputs.push(Described { name: "features", datatype: "FP32", shape: features });
    outputs.push(Described { name: "gmacs", datatype: "FP32", shape: vec![-1] });
    outputs.push(Described { name: "operating_point", datatype: "BYTES", shape: vec![-1] });
    outputs
}

fn as_i64(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Answers `infer`, which arrived at `arrived`, by the model at `index`, whose engine is `engine`.
///
/// # Errors
/// If its tensors are not what the model takes or gives, or it is refused.
pub async fn infer(
    app: &App,
    index: usize,
    engine: &Arc<Engine>,
    infer: Infer,
    arrived: Instant,
) -> Result<(Vec<Output>, Vec<Served>), Refusal> {
    let mut names: Vec<&str> = infer.outputs.iter().map(String::as_str).collect();
    let usual = match (engine.answer().features, engine.spec().num_classes) {
        (Some(FeatureKind::Embedding), 0) => "embedding",
        (_, 0) => "features",
        _ => "logits",
    };
    if names.is_empty() {
        names = vec![usual, "gmacs", "operating_point"];
    }
    let known = outputs(engine);
    if let Some(unknown) = names.iter().find(|name| known.iter().all(|output| output.name != **name)) {
        let all: Vec<&str> = known.iter().map(|output| output.name).collect();
        return Err(Refusal::Invalid(format!("no output {unknown}; the model gives {}", all.join(", "))));
    }
    let features = match (names.contains(&"features"), names.contains(&"embedding")) {
        (true, true) => {
            let line = "features and embedding in one request; ask for one of them";
            return Err(Refusal::Invalid(line.into()));
        }
        (true, false) => Some(FeatureKind::Pooled),
        (false, true) => Some(FeatureKind::Embedding),
        (false, false) => None,
    };
    let logits = names.contains(&"logits");
    let ask = if logits || features.is_some() { Ask { logits, features } } else { engine.answer() };
    let most = app.config.max_images;
    let request = Request {
        model: index,
        engine: Arc::clone(engine),
        images: images(engine, infer.inputs, most)?,
        ask,
        limits: infer.limits,
        deadline: app.deadline(arrived, infer.timeout),
    };
    let served = app.answer(request).await?;
    let of = |name: &&str| output(known.iter().find(|output| output.name == *name)?.name, engine, &served);
    Ok((names.iter().filter_map(of).collect(), served))
}

/// The output called `name` of the images that were `served`.
fn output(name: &'static str, engine: &Engine, served: &[Served]) -> Option<Output> {
    let n = as_i64(served.len());
    let rows = |row: fn(&Served) -> &[f32]| {
        let width = served.first().map_or(0, |image| row(image).len());
        let values = served.iter().flat_map(row).copied().collect();
        Some(Output { name, shape: vec![n, as_i64(width)], values: Values::Numbers(values) })
    };
    match name {
        "logits" => rows(|image| image.outcome.logits.as_deref().unwrap_or_default()),
        "features" | "embedding" => rows(|image| pooled(image)),
        "gmacs" => {
            let values = served.iter().map(|image| (image.outcome.macs as f64 / 1e9) as f32).collect();
            Some(Output { name, shape: vec![n], values: Values::Numbers(values) })
        }
        "operating_point" => {
            let texts = served.iter().map(|image| engine.ladder.points[image.point].name.clone()).collect();
            Some(Output { name, shape: vec![n], values: Values::Texts(texts) })
        }
        _ => None,
    }
}

/// The pooled features or the embedding of an image; empty if they were not computed.
pub fn pooled(served: &Served) -> &[f32] {
    match &served.outcome.features {
        Some(Features::Pooled(values) | Features::Embedding(values)) => values,
        _ => &[],
    }
}

/// The images in `inputs`, at most `most`.
fn images(engine: &Engine, mut inputs: Vec<Tensor>, most: usize) -> Result<Vec<Given>, Refusal> {
    let (Some(tensor), true) = (inputs.pop(), inputs.is_empty()) else {
        return Err(Refusal::Invalid(format!("give one input, {PIXELS} or {IMAGES}")));
    };
    let Tensor { name, datatype, shape, data } = tensor;
    let wrong = |line: String| Err(Refusal::Invalid(format!("input {name}: {line}")));
    let Some(n) = shape.first().and_then(|n| usize::try_from(*n).ok()) else {
        return wrong(format!("shape {shape:?} has no number of images"));
    };
    if n > most {
        return Err(Refusal::TooLarge(format!(
            "{n} images in one request, and this server takes up to {most} (--max-images); send fewer at once"
        )));
    }
    match (name.as_str(), datatype.as_str()) {
        (PIXELS, "FP32") => {
            let [height, width] = engine.spec().img_size.map(as_i64);
            if shape[1..] != [3, height, width] {
                return wrong(format!("shape {shape:?}, and the model takes [n, 3, {height}, {width}]"));
            }
            let values = match data {
                Data::Numbers(values) => values,
                Data::Raw(bytes) => {
                    let four =
                        |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().expect("chunks of 4 bytes"));
                    if bytes.len() % 4 != 0 {
                        return wrong(format!("{} bytes are no whole number of FP32 values", bytes.len()));
                    }
                    bytes.chunks_exact(4).map(four).collect()
                }
                Data::Elements(_) => return wrong("FP32 values are numbers".into()),
            };
            let each = engine.values();
            if values.len() != n * each {
                return wrong(format!("{} values for shape {shape:?}, which has {}", values.len(), n * each));
            }
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                return wrong(format!("value {at} is not finite"));
            }
            if n == 1 {
                return Ok(vec![Given::Pixels(values)]);
            }
            Ok(values.chunks_exact(each).map(|image| Given::Pixels(image.to_vec())).collect())
        }
        (IMAGES, "BYTES") => {
            if shape[1..].iter().any(|length| *length != 1) {
                return wrong(format!("shape {shape:?}, and the model takes [n]"));
            }
            let elements = match data {
                Data::Elements(elements) => elements,
                Data::Raw(bytes) => match split(bytes, most) {
                    Ok(elements) => elements,
                    Err(line) => return wrong(line),
                },
                Data::Numbers(_) => return wrong("BYTES are strings".into()),
            };
            if elements.len() != n {
                return wrong(format!("{} elements for shape {shape:?}", elements.len()));
            }
            let given = |(at, bytes)| Given::Encoded(format!("image {at}"), bytes);
            Ok(elements.into_iter().enumerate().map(given).collect())
        }
        (PIXELS | IMAGES, datatype) => {
            wrong(format!("datatype {datatype}; {PIXELS} is FP32, {IMAGES} is BYTES"))
        }
        _ => wrong(format!("no such input; give {PIXELS} or {IMAGES}")),
    }
}

/// The elements of BYTES in the binary extension: each after its length in 4 bytes, little endian.
fn split(mut bytes: Bytes, most: usize) -> Result<Vec<Bytes>, String> {
    let mut elements = Vec::new();
    while !bytes.is_empty() {
        let length = bytes.get(..4).map(|length| u32::from_le_bytes(length.try_into().expect("4 bytes")));
        let Some(length) = length.and_then(|length| usize::try_from(length).ok()) else {
            return Err("breaks off within the length of an element".into());
        };
        if bytes.len() - 4 < length {
            return Err(format!("an element of {length} bytes, and {} are left", bytes.len() - 4));
        }
        if elements.len() == most {
            return Err(format!("more than {most} elements"));
        }
        let _ = bytes.split_to(4);
        elements.push(bytes.split_to(length));
    }
    Ok(elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_split_by_their_lengths() {
        let raw = Bytes::from_static(b"\x02\0\0\0ab\0\0\0\0\x01\0\0\0c");
        assert_eq!(split(raw.clone(), 3).unwrap(), [&b"ab"[..], b"", b"c"]);
        assert!(split(raw.clone(), 2).unwrap_err().contains("more than 2"));
        assert!(split(raw.slice(..14), 9).unwrap_err().contains("an element of 1 bytes, and 0 are left"));
        assert!(split(raw.slice(..2), 9).unwrap_err().contains("breaks off"));
        assert!(split(Bytes::from_static(b"\xff\xff\xff\xff"), 9).is_err());
    }

    #[test]
    fn texts_are_written_after_their_lengths() {
        assert_eq!(Values::Texts(vec!["ab".into(), String::new()]).raw(), b"\x02\0\0\0ab\0\0\0\0");
        assert_eq!(Values::Numbers(vec![1.0]).raw(), 1f32.to_le_bytes());
    }
}
