//! References against a Hub on this machine: what is asked for, what the cache holds, and what goes wrong.

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vitrim_hub::{Hub, HubError, Kind, Reference, Settings};
use vitrim_hub_server::{Faults, Files, Server, sha256};

const MODEL: &str = "models/timm/deit";

/// A Hub, and an empty cache.
struct World {
    server: Option<Server>,
    settings: Settings,
    _cache: TempDir,
}

impl World {
    fn new() -> Self {
        let server = Server::start();
        let cache = tempfile::tempdir().unwrap();
        let (endpoint, home) = (server.endpoint(), cache.path().to_owned());
        let settings = Settings::from_variables(|name| match name {
            "HF_ENDPOINT" => Some(endpoint.clone().into()),
            "HF_HOME" => Some(home.clone().into()),
            _ => None,
        })
        .unwrap();
        World { server: Some(server), settings, _cache: cache }
    }

    /// With a checkpoint on the Hub.
    fn with_model() -> (Self, String) {
        let world = World::new();
        let commit = world.server().push(MODEL, model(1));
        (world, commit)
    }

    fn server(&self) -> &Server {
        self.server.as_ref().unwrap()
    }

    fn fetch(&self, given: &str, kind: Kind) -> Result<PathBuf, HubError> {
        Hub::new(self.settings.clone()).fetch(&Reference::parse(given, kind).unwrap(), kind)
    }

    fn refused(&self, given: &str, kind: Kind, words: &[&str]) {
        let error = self.fetch(given, kind).unwrap_err().to_string();
        assert!(error.starts_with(given) && !error.contains('\n'), "{error}");
        for word in words {
            assert!(error.contains(word), "no `{word}` in {error}");
        }
    }

    /// What was asked for since the last call, without commits.
    fn asked(&self) -> Vec<String> {
        let is_commit = |part: &&str| part.len() == 40 && part.bytes().all(|b| b.is_ascii_hexdigit());
        let plain = |target: &str| {
            let parts = target.split('/').map(|part| if is_commit(&part) { "*" } else { part });
            parts.collect::<Vec<_>>().join("/")
        };
        let mut asked: Vec<String> = self.server().asked().iter().map(|asked| plain(&asked.target)).collect();
        asked.sort();
        asked
    }

