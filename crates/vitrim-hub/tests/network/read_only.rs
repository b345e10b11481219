//! A cache that may only be read. Root may write everywhere except into the kernel's own file systems: a link to `/sys`
//! stands for a folder that may not be written, whoever runs the test.

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::World;

impl World {
    /// Makes these folders of the repository in the cache read-only, and its snapshots independent of its blobs.
    fn seal(&self, folders: &[&str]) {
        let repo = self.folder.path().join("hub/models--timm--deit");
        for snapshot in std::fs::read_dir(repo.join("snapshots")).unwrap() {
            for file in std::fs::read_dir(snapshot.unwrap().path()).unwrap() {
                let file = file.unwrap().path();
                let bytes = std::fs::read(&file).unwrap();
                std::fs::remove_file(&file).unwrap();
                std::fs::write(&file, bytes).unwrap();
            }
        }
        for folder in folders {
            std::fs::remove_dir_all(repo.join(folder)).unwrap();
            symlink("/sys", repo.join(folder)).unwrap();
        }
    }
}

fn salt(folder: &Path) -> u8 {
    std::fs::read(folder.join("config.json")).unwrap()[0]
}

#[test]
fn what_is_there_serves_online_without_a_write() {
    let world = World::new();
    let endpoint = world.server.endpoint();
    let hub = ("HF_ENDPOINT", endpoint.as_str());
    let folder = world.fetched(&[hub]);
    world.seal(&["listings", "blobs"]);
    assert_eq!(world.fetched(&[hub]), folder);
}

#[test]
fn an_older_copy_serves_where_the_newer_cannot_be_written() {
    let world = World::new();
    let endpoint = world.server.endpoint();
    let hub = ("HF_ENDPOINT", endpoint.as_str());
    let folder = world.fetched(&[hub]);
    world.seal(&["blobs"]);
    world.push(2);
    assert_eq!((world.fetched(&[hub]), salt(&folder)), (folder.clone(), 1));
    // A cache that is written again takes the newer one.
    std::fs::remove_file(world.folder.path().join("hub/models--timm--deit/blobs")).unwrap();
    assert_eq!(salt(&world.fetched(&[hub])), 2);
}

#[test]
fn what_must_be_written_is_said_in_one_line() {
    let world = World::new();
    let endpoint = world.server.endpoint();
    let hub = ("HF_ENDPOINT", endpoint.as_str());
    world.refused(
        &[hub, ("HF_HUB_CACHE", "/sys/vitrim")],
        &[
            "hf://timm/deit: the cache /sys/vitrim lacks its config.json and 1 more file",
            "cannot be written",
            "set HF_HUB_CACHE",
        ],
    );
    let folder = world.fetched(&[hub]);
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    world.seal(&["blobs"]);
    world.refused(&[hub], &["lacks its model.safetensors and cannot be written", "set HF_HUB_CACHE"]);
}
