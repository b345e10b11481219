//! Images that are truncated, corrupt, or too large are refused by name, without a panic, and before memory is
//! allocated.

use crate::codecs::images;
use vitrim_data::{Dataset, Decoding, MAX_DECODED_BYTES, MAX_ENCODED_BYTES, MAX_SIDE};
use vitrim_random::SplitMix64;

/// Number of bytes at a file's end that no pixel needs: a PNG's empty end chunk, a GIF's later frames and trailer, a
/// padding byte of a WebP.
fn cut_limit(name: &str, len: usize) -> usize {
    match name {
        "turned.png" => len - 12,
        "animated.gif" | "transparent.gif" => len / 4,
        name if name.ends_with(".png") => len - 12,
        name if name.ends_with(".gif") => len - 3,
        // Chunks of odd length are padded.
        name if name.ends_with(".webp") => len - 1,
        _ => len,
    }
}

#[test]
fn every_truncation_is_refused() {
    for (name, encoded, _) in images() {
        for len in 0..cut_limit(&name, encoded.len()) {
            let error = Decoding::default().decode(&encoded[..len], &name).err();
            assert!(error.is_some(), "{name} cut to {len} of {}", encoded.len());
            let message = error.unwrap().to_string();
            assert!(message.starts_with(&name) && !message.contains('\n'), "{message}");
        }
    }
}

#[test]
fn garbled_images_never_panic() {
    let mut random = SplitMix64::new(6);
    for (name, encoded, _) in images() {
        for _ in 0..400 {
            let mut garbled = encoded.clone();
            for _ in 0..=random.below(6) {
                let at = random.below(garbled.len());
                garbled[at] = random.next_u64() as u8;
            }
            if random.below(4) == 0 {
                garbled.truncate(random.below(garbled.len()));
            }
            let decoded =
                std::panic::catch_unwind(|| Decoding { exif: true }.decode(&garbled, &name).is_ok());
            assert!(decoded.is_ok(), "{name}: panicked on {garbled:?}");
        }
    }
}

#[test]
fn noise_under_every_magic_never_panics() {
    let mut random = SplitMix64::new(7);
    let magics: [&[u8]; 7] =
        [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\x40\0\0\0WEBP", b"BM", b"GIF89a", b"II*\0", b"MM\0*"];
    for magic in magics {
        for _ in 0..500 {
            let mut noise = magic.to_vec();
            noise.extend((0..random.below(300)).map(|_| random.next_u64() as u8));
            let decoded = std::panic::catch_unwind(|| Decoding::default().decode(&noise, "noise").is_ok());
            assert!(decoded.is_ok(), "panicked on {noise:?}");
        }
    }
}

/// Headers of images that are too large, without their pixels.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let pick = |name: &str| images().into_iter().find(|(n, ..)| n == name).unwrap().1;
    let patch = |name: &str, at: usize, bytes: &[u8]| {
        let mut file = pick(name);
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let jpeg = |name: &str, marker: u8, height: u16, width: u16| {
        let at = pick(name).windows(2).position(|pair| pair == [0xff, marker]).unwrap();
        patch(name, at + 5, &[height.to_be_bytes(), width.to_be_bytes()].concat())
    };
    let png = {
        let mut file = pick("rgb.png");
        file[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
        let crc = crc32(&file[12..29]);
        file[29..33].copy_from_slice(&crc.to_be_bytes());
        file
    };
    // Tag 256 is the width, 257 the height, 278 the rows of a strip, of type 3 (short); made long to hold more.
    let tiff = {
        let mut file = pick("rgb.tif");
        for tag in [256u16, 257, 278] {
            let entry = [tag.to_le_bytes(), [3, 0], [1, 0], [0, 0]].concat();
            let long = [tag.to_le_bytes(), [4, 0], [1, 0], [0, 0]].concat();
            let at = file
                .windows(8)
                .position(|w| w == entry || w == long)
                .unwrap_or_else(|| panic!("no tag {tag}"));
            file[at + 2] = 4;
            file[at + 8..at + 12].copy_from_slice(&2_000_000u32.to_le_bytes());
        }
        file
    };
    vec![
        ("sides.jpg", jpeg("rgb_444.jpg", 0xc0, 65_500, 65_500)),
        ("area.jpg", jpeg("rgb_444.jpg", 0xc0, 16_384, 16_384)),
        // 3 bytes per pixel would be within the limit, but not with the coefficients.
        ("progressive.jpg", jpeg("progressive.jpg", 0xc2, 10_000, 10_000)),
        ("sides.png", png),
        ("sides.gif", patch("palette.gif", 6, &[0xff, 0xff, 0xff, 0xff])),
        ("sides.bmp", patch("rgb.bmp", 18, &[0x20, 0x4e, 0, 0, 0x20, 0x4e, 0, 0])),
        ("area.bmp", patch("rgb.bmp", 18, &[0, 0x40, 0, 0, 0, 0x40, 0, 0])),
        ("sides.tif", tiff),
        // VP8L: 14 bits of width - 1, 14 of height - 1. (For 16,384, the decoder reads 0, and returns an error.)
        ("area.webp", patch("lossless.webp", 21, &[0xfe, 0xbf, 0xff, 0x0f])),
    ]
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[test]
fn bombs_are_refused_by_their_headers() {
    for (name, bomb) in bombs() {
        let before = peak();
        let error = Decoding::default().decode(&bomb, name).unwrap_err().to_string();
        let limits = [MAX_SIDE.to_string(), (MAX_DECODED_BYTES >> 20).to_string()];
        assert!(error.starts_with(name) && limits.iter().all(|limit| error.contains(limit)), "{error}");
        if let (Some(before), Some(after)) = (before, peak()) {
            assert!(after - before < 64 << 20, "{name}: {} MiB were touched", (after - before) >> 20);
        }
    }
}

#[test]
fn files_and_members_that_are_too_long_are_refused_unread() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("long.jpg");
    std::fs::File::create(&file).unwrap().set_len(MAX_ENCODED_BYTES + 1).unwrap();
    let shard = dir.path().join("long.tar");
    let mut header = tar::Header::new_gnu();
    header.set_path("long.jpg").unwrap();
    header.set_size(MAX_ENCODED_BYTES + 1);
    header.set_cksum();
    std::fs::write(&shard, header.as_bytes()).unwrap();
    let room = std::fs::File::options().append(true).open(&shard).unwrap();
    room.set_len(512 + (MAX_ENCODED_BYTES + 1).next_multiple_of(512) + 1024).unwrap();
    let before = peak();
    for path in [&file, &shard] {
        let error = Dataset::open(path, None).unwrap().image(0).unwrap_err().to_string();
        let limit = format!("more than {} MiB as stored", MAX_ENCODED_BYTES >> 20);
        assert!(error.contains("long.jpg") && error.contains(&limit), "{error}");
    }
    if let (Some(before), Some(after)) = (before, peak()) {
        assert!(after - before < 64 << 20, "{} MiB were touched", (after - before) >> 20);
    }
}

/// Peak memory of this process, if the system reports it.
fn peak() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse::<usize>().ok().map(|kib| kib << 10)
}
