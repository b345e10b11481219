//! Content hashes of encoded images, and the subsets of a data set that are defined by them.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::DataError;

/// The first 128 bits of the BLAKE3 hash of a file's bytes; for an image, of the encoded file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentHash([u8; 16]);

/// Hashes of encoded images, without order.
pub type ContentSet = HashSet<ContentHash>;

/// Number of bytes at the end of a file that its [`Mark`] depends on.
pub(crate) const TAIL: usize = 64;

/// A hash of a file's length and last [`TAIL`] bytes, with which it is seen without reading the file whether it may equal
/// another one.
pub(crate) type Mark = u64;

/// The mark of a file of `bytes` bytes that ends with `tail`, its last [`TAIL`] bytes or all of them.
pub(crate) fn mark(bytes: u64, tail: &[u8]) -> Mark {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes.to_le_bytes()).update(tail);
    let mut head = [0; 8];
    head.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(head)
}

/// The mark of a file with the content `encoded`.
pub(crate) fn mark_of(encoded: &[u8]) -> Mark {
    mark(encoded.len() as u64, &encoded[encoded.len().saturating_sub(TAIL)..])
}

/// What is known of an encoded image that was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fingerprint {
    pub hash: ContentHash,
    /// `None` if the image could not be read.
    pub mark: Option<Mark>,
}

/// Images to be left out of another data set: see [`Dataset::without`](super::Dataset::without).
#[derive(Clone, Debug, Default)]
pub struct Excluded {
    pub(super) hashes: ContentSet,
    pub(super) marks: HashSet<Mark>,
}

impl Excluded {
    /// Adds the images of `other`.
    pub fn extend(&mut self, other: Excluded) {
        self.hashes.extend(other.hashes);
        self.marks.extend(other.marks);
    }
}

impl ContentHash {
    /// Hashes `encoded`, a whole file.
    pub fn of(encoded: &[u8]) -> Self {
        let mut short = [0; 16];
        short.copy_from_slice(&blake3::hash(encoded).as_bytes()[..16]);
        Self(short)
    }

    /// The hash's 16 bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The hash as a number in `[0, 1)`: its first 53 bits, little endian, as a fraction.
    fn fraction(&self) -> f64 {
        let mut head = [0; 8];
        head.copy_from_slice(&self.0[..8]);
        (u64::from_le_bytes(head) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// In hexadecimal.
impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One of the three subsets that a data set without splits is divided into by content hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Subset {
    /// Images for training the policy.
    Train,
    /// Images for calibration, feedback and model selection.
    Calibration,
    /// Images for final figures only.
    Test,
}

/// How much of a data set each [`Subset`] gets. Only the ratio counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shares {
    /// Share of [`Subset::Train`]; 0.6 by default.
    pub train: f64,
    /// Share of [`Subset::Calibration`]; 0.2 by default.
    pub calibration: f64,
    /// Share of [`Subset::Test`]; 0.2 by default.
    pub test: f64,
}

impl Default for Shares {
    fn default() -> Self {
        Self { train: 0.6, calibration: 0.2, test: 0.2 }
    }
}

impl Shares {
    /// Checks that the shares describe a partition.
    ///
    /// # Errors
    ///
    /// [`DataError::Shares`] if one is negative or not finite, or if all are 0.
    pub fn validate(&self) -> Result<(), DataError> {
        let all = [self.train, self.calibration, self.test];
        if all.iter().all(|s| s.is_finite() && *s >= 0.0) && all.iter().sum::<f64>() > 0.0 {
            return Ok(());
        }
        let Self { train, calibration, test } = *self;
        Err(DataError::Shares { train, calibration, test })
    }

    /// The subset of an image: a function of its bytes and the shares alone.
    pub fn part_of(&self, hash: &ContentHash) -> Subset {
        let at = hash.fraction() * (self.train + self.calibration + self.test);
        if at < self.train {
            Subset::Train
        } else if at < self.train + self.calibration {
            Subset::Calibration
        } else {
            Subset::Test
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_do_not_move_between_versions() {
        // BLAKE3's published digest of the empty input starts like this.
        let hash = ContentHash::of(b"");
        assert_eq!(hash.as_bytes()[..4], [0xaf, 0x13, 0x49, 0xb9]);
        assert_eq!(hash.to_string()[..8], *"af1349b9");
        assert_ne!(hash, ContentHash::of(b"x"));
    }

    #[test]
    fn parts_come_out_at_their_shares() {
        let shares = Shares::default();
        let mut counts = [0usize; 3];
        for i in 0..20_000u32 {
            counts[shares.part_of(&ContentHash::of(&i.to_le_bytes())) as usize] += 1;
        }
        for (count, share) in counts.iter().zip([0.6, 0.2, 0.2]) {
            let got = *count as f64 / 20_000.0;
            assert!((got - share).abs() < 0.015, "{got} instead of {share}");
        }
    }

    #[test]
    fn a_share_of_nothing_gets_nothing() {
        let shares = Shares { train: 3.0, calibration: 0.0, test: 0.0 };
        for i in 0..1000u32 {
            assert_eq!(shares.part_of(&ContentHash::of(&i.to_le_bytes())), Subset::Train);
        }
    }

    #[test]
    fn senseless_shares_are_refused() {
        for train in [-0.1, f64::NAN, f64::INFINITY] {
            assert!(Shares { train, ..Shares::default() }.validate().is_err());
        }
        assert!(Shares { train: 0.0, calibration: 0.0, test: 0.0 }.validate().is_err());
        assert!(Shares::default().validate().is_ok());
    }
}
