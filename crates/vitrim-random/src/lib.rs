//! SplitMix64 (Steele, Lea and Flood, 2014): a stream of random numbers by seed, and hashes of keys. The numbers are the
//! same on every machine and in every version.
//!
//! ```
//! use vitrim_random::{SplitMix64, uniform};
//!
//! let mut stream = SplitMix64::new(1_234_567);
//! assert_eq!(stream.next_u64(), 6_457_827_717_110_365_317);
//! // By (seed, image, stage, token): what else is drawn does not change it.
//! assert_eq!(uniform(&[1, 7, 0, 3]), uniform(&[1, 7, 0, 3]));
//! ```

mod keyed;
mod stream;

pub use keyed::{mix, uniform};
pub use stream::SplitMix64;

/// Increment of the state at each step: 2^64 divided by the golden ratio.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function: a bijection that mixes well (the finaliser "variant 13" of Stafford).
fn finalise(z: u64) -> u64 {
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
