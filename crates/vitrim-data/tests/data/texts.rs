//! Lists, label maps and labels that Excel, Notepad or PowerShell saved: with a byte order mark, or in UTF-16.

use std::path::{Path, PathBuf};

use crate::scratch::{load, png, tar};
use vitrim_data::{Dataset, LabelMap, LoaderOptions, Order};

const MARK: &[u8] = b"\xef\xbb\xbf";

/// `text` with Windows' line ends: as it is, with a byte order mark, and in UTF-16 with one.
fn saved(text: &str) -> [Vec<u8>; 3] {
    let text = text.replace('\n', "\r\n");
    let utf16 = std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    [text.clone().into_bytes(), [MARK, text.as_bytes()].concat(), utf16]
}

fn written(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

#[track_caller]
fn assert_refused(error: impl ToString, name: &str) {
    let message = error.to_string();
    assert!(message.contains(name) && message.ends_with(": is UTF-16 text; save it as UTF-8"), "{message}");
}

#[test]
fn a_mark_before_a_list_is_no_part_of_its_first_path() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..2 {
        written(dir.path(), &format!("{i}.png"), &png(i));
    }
    for (name, text) in [
        ("a.txt", "0.png 1\n1.png 0\n"),
        ("a.csv", "path,label\n0.png,1\n1.png,0\n"),
        ("a.tsv", "label\tpath\n1\t0.png\n0\t1.png\n"),
        ("a.jsonl", "{\"path\": \"0.png\", \"label\": 1}\n{\"path\": \"1.png\", \"label\": 0}\n"),
    ] {
        let [plain, marked, utf16] = saved(text);
        for bytes in [plain, marked] {
            let dataset = Dataset::open(written(dir.path(), name, &bytes), None).unwrap();
            let batch = &load(&dataset, Order::Sequential, LoaderOptions::default())[0];
            assert_eq!(
                (&batch.names[..], &batch.labels[..]),
                (&["0.png".into(), "1.png".into()][..], &[Some(1), Some(0)][..]),
                "{name}"
            );
        }
        assert_refused(Dataset::open(written(dir.path(), name, &utf16), None).unwrap_err(), name);
    }
}

#[test]
fn a_mark_before_a_label_map_is_no_part_of_its_first_name() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("m.json", "{\"sky\": 0, \"grass\": 1}"),
        ("m.json", "[\"sky\", \"grass\"]"),
        ("m.txt", "sky\ngrass\n"),
        ("m.csv", "sky,0\ngrass,1\n"),
        ("m.tsv", "sky\t0\ngrass\t1\n"),
    ] {
        let [plain, marked, utf16] = saved(text);
        for bytes in [plain, marked] {
            let map = LabelMap::open(written(dir.path(), name, &bytes)).unwrap();
            assert_eq!((map.of_name("sky"), map.of_name("grass")), (Some(Some(0)), Some(Some(1))), "{name}");
        }
        assert_refused(LabelMap::open(written(dir.path(), name, &utf16)).unwrap_err(), name);
    }
}

#[test]
fn a_mark_before_a_label_in_a_shard_is_no_part_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let shard = |member: &str, text: &[u8]| {
        let members = [("0.png".to_owned(), png(0)), (member.to_owned(), text.to_vec())];
        Dataset::open(written(dir.path(), "a.tar", &tar(&members)), None)
    };
    for (member, text) in [("0.cls", "7\n"), ("0.json", "{\"label\": 7}")] {
        let [plain, marked, utf16] = saved(text);
        for bytes in [plain, marked] {
            assert_eq!(shard(member, &bytes).unwrap().label(0), Some(7), "{member}");
        }
        assert_refused(shard(member, &utf16).unwrap_err(), member);
    }
    let latin = shard("0.cls", b"caf\xe9").unwrap_err().to_string();
    assert!(latin.ends_with("0.cls: is not UTF-8 text: byte 0xe9 in line 1; save it as UTF-8"), "{latin}");
}
