//! Selects the files of a repository that are needed.

use std::collections::BTreeSet;

use crate::error::{HubError, Result};
use crate::kind::Kind;
use crate::reference::Reference;

/// Largest number of file names in an error.
const SHOWN: usize = 8;
/// Extensions of image files.
const IMAGES: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff"];
/// Extensions of files with labels.
const LABELS: [&str; 3] = ["csv", "jsonl", "json"];

/// open_clip's names of weights.
const OPEN_CLIP: [&str; 2] = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"];
/// Ends of names of files of weights.
const WEIGHTS: [&str; 5] = [".pth", ".pt", ".ckpt", ".pth.tar", ".safetensors"];
/// Beginnings of names of what a training script saves beside the weights.
const NOT_WEIGHTS: [&str; 6] =
    ["optimizer", "scheduler", "rng_state", "random_states", "training_args", "scaler"];

/// The files to fetch, and what to open afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Paths in the repository.
    pub files: Vec<String>,
    /// The folder or file among them that is opened; empty for the repository's root.
    pub root: String,
}

/// Selects, from all file names `names` of a repository, those that a `kind` needs at the reference's path.
///
/// # Errors
/// [`HubError::NoSuchFile`] if one is missing, [`HubError::Ambiguous`] if a data set has several folders of
/// shards.
pub(crate) fn select(kind: Kind, reference: &Reference, names: &[String]) -> Result<Selection> {
    let at = &reference.path;
    if kind == Kind::Data && names.iter().any(|name| name == at) {
        return Ok(Selection { files: vec![at.clone()], root: at.clone() });
    }
    let prefix = if at.is_empty() { String::new() } else { format!("{at}/") };
    let below: Vec<&str> = names.iter().filter_map(|name| name.strip_prefix(prefix.as_str())).collect();
    let lacking = |wanted: &str| HubError::NoSuchFile {
        uri: reference.to_string(),
        repo: reference.repo.words(),
        wanted: format!("{prefix}{wanted}"),
        has: listed(names),
    };
    let (files, folder) = match kind {
        Kind::Model => (model(&below).map_err(lacking)?, String::new()),
        Kind::Policy => {
            let wanted = ["policy.json", "policy.safetensors"];
            if let Some(missing) = wanted.iter().find(|name| !below.contains(name)) {
                return Err(lacking(missing));
            }
            (wanted.to_vec(), String::new())
        }
        Kind::Data => data(&below, reference, &lacking)?,
    };
    let root = match (at.is_empty(), folder.is_empty()) {
        (_, true) => at.clone(),
        (true, false) => folder,
        (false, false) => format!("{at}/{folder}"),
    };
    Ok(Selection { files: files.into_iter().map(|name| format!("{prefix}{name}")).collect(), root })
}

/// The weights are last: if they are present, so are the other files. `Err` is the missing file.
fn model<'a>(names: &[&'a str]) -> Result<Vec<&'a str>, &'static str> {
    let find = |wanted: &str| names.iter().copied().find(|name| *name == wanted);
    let config = find("config.json").or_else(|| find("open_clip_config.json"));
    let mut files = vec![config.ok_or("config.json")?];
    files.extend(find("preprocessor_config.json"));
    let here = || names.iter().copied().filter(|name| !name.contains('/'));
    if let Some(whole) = find("model.safetensors") {
        files.push(whole);
    } else if let Some(index) = find("model.safetensors.index.json") {
        files.push(index);
        files.extend(here().filter(|name| name.starts_with("model-") && name.ends_with(".safetensors")));
    } else if let Some(pickle) = find("pytorch_model.bin") {
        files.push(pickle);
    } else if let Some(index) = find("pytorch_model.bin.index.json") {
        files.push(index);
        files.extend(here().filter(|name| name.starts_with("pytorch_model-") && name.ends_with(".bin")));
    } else if let Some(tower) = OPEN_CLIP.into_iter().find_map(find) {
        files.push(tower);
    } else {
        let holds = |name: &&str| WEIGHTS.iter().any(|end| name.ends_with(end));
        let trains = |name: &&str| NOT_WEIGHTS.iter().any(|start| name.starts_with(start));
        let found: Vec<&str> = here().filter(|name| holds(name) && !trains(name)).collect();
        let [weights] = found.as_slice() else {
            return Err(
                "model.safetensors (nor an index of shards, pytorch_model.bin or a single .pth, .pt, .ckpt, \
                        .pth.tar or .safetensors)",
            );
        };
        files.push(weights);
    }
    Ok(files)
}