    fn blobs(&self) -> Vec<String> {
        let folder = self.settings.cache.join("models--timm--deit/blobs");
        let Ok(entries) = folder.read_dir() else { return Vec::new() };
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn files(files: &[(&str, &[u8])]) -> Files {
    files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect()
}

fn weights(salt: u8) -> Vec<u8> {
    (0..600_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 ^ salt).collect()
}

fn model(salt: u8) -> Files {
    files(&[
        ("README.md", b"# A card"),
        ("config.json", &[b'{', salt, b'}']),
        ("model.safetensors", &weights(salt)),
        ("pytorch_model.bin", b"the same again"),
    ])
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    std::fs::read(folder.join(name)).unwrap()
}

#[test]
fn a_model_comes_once_and_as_the_hubs_own_cache_has_it() {
    let (world, commit) = World::with_model();
    let folder = world.fetch("hf://timm/deit", Kind::Model).unwrap();
    let repo = world.settings.cache.join("models--timm--deit");
    assert_eq!(folder, repo.join("snapshots").join(&commit));
    assert_eq!(read(&folder, "model.safetensors"), weights(1));
    assert_eq!(read(&folder, "config.json"), [b'{', 1, b'}']);
    assert!(!folder.join("README.md").exists() && !folder.join("pytorch_model.bin").exists());
    let (small, large) = (sha256(&[b'{', 1, b'}'])[..40].to_owned(), sha256(&weights(1)));
    let mut blobs = vec![small, large.clone()];
    blobs.sort();
    assert_eq!(world.blobs(), blobs);
    assert_eq!(std::fs::read_to_string(repo.join("refs/main")).unwrap(), commit);
    let link = std::fs::read_link(folder.join("model.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(&large));
    let list = "/api/models/timm/deit/revision/main?blobs=true".to_owned();
    let get = |name: &str| format!("/timm/deit/resolve/*/{name}");
    assert_eq!(
        world.asked(),
        [list.clone(), format!("/large/{large}"), get("config.json"), get("model.safetensors")]
    );

    // Where the branch stands is asked again, its bytes are not; a commit never moves.
    assert_eq!(world.fetch("hf://timm/deit", Kind::Model).unwrap(), folder);
    assert_eq!(world.asked(), [list]);
    assert_eq!(world.fetch(&format!("hf://timm/deit@{commit}"), Kind::Model).unwrap(), folder);
    assert_eq!(world.asked(), [""; 0]);
}

#[test]
fn revisions_are_told_apart_and_a_branch_moves_on() {
    let (world, first) = World::with_model();
    world.server().branch(MODEL, "old/one");
    let old = world.fetch("hf://timm/deit", Kind::Model).unwrap();
    let second = world.server().push(MODEL, model(2));
    assert_ne!(first, second);
    let new = world.fetch("hf://timm/deit", Kind::Model).unwrap();
    assert_eq!((read(&new, "config.json")[1], read(&old, "config.json")[1]), (2, 1));
    assert_eq!(read(&new, "model.safetensors"), weights(2));
    for revision in ["old%2Fone".to_owned(), first] {
        assert_eq!(world.fetch(&format!("hf://timm/deit@{revision}"), Kind::Model).unwrap(), old);
    }
    world.refused("hf://timm/deit@v9", Kind::Model, &["no revision v9"]);
}

#[test]
fn offline_the_cache_serves_and_what_it_lacks_is_said() {
    let (mut world, _) = World::with_model();
    world.settings.offline = Some("HF_HUB_OFFLINE");
    let cache = world.settings.cache.to_str().unwrap().to_owned();
    let words =
        ["HF_HUB_OFFLINE is set", cache.as_str(), "run once without it", "put the files into a folder"];
    world.refused("hf://timm/deit", Kind::Model, &words);
    world.settings.offline = None;
    assert_eq!(world.asked(), [""; 0], "offline is offline");
    let folder = world.fetch("hf://timm/deit", Kind::Model).unwrap();
    world.asked();
    world.settings.offline = Some("HF_HUB_OFFLINE");
    assert_eq!(world.fetch("hf://timm/deit", Kind::Model).unwrap(), folder);
    world.refused("hf://timm/deit@v2", Kind::Model, &["HF_HUB_OFFLINE is set"]);
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    world.refused("hf://timm/deit", Kind::Model, &["lacks its model.safetensors", "run once without it"]);
    assert_eq!(world.asked(), [""; 0], "offline is offline");
}

#[test]
fn offline_the_variable_that_asked_for_it_is_named() {
    let (mut world, _) = World::with_model();
    world.settings.offline = Some("TRANSFORMERS_OFFLINE");
    world.refused("hf://timm/deit", Kind::Model, &["TRANSFORMERS_OFFLINE is set", "lacks it"]);
    world.settings.offline = None;
    world.settings.offline_data = Some("HF_DATASETS_OFFLINE");
    world.refused("hf://datasets/me/photos", Kind::Data, &["HF_DATASETS_OFFLINE is set", "lacks it"]);
    assert_eq!(world.asked(), [""; 0]);
    world.fetch("hf://timm/deit", Kind::Model).unwrap();
}

#[test]
fn what_python_has_fetched_serves_offline() {
    let mut world = World::new();
    world.settings.offline = Some("HF_HUB_OFFLINE");
    let repo = world.settings.cache.join("models--timm--deit");
    let snapshot = repo.join("snapshots/abc");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(repo.join("refs")).unwrap();
    std::fs::write(repo.join("refs/main"), "abc").unwrap();
    std::fs::write(snapshot.join("config.json"), "{}").unwrap();
    world.refused("hf://timm/deit", Kind::Model, &["lacks its model.safetensors"]);
    std::fs::write(snapshot.join("model.safetensors"), "weights").unwrap();
    assert_eq!(world.fetch("hf://timm/deit", Kind::Model).unwrap(), snapshot);
}

#[test]
fn without_an_answer_the_cache_serves() {
    let (mut world, _) = World::with_model();
    let folder = world.fetch("hf://timm/deit", Kind::Model).unwrap();
    world.server().fail(Faults { status: Some(503), ..Faults::default() });
    assert_eq!(world.fetch("hf://timm/deit", Kind::Model).unwrap(), folder);
    world.refused("hf://timm/other", Kind::Model, &["answers 503", "try again later"]);
    world.server = None;
    assert_eq!(world.fetch("hf://timm/deit", Kind::Model).unwrap(), folder);
    let endpoint = world.settings.endpoint.clone();
    let words = ["no answer from", endpoint.as_str(), "no whole copy in the cache", "check the connection"];
    world.refused("hf://timm/other", Kind::Model, &words);
}

#[test]
fn the_token_goes_to_the_hub_and_no_further() {
    let (mut world, _) = World::with_model();
    world.server().guard(MODEL, "hf_mine");
    world.refused("hf://timm/deit", Kind::Model, &["answers 401", "HF_TOKEN", "hf auth login"]);
    world.settings.token = Some("hf_other".to_owned());
    world.refused("hf://timm/deit", Kind::Model, &["answers 403", "accept its terms"]);
    world.refused("hf://timm/none", Kind::Model, &["no such model repository", "check both names"]);
    world.server().asked();
    world.settings.token = Some("hf_mine".to_owned());
    world.fetch("hf://timm/deit", Kind::Model).unwrap();
    let asked = world.server().asked();
    assert_eq!(asked.len(), 4);
    for asked in asked {
        let expected = (!asked.target.starts_with("/large/")).then(|| "hf_mine".to_owned());
        assert_eq!(asked.token, expected, "{}", asked.target);
    }
}

#[test]
fn a_download_that_breaks_off_goes_on() {
    let (world, _) = World::with_model();
    world.server().fail(Faults { break_off: 2, ..Faults::default() });
    let folder = world.fetch("hf://timm/deit", Kind::Model).unwrap();
    assert_eq!(read(&folder, "model.safetensors"), weights(1));
    let large = world.server().asked().into_iter().filter(|asked| asked.target.starts_with("/large/"));
    let from: Vec<_> = large.map(|asked| asked.from).collect();
    assert_eq!(from, [None, Some(300_000), Some(450_000)]);

    // Three times in a row are too often, but what came is kept for the next run.
    let (world, _) = World::with_model();
    world.server().fail(Faults { break_off: 3, ..Faults::default() });
    world.refused(
        "hf://timm/deit",
        Kind::Model,
        &["model.safetensors", "broke off after 525000 of 600000 bytes"],
    );
    world.server().asked();
    let folder = world.fetch("hf://timm/deit", Kind::Model).unwrap();
    assert_eq!(read(&folder, "model.safetensors"), weights(1));
    assert!(world.server().asked().iter().any(|asked| asked.from == Some(525_000)));

    // Some servers begin again.
    let (world, _) = World::with_model();
    world.server().fail(Faults { break_off: 1, no_ranges: true, ..Faults::default() });
    let folder = world.fetch("hf://timm/deit", Kind::Model).unwrap();
    assert_eq!(read(&folder, "model.safetensors"), weights(1));
}

#[test]
fn bytes_that_are_not_what_was_announced_stay_out() {
    let (world, _) = World::with_model();
    world.server().fail(Faults { damage: true, ..Faults::default() });
    world.refused("hf://timm/deit", Kind::Model, &["model.safetensors", "SHA-256", "fetch it anew"]);
    assert!(!world.blobs().contains(&sha256(&weights(1))));
    assert!(!world.settings.cache.join("models--timm--deit/refs/main").exists(), "not whole, not named");
    world.server().fail(Faults::default());
    let folder = world.fetch("hf://timm/deit", Kind::Model).unwrap();
    assert_eq!(read(&folder, "model.safetensors"), weights(1));
}

#[test]
fn a_mirror_that_lists_names_alone_serves() {
    let (world, _) = World::with_model();
    world.server().fail(Faults { plain_listing: true, ..Faults::default() });
    let folder = world.fetch("hf://timm/deit", Kind::Model).unwrap();
    assert_eq!(read(&folder, "model.safetensors"), weights(1));
    assert!(world.blobs().contains(&sha256(&weights(1))));
}

#[test]
fn names_that_lead_out_of_the_cache_are_refused() {
    let world = World::new();
    world.server().push(MODEL, files(&[("config.json", b"{}"), ("../../model.safetensors", b"x")]));
    world.refused(
        "hf://timm/deit",
        Kind::Model,
        &["`../../model.safetensors` as a file's name", "HF_ENDPOINT"],
    );
    assert_eq!(world.blobs(), [""; 0]);
}

#[test]
fn what_is_missing_is_named() {
    let world = World::new();
    world.server().push(MODEL, files(&[("config.json", b"{}"), ("README.md", b"#")]));
    world.refused("hf://timm/deit", Kind::Model, &["no model.safetensors", "README.md, config.json"]);
    world.refused("hf://timm/deit", Kind::Policy, &["no policy.json"]);
}

#[test]
fn data_sets_come_with_odd_names_and_from_sub_folders() {
    let world = World::new();
    let data = files(&[
        ("README.md", b"#"),
        ("data/train-00000 of 2.parquet", b"one"),
        ("data/train-00001 of 2.parquet", b"two"),
        ("small/test #1.parquet", b"three"),
    ]);
    world.server().push("datasets/me/photos", data);
    let folder = world.fetch("hf://datasets/me/photos", Kind::Data).unwrap();
    assert_eq!(read(&folder, "data/train-00001 of 2.parquet"), b"two");
    assert!(!folder.join("small").exists() && !folder.join("README.md").exists());
    let small = world.fetch("hf://me/photos/small", Kind::Data).unwrap();
    assert_eq!(
        (small.as_path(), read(&small, "test #1.parquet")),
        (folder.join("small").as_path(), b"three".to_vec())
    );
    let link = std::fs::read_link(small.join("test #1.parquet")).unwrap();
    assert_eq!(link, Path::new("../../../blobs").join(sha256(b"three")));
    let one = world.fetch("hf://datasets/me/photos/small/test #1.parquet", Kind::Data).unwrap();
    assert_eq!(one, small.join("test #1.parquet"));
}

#[test]
fn two_at_once_fetch_the_bytes_once() {
    let (world, _) = World::with_model();
    let folders: Vec<PathBuf> = std::thread::scope(|scope| {
        let fetch = || world.fetch("hf://timm/deit", Kind::Model).unwrap();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(fetch)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(folders.iter().all(|folder| read(folder, "model.safetensors") == weights(1)));
    let large = world.asked().iter().filter(|target| target.starts_with("/large/")).count();
    assert_eq!(large, 1);
}
