//! The parts of a data set, and the share of them that one of several processes writes.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

/// One of several processes that share the parts: number `index`, from 0, of `of`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: usize,
    of: usize,
}

impl Shard {
    /// The only process.
    pub const WHOLE: Shard = Shard { index: 0, of: 1 };

    /// The parts of this process: consecutive ones, so that it reads consecutive images, and as many as any other's,
    /// give or take one.
    pub fn of_parts(self, parts: usize) -> Range<usize> {
        let cut = |index: usize| (parts as u128 * index as u128 / self.of as u128) as usize;
        cut(self.index)..cut(self.index + 1)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(index, of)| {
            let (index, of) = (index.trim().parse::<usize>().ok()?, of.trim().parse::<usize>().ok()?);
            (index < of).then_some(Shard { index, of })
        });
        parsed.ok_or_else(|| "give I/N with I from 0 to N - 1, as in 0/16".to_owned())
    }
}

/// Consecutive images of a split that become one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Index of the split.
    pub split: usize,
    /// Number of the part, from 0.
    pub number: usize,
    /// Number of parts of the split.
    pub of: usize,
    /// Position of its first image in the split.
    pub first: usize,
    /// Number of images.
    pub images: usize,
}

impl Part {
    /// The name of the part's file, as the Hub names the files of a split.
    pub fn file(&self, split: &str) -> String {
        format!("{split}-{:05}-of-{:05}.parquet", self.number, self.of)
    }
}

/// The parts, of `size` images each but for the last of a split, of splits with `images` each.
pub fn parts(images: &[usize], size: usize) -> Vec<Part> {
    let of_split = |(split, &images): (usize, &usize)| {
        let of = images.div_ceil(size);
        (0..of).map(move |number| {
            let first = number * size;
            Part { split, number, of, first, images: size.min(images - first) }
        })
    };
    images.iter().enumerate().flat_map(of_split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_each_split_once() {
        let all = parts(&[10, 0, 4, 5], 4);
        let shape: Vec<_> = all.iter().map(|p| (p.split, p.first, p.images)).collect();
        assert_eq!(shape, [(0, 0, 4), (0, 4, 4), (0, 8, 2), (2, 0, 4), (3, 0, 4), (3, 4, 1)]);
        assert_eq!(all[2].file("train"), "train-00002-of-00003.parquet");
    }

    #[test]
    fn shards_of_any_number_cover_the_parts_once_and_evenly() {
        for (parts, of) in [(7, 1), (7, 2), (7, 3), (7, 7), (3, 8), (0, 2), (312, 16)] {
            let shares: Vec<Range<usize>> =
                (0..of).map(|index| Shard { index, of }.of_parts(parts)).collect();
            let covered: Vec<usize> = shares.iter().cloned().flatten().collect();
            assert_eq!(covered, (0..parts).collect::<Vec<_>>());
            let sizes = || shares.iter().map(Range::len);
            assert!(sizes().max().unwrap() - sizes().min().unwrap() <= 1);
        }
    }

    #[test]
    fn a_shard_is_read_from_text_and_senseless_ones_are_refused() {
        let shard: Shard = "3/16".parse().unwrap();
        assert_eq!((shard, shard.to_string()), (Shard { index: 3, of: 16 }, "3/16".to_owned()));
        for text in ["", "3", "16/16", "0/0", "-1/4", "1/4/2", "a/b"] {
            assert!(text.parse::<Shard>().unwrap_err().contains("0/16"), "{text}");
        }
    }
}