/// The files, and their folder if it is neither the root nor its `data/`.
fn data<'a>(
    names: &[&'a str],
    reference: &Reference,
    lacking: &dyn Fn(&str) -> HubError,
) -> Result<(Vec<&'a str>, String)> {
    for shards in ["parquet", "tar"] {
        let found: Vec<&str> = names.iter().copied().filter(|name| has_extension(name, &[shards])).collect();
        let folders: BTreeSet<&str> = found.iter().map(|name| parent(name)).collect();
        let folder = match folders.iter().copied().collect::<Vec<_>>().as_slice() {
            [] => continue,
            all if all.contains(&"") => "",
            all if all.contains(&"data") => "data",
            [only] => only,
            several => {
                return Err(HubError::Ambiguous {
                    uri: reference.to_string(),
                    example: several[0].to_owned(),
                    folders: several.join(", "),
                });
            }
        };
        let files = found.into_iter().filter(|name| parent(name) == folder).collect();
        return Ok((files, if folder == "data" { String::new() } else { folder.to_owned() }));
    }
    if !names.iter().any(|name| has_extension(name, &IMAGES)) {
        return Err(lacking("parquet files, tar shards or images"));
    }
    let wanted = |name: &&str| has_extension(name, &IMAGES) || has_extension(name, &LABELS);
    Ok((names.iter().copied().filter(wanted).collect(), String::new()))
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn has_extension(name: &str, extensions: &[&str]) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    let extension = file.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).map(|(_, e)| e.to_lowercase());
    extension.is_some_and(|extension| extensions.contains(&extension.as_str()))
}

fn listed(names: &[String]) -> String {
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "no files".to_owned(),
        count if count > SHOWN => format!("{shown} and {} more", count - SHOWN),
        _ => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(given: &str, kind: Kind, names: &[&str]) -> Result<Selection> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        select(kind, &Reference::parse(given, kind).unwrap(), &names)
    }

    fn files(given: &str, kind: Kind, names: &[&str]) -> Vec<String> {
        selected(given, kind, names).unwrap().files
    }

    #[test]
    fn a_model_takes_one_copy_of_its_weights() {
        let of = |names: &[&str]| files("hf://a/b", Kind::Model, names);
        assert_eq!(
            of(&["pytorch_model.bin", "README.md", "model.safetensors", "config.json"]),
            ["config.json", "model.safetensors"]
        );
        let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        let all = ["config.json", "preprocessor_config.json", "model.safetensors.index.json"];
        assert_eq!(of(&[&shards[..], &all].concat()), [&all[..], &shards].concat());
        assert_eq!(of(&["config.json", "pytorch_model.bin"]), ["config.json", "pytorch_model.bin"]);
        let pickles = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"];
        let index = ["config.json", "pytorch_model.bin.index.json"];
        assert_eq!(of(&[&pickles[..], &index].concat()), [&index[..], &pickles].concat());
        assert_eq!(of(&["config.json", "deit.pth", "old/deit.pth"]), ["config.json", "deit.pth"]);
        for weights in ["model_best.pth.tar", "last.ckpt", "checkpoint.pt", "vit.safetensors"] {
            assert_eq!(of(&["config.json", "optimizer.pt", weights]), ["config.json", weights]);
        }
        let open_clip = ["open_clip_config.json", "open_clip_model.safetensors"];
        assert_eq!(
            of(&[&["open_clip_pytorch_model.bin", "tokenizer.json"], &open_clip[..]].concat()),
            open_clip
        );
        let sub =
            selected("hf://a/b/sub", Kind::Model, &["sub/config.json", "sub/model.safetensors"]).unwrap();
        assert_eq!((sub.files.len(), sub.root.as_str()), (2, "sub"));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |given: &str, kind, names: &[&str]| selected(given, kind, names).unwrap_err().to_string();
        let no_weights = error("hf://a/b", Kind::Model, &["config.json", "x.onnx"]);
        assert!(no_weights.contains("no model.safetensors") && no_weights.contains("x.onnx"), "{no_weights}");
        assert!(error("hf://a/b", Kind::Model, &["model.safetensors"]).contains("no config.json"));
        assert!(error("hf://a/b", Kind::Policy, &["policy.json"]).contains("no policy.safetensors"));
        assert!(error("hf://a/b", Kind::Data, &[]).contains("it has no files"));
        let many: Vec<String> = (0..20).map(|i| format!("f{i}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(error("hf://a/b", Kind::Data, &many).contains("f7 and 12 more"));
    }

    #[test]
    fn data_are_shards_or_images() {
        let of = |given: &str, names: &[&str]| {
            let Selection { files, root } = selected(given, Kind::Data, names).unwrap();
            (files.len(), root)
        };
        let both = ["data/train-0.parquet", "data/test-0.parquet", "README.md", "a/x.parquet", "x.jpg"];
        assert_eq!(of("hf://a/b", &both), (2, String::new()));
        assert_eq!(of("hf://a/b", &["plain_text/train-0.parquet"]), (1, "plain_text".into()));
        assert_eq!(of("hf://a/b/data/test-0.parquet", &both), (1, "data/test-0.parquet".into()));
        assert_eq!(of("hf://a/b/a", &both), (1, "a".into()));
        assert_eq!(of("hf://a/b", &["train-0.tar", "train-1.tar"]), (2, String::new()));
        let images = ["train/cat/a b.JPG", "train/dog/1.png", "metadata.csv", "README.md", ".gitattributes"];
        assert_eq!(of("hf://a/b", &images), (3, String::new()));
        let error =
            selected("hf://a/b", Kind::Data, &["x/0.parquet", "y/0.parquet"]).unwrap_err().to_string();
        assert!(error.contains("as in hf://datasets/a/b/x (there are x, y)"), "{error}");
    }
}
