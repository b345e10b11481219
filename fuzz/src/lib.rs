//! What the fuzz targets share: a folder for their files, a small backbone, and an allocator that refuses what no input of
//! a fuzzer deserves.

pub mod data;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;
use vitrim_vit::VitSpec;

/// Largest single allocation, bytes. Inputs are a few kilobytes, and no limit of ours allows more at once.
const LARGEST: usize = 1 << 30;

struct Bounded;

// SAFETY: every call goes to the system's allocator unchanged, or ends the process.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > LARGEST {
            eprintln!("an allocation of {} bytes", layout.size());
            std::process::abort();
        }
        // SAFETY: the caller's contract is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() > LARGEST {
            eprintln!("an allocation of {} bytes", layout.size());
            std::process::abort();
        }
        // SAFETY: the caller's contract is the system's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if new_size > LARGEST {
            eprintln!("an allocation of {new_size} bytes");
            std::process::abort();
        }
        // SAFETY: the caller's contract is the system's.
        unsafe { System.realloc(ptr, layout, new_size) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the system's.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

/// A folder of this process, in memory if the system has such a place.
pub fn folder() -> &'static Path {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let make = || match Path::new("/dev/shm") {
        memory if memory.is_dir() => TempDir::new_in(memory),
        _ => TempDir::new(),
    };
    FOLDER.get_or_init(|| make().expect("a temporary folder")).path()
}

/// Writes `bytes` to the file `name` of [`folder`].
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    std::fs::write(&path, bytes).expect("a writable folder");
    path
}

/// The fixture `name` of vitrim-vit.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/vitrim-vit/tests/fixtures").join(name)
}

/// A backbone of four blocks for 16 patches.
pub fn small() -> VitSpec {
    let mut spec =
        VitSpec::from_timm_name("vit_tiny_patch16_224").expect("timm's name").with_img_size([64, 64]);
    (spec.dim, spec.depth, spec.attention.heads, spec.mlp.hidden, spec.num_classes) = (16, 4, 2, 32, 3);
    spec
}
