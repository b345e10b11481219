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
    /// Tensors with `prefix` that inference does not need.
    pub ignored: &'static [&'static str],
}

impl NameTable {
    /// All names under which the library may store tensors of `spec`.
    pub fn known(&self, spec: &VitSpec) -> HashSet<String> {
        let mut known = HashSet::new();
        for prefix in ["", self.prefix] {
            known.extend(self.ignored.iter().map(|name| format!("{prefix}{name}")));
            for (ours, _) in spec.tensor_shapes() {
                match self.find(prefix, &ours) {
                    Some(ways) => known.extend(ways.into_iter().flatten()),
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
            let Some(mut ways) = self.find(prefix, &ours) else { continue };
            let there = |way: &Vec<String>| way.iter().all(|name| files.shape(name).is_some());
            let way = ways.iter().position(there).unwrap_or(0);
            parts.insert(ours, ways.swap_remove(way));
        }
        StoredNames { parts, ignored: self.ignored.iter().map(|name| format!("{prefix}{name}")).collect() }
    }

    /// The ways to store our tensor `ours`, with full names; `None` if it is stored under our name.
    fn find(&self, prefix: &str, ours: &str) -> Option<Vec<Vec<String>>> {
        let below = self.rows.iter().copied().flatten();
        find(below, prefix, ours).or_else(|| find(self.heads.iter(), "", ours))
    }
}

/// The ways to store our tensor `ours`, from its first row in `rows`, with full names.
fn find<'t>(
    mut rows: impl Iterator<Item = &'t NameRow>,
    prefix: &str,
    ours: &str,
) -> Option<Vec<Vec<String>>> {
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
            Stored::As(theirs) => vec![complete(theirs)],
            Stored::Stacked(pieces) => pieces.iter().map(complete).collect(),
        };
        Some(ways.iter().map(way).collect())
    })
}

/// Where each tensor of ours is stored. A tensor without an entry is stored under our name, unchanged.
#[derive(Default)]
pub(crate) struct StoredNames {
    /// The stored tensors that make up one of ours, in order along the first axis.
    pub parts: BTreeMap<String, Vec<String>>,
    /// Stored tensors that inference does not need.
    pub ignored: BTreeSet<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_name_tensors_and_layers_of_every_block() {
        const ROWS: [NameRow; 3] = [
            ("blocks.{l}.attn.qkv", &[Stored::Stacked(&["layer.{l}.q", "layer.{l}.k", "layer.{l}.v"])]),
            ("blocks.{l}.ls1.gamma", &[Stored::As("layer.{l}.scale"), Stored::As("layer.{l}.gamma_1")]),
            ("pos_embed", &[Stored::As("positions")]),
        ];
        let find = |ours| find(ROWS.iter(), "vit.", ours);
        let qkv = ["vit.layer.11.q.bias", "vit.layer.11.k.bias", "vit.layer.11.v.bias"].map(str::to_owned);
        assert_eq!(find("blocks.11.attn.qkv.bias"), Some(vec![qkv.to_vec()]));
        let scale = ["vit.layer.0.scale", "vit.layer.0.gamma_1"].map(|name| vec![name.to_owned()]);
        assert_eq!(find("blocks.0.ls1.gamma"), Some(scale.to_vec()));
        assert_eq!(find("pos_embed"), Some(vec![vec!["vit.positions".to_owned()]]));
        assert_eq!(find("blocks.0.attn.proj.bias"), None);
    }
}
