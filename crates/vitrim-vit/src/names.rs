//! Tables of the names that libraries give to tensors, and their application to a file. Our names are timm's.
//!
//! A table is read in both directions. Loading looks our tensors up under the library's names; fine-tuned weights are
//! written back under them.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::spec::VitSpec;
use crate::weight_files::WeightFiles;

/// How a library stores a tensor or a layer of ours.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stored {
    /// Unchanged, under this name.
    As(&'static str),
    /// Split along the first axis (a layer's outputs), with the pieces in this order: q, k, v instead of qkv.
    Stacked(&'static [&'static str]),
    /// Under this name, without leading axes of length 1: `[D]` instead of `[1, 1, D]`.
    Flat(&'static str),
    /// Under this name, on a square grid: `[1, R, R, D]` instead of `[1, R * R, D]`.
    Grid(&'static str),
    /// Under this name, with its two axes exchanged: a matrix that is applied from the right.
    Transposed(&'static str),
    /// Under this name, a patch's weights in the order row, column, channel on one axis, `[D, p * p * 3]` instead of
    /// `[D, 3, p, p]` (SigLIP 2).
    ChannelsLast(&'static str),
    /// As the parts from the second number up to the third, of as many equal parts as the fourth says, of the stored
    /// tensor along its first axis: PyTorch's `MultiheadAttention` stores queries, keys and values in one. Parts that
    /// follow one another are tensors of ours that do.
    Share(&'static str, usize, usize, usize),
}

/// Our name, and the ways in which the library stores it: the first that the file has; if it has none, the first of
/// all.
///
/// A name is that of a tensor, or of a layer, for which `.weight` and `.bias` follow on both sides. `{l}` is any
/// block.
pub(crate) type NameRow = (&'static str, &'static [Stored]);

/// The tensor names of a library's class. A tensor without a row is stored under our name, unchanged.
#[derive(Clone, Copy)]
pub(crate) struct NameTable {
    /// Prefix that the names of all `rows` may have (if the class is part of another): empty, or `vit.`.
    pub prefix: &'static str,
    /// The names that may have `prefix`.
    pub rows: &'static [&'static [NameRow]],
    /// The names that never have `prefix`.
    pub heads: &'static [NameRow],
    /// Tensors with `prefix` that inference does not need. A name that ends in `*` stands for all that begin so, with or
    /// without `prefix`; one that begins with `*` stands for all that end so.
    pub ignored: &'static [&'static str],
    /// Whether every tensor of the backbone has `prefix`, those without a row too, and all other tensors are those of other
    /// towers.
    pub one_tower: bool,
}

/// The names in the file of another library or of the authors, for a backbone that is described in this library's way.
pub(crate) struct Dialect {
    /// A tensor that only such files have.
    pub mark: &'static str,
    pub names: NameTable,
    /// Changes the geometry to that of the file.
    pub adapt: fn(&mut VitSpec, &WeightFiles),
}

impl Dialect {
    /// The first of `dialects` in which `files` are named.
    pub fn of(dialects: &'static [Dialect], files: &WeightFiles) -> Option<&'static Self> {
        let marked = |name: &str, mark: &str| {
            name.strip_suffix(mark).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        dialects.iter().find(|dialect| files.names().any(|name| marked(name, dialect.mark)))
    }
}

impl NameTable {
    /// All names under which the library may store tensors of `spec`.
    pub fn known(&self, spec: &VitSpec) -> HashSet<String> {
        let mut known = HashSet::new();
        for prefix in ["", self.prefix] {
            known.extend(self.ignored.iter().map(|name| format!("{prefix}{name}")));
            for (ours, _) in spec.tensor_shapes() {
                match self.find(prefix, &ours) {
                    Some(ways) => known.extend(ways.iter().flat_map(StoredAs::names).cloned()),
                    None if self.one_tower => drop(known.insert(format!("{prefix}{ours}"))),
                    None => drop(known.insert(ours)),
                }
            }
        }
        known
    }

    /// The names of the tensors of `spec` in `files`.
    pub fn resolve(&self, spec: &VitSpec, files: &WeightFiles) -> StoredNames {
        let prefixed = !self.prefix.is_empty() && files.names().any(|name| name.starts_with(self.prefix));
        let prefix = if prefixed { self.prefix } else { "" };
        let mut parts = BTreeMap::new();
        for (ours, _) in spec.tensor_shapes() {
            let Some(mut ways) = self.find(prefix, &ours) else {
                if self.one_tower {
                    parts.insert(ours.clone(), StoredAs::Parts(vec![format!("{prefix}{ours}")]));
                }
                continue;
            };
            let there = |way: &StoredAs| way.names().iter().all(|name| files.shape(name).is_some());
            let way = ways.iter().position(there).unwrap_or(0);
            parts.insert(ours, ways.swap_remove(way));
        }
        let mut ignored = BTreeSet::new();
        let used: BTreeSet<&String> = parts.values().flat_map(StoredAs::names).collect();
        if self.one_tower && !prefix.is_empty() {
            let other = |name: &&str| !name.starts_with(prefix) && !used.contains(&(*name).to_owned());
            ignored.extend(files.names().filter(other).map(str::to_owned));
        }
        for pattern in self.ignored {
            if let Some(end) = pattern.strip_prefix('*') {
                ignored.extend(files.names().filter(|name| name.ends_with(end)).map(str::to_owned));
                continue;
            }
            match pattern.strip_suffix('*') {
                Some(start) => {
                    let begins = |name: &&str| name.strip_prefix(prefix).unwrap_or(name).starts_with(start);
                    ignored.extend(files.names().filter(begins).map(str::to_owned));
                }
                None => {
                    ignored.insert(format!("{prefix}{pattern}"));
                }
            }
        }
        StoredNames { parts, ignored }
    }

    /// The ways to store our tensor `ours`, with full names; `None` if it is stored under our name.
    fn find(&self, prefix: &str, ours: &str) -> Option<Vec<StoredAs>> {
        let below = self.rows.iter().copied().flatten();
        find(below, prefix, ours).or_else(|| find(self.heads.iter(), "", ours))
    }
}

/// The ways to store our tensor `ours`, from its first row in `rows`, with full names.
fn find<'t>(mut rows: impl Iterator<Item = &'t NameRow>, prefix: &str, ours: &str) -> Option<Vec<StoredAs>> {
    let block = ours.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
    let (l, pattern) = match block {
        Some((l, rest)) => (l, format!("blocks.{{l}}.{rest}")),
        None => ("", ours.to_owned()),
    };
    let (layer, end) = match pattern.rsplit_once('.') {
        Some((layer, end @ ("weight" | "bias"))) => (layer, end),
        _ => ("", ""),
    };
    rows.find_map(|(name, ways)| {
        let end = match *name {
            name if name == pattern => String::new(),
            name if name == layer => format!(".{end}"),
            _ => return None,
        };
        let complete = |theirs: &&str| format!("{prefix}{}{end}", theirs.replace("{l}", l));
        let way = |way: &Stored| match way {
            Stored::As(theirs) => StoredAs::Parts(vec![complete(theirs)]),
            Stored::Stacked(pieces) => StoredAs::Parts(pieces.iter().map(complete).collect()),
            Stored::Flat(theirs) => StoredAs::Flat(complete(theirs)),
            Stored::Grid(theirs) => StoredAs::Grid(complete(theirs)),
            Stored::Transposed(theirs) => StoredAs::Transposed(complete(theirs)),
            Stored::ChannelsLast(theirs) => StoredAs::ChannelsLast(complete(theirs)),
            Stored::Share(theirs, start, end, of) => {
                StoredAs::Share { name: complete(theirs), start: *start, end: *end, of: *of }
            }
        };
        Some(ways.iter().map(way).collect())
    })
}

/// How a tensor of ours is stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum StoredAs {
    /// As these tensors, in order along the first axis.
    Parts(Vec<String>),
    /// Without leading axes of length 1.
    Flat(String),
    /// On a square grid.
    Grid(String),
    /// With its two axes exchanged.
    Transposed(String),
    /// With a patch's channels last, on one axis.
    ChannelsLast(String),
    /// As the parts `start..end` of `of` equal parts of a tensor along its first axis.
    Share { name: String, start: usize, end: usize, of: usize },
}

impl StoredAs {
    /// The names of the stored tensors.
    pub fn names(&self) -> &[String] {
        match self {
            StoredAs::Parts(names) => names,
            StoredAs::Flat(name)
            | StoredAs::Grid(name)
            | StoredAs::Transposed(name)
            | StoredAs::ChannelsLast(name)
            | StoredAs::Share { name, .. } => std::slice::from_ref(name),
        }
    }

    /// The shape of each stored tensor, for our tensor of `shape`.
    pub fn shape(&self, shape: &[usize]) -> Vec<usize> {
        let mut stored = shape.to_vec();
        match self {
            StoredAs::Parts(names) => stored[0] /= names.len(),
            StoredAs::Flat(_) => {
                let leading = shape.iter().take_while(|axis| **axis == 1).count().min(shape.len() - 1);
                stored.drain(..leading);
            }
            StoredAs::Grid(_) => {
                let rows = shape[1].isqrt();
                stored = vec![shape[0], rows, shape[1] / rows.max(1), shape[2]];
            }
            StoredAs::Transposed(_) => stored.reverse(),
            StoredAs::ChannelsLast(_) => stored = vec![shape[0], shape[1..].iter().product()],
            StoredAs::Share { start, end, of, .. } => stored[0] = stored[0] / (end - start) * of,
        }
        stored
    }
}

/// Where each tensor of ours is stored. A tensor without an entry is stored under our name, unchanged.
#[derive(Default)]
pub(crate) struct StoredNames {
    /// How each tensor of ours is stored.
    pub parts: BTreeMap<String, StoredAs>,
    /// Stored tensors that inference does not need.
    pub ignored: BTreeSet<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_name_tensors_and_layers_of_every_block() {
        const ROWS: [NameRow; 4] = [
            ("blocks.{l}.attn.qkv", &[Stored::Stacked(&["layer.{l}.q", "layer.{l}.k", "layer.{l}.v"])]),
            ("blocks.{l}.ls1.gamma", &[Stored::As("layer.{l}.scale"), Stored::As("layer.{l}.gamma_1")]),
            ("pos_embed", &[Stored::Flat("positions")]),
            ("attn_pool.kv.bias", &[Stored::Share("in_bias", 1, 3, 3)]),
        ];
        let find = |ours| find(ROWS.iter(), "vit.", ours);
        let parts = |names: &[&str]| StoredAs::Parts(names.iter().map(|name| (*name).to_owned()).collect());
        let qkv = parts(&["vit.layer.11.q.bias", "vit.layer.11.k.bias", "vit.layer.11.v.bias"]);
        assert_eq!(find("blocks.11.attn.qkv.bias"), Some(vec![qkv]));
        let scale = ["vit.layer.0.scale", "vit.layer.0.gamma_1"].map(|name| parts(&[name]));
        assert_eq!(find("blocks.0.ls1.gamma"), Some(scale.to_vec()));
        assert_eq!(find("pos_embed"), Some(vec![StoredAs::Flat("vit.positions".to_owned())]));
        let share = StoredAs::Share { name: "vit.in_bias".to_owned(), start: 1, end: 3, of: 3 };
        assert_eq!(share.shape(&[8]), [12]);
        assert_eq!(find("attn_pool.kv.bias"), Some(vec![share]));
        assert_eq!(StoredAs::Flat(String::new()).shape(&[1, 1, 5]), [5]);
        assert_eq!(StoredAs::Flat(String::new()).shape(&[1]), [1]);
        assert_eq!(StoredAs::Grid(String::new()).shape(&[1, 9, 5]), [1, 3, 3, 5]);
        assert_eq!(find("blocks.0.attn.proj.bias"), None);
    }
}
