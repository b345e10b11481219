//! What training scripts put around the weights: keys of a dictionary that holds an optimizer, too, and prefixes of
//! the tensors' names.

use std::collections::{BTreeMap, HashSet};

/// Keys under which a script keeps the weights beside other state, in the order in which they are looked for. The first
/// four are timm's, in timm's order (`load_state_dict` of `timm/models/_helpers.py`): the moving average is preferred.
const KEYS: [&str; 8] = [
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model",
    "model_state_dict",
    "model_state",
    "module",
    "net",
];

/// The keys that are also prefixes of names, so that weights may lie beside them: `model.blocks...` and `head.weight`.
const ALSO_PREFIXES: [&str; 3] = ["model", "module", "net"];

/// Modules around the backbone: prefixes of all its names, in any order.
const PREFIXES: [&str; 9] = [
    "module",
    "_orig_mod",
    "_forward_module",
    "model",
    "backbone",
    "encoder",
    "net",
    "network",
    "timm_model",
];

/// Modules around a part of the backbone. No tensor of a backbone is called so, anywhere in its name.
const INSIDE: [&str; 3] = ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// The weights in a saved dictionary.
pub(super) struct Found<T> {
    /// Tensors under the key that was taken, without the key.
    pub weights: BTreeMap<String, T>,
    /// Tensors beside it that may be weights, too.
    pub beside: BTreeMap<String, T>,
    /// The key that was taken and the other keys of weights, if there are several.
    pub taken: Option<(&'static str, Vec<&'static str>)>,
}

/// The weights among `tensors`, by the keys that lead to them: those under the first of [`KEYS`], and so on inside.
pub(super) fn weights_in<T>(tensors: BTreeMap<String, T>) -> Found<T> {
    let mut found = Found { weights: tensors, beside: BTreeMap::new(), taken: None };
    loop {
        let has = |key: &str| found.weights.keys().any(|name| below(name, key).is_some());
        let mut keys = KEYS.into_iter().filter(|key| has(key));
        let Some(key) = keys.next() else { return found };
        let others: Vec<_> = keys.collect();
        if !others.is_empty() && found.taken.is_none() {
            found.taken = Some((key, others));
        }
        if !ALSO_PREFIXES.contains(&key) {
            found.beside.clear();
        }
        for (name, tensor) in std::mem::take(&mut found.weights) {
            match below(&name, key) {
                Some(inner) => {
                    found.weights.insert(inner.to_owned(), tensor);
                }
                None if ALSO_PREFIXES.contains(&key) => {
                    found.beside.insert(name, tensor);
                }
                None => (),
            }
        }
    }
}

/// `name` without the modules around the backbone: what is left is in `known`. `None` if nothing known is left.
pub(super) fn unwrapped(name: &str, known: &HashSet<String>) -> Option<String> {
    let parts: Vec<&str> = name.split('.').filter(|part| !INSIDE.contains(part)).collect();
    let mut parts = parts.as_slice();
    loop {
        let left = parts.join(".");
        if known.contains(&left) {
            return Some(left);
        }
        match parts.split_first() {
            Some((first, rest)) if PREFIXES.contains(first) => parts = rest,
            _ => return None,
        }
    }
}

/// The rest of `name` after `key` and a dot.
fn below<'n>(name: &'n str, key: &str) -> Option<&'n str> {
    name.strip_prefix(key)?.strip_prefix('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeMap<String, ()> {
        names.iter().map(|name| ((*name).to_owned(), ())).collect()
    }

    #[test]
    fn the_moving_average_is_preferred_as_in_timm() {
        let all =
            ["epoch.x", "state_dict.head.weight", "state_dict_ema.head.weight", "optimizer.state.0.exp_avg"];
        let found = weights_in(names(&all));
        assert_eq!(found.weights, names(&["head.weight"]));
        assert!(found.beside.is_empty());
        assert_eq!(found.taken, Some(("state_dict_ema", vec!["state_dict"])));
        let found = weights_in(names(&["model.blocks.0.a", "head.weight", "optimizer.state.0.exp_avg"]));
        assert_eq!(found.weights, names(&["blocks.0.a"]));
        assert_eq!(found.beside, names(&["head.weight", "optimizer.state.0.exp_avg"]));
        assert_eq!(found.taken, None);
        let found = weights_in(names(&["state_dict.model.a", "state_dict.loss.b", "callbacks.c"]));
        assert_eq!((found.weights, found.beside), (names(&["a"]), names(&["loss.b"])));
    }

    #[test]
    fn prefixes_come_off_in_any_nesting_but_not_what_is_a_name() {
        let known: HashSet<String> =
            ["blocks.0.a", "encoder.layer.0.a", "head.weight"].map(str::to_owned).into();
        for (name, left) in [
            ("blocks.0.a", Some("blocks.0.a")),
            ("module._orig_mod.blocks.0.a", Some("blocks.0.a")),
            ("_orig_mod.module.model.backbone.encoder.blocks.0.a", Some("blocks.0.a")),
            ("model.blocks.0._orig_mod.a", Some("blocks.0.a")),
            ("encoder.layer.0.a", Some("encoder.layer.0.a")),
            ("encoder.encoder.layer.0.a", Some("encoder.layer.0.a")),
            ("teacher.blocks.0.a", None),
            ("module.fc.weight", None),
        ] {
            assert_eq!(unwrapped(name, &known).as_deref(), left, "{name}");
        }
    }
}
