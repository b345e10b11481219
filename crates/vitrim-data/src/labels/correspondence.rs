//! Which classes of a backbone the classes of a data set are: by their names, by the numbers in their names, or by
//! their order.
//!
//! Where readings differ, none is chosen. Where the only reading is a guess, a note says so.

use std::collections::HashMap;

use super::backbone::{BackboneClasses, Known};
use super::order::{LabelOrder, bare_numbers, by_number, number_in};

/// Names that a message lists before it counts the others.
const NAMED: usize = 3;

/// The classes of a data set.
pub(crate) struct OwnClasses<'a> {
    /// Their names, in the data set's own order.
    pub names: &'a [String],
    /// Whether an image has the class.
    pub used: &'a [bool],
    /// Whether the data set numbers its classes itself, and the order is not merely that of their names.
    pub numbered: bool,
}

/// The classes of a data set among those of a backbone.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Correspondence {
    /// The backbone's class for each class; `None` if they are the same. A class without images may have none.
    pub classes: Option<Vec<Option<u32>>>,
    /// What was guessed, if anything was.
    pub note: Option<String>,
}

/// Finds the classes of `own` among those of `backbone`: in the order `order`, or by their names and numbers.
///
/// # Errors
///
/// One sentence that says why it is not known which classes they are, and what decides it.
pub(crate) fn correspond(
    own: &OwnClasses<'_>,
    backbone: &BackboneClasses,
    order: Option<LabelOrder>,
) -> Result<Correspondence, String> {
    match order {
        Some(LabelOrder::Own) => Ok(Correspondence::default()),
        Some(LabelOrder::Number) => own.in_order_of_numbers(backbone),
        Some(LabelOrder::Index) => own.by_index(backbone),
        None => match own.by_name(backbone)? {
            Some(found) => Ok(found),
            None => own.guessed(backbone),
        },
    }
}

/// The error for the classes `left`, which the backbone does not name; it names `known` others of the data set.
pub(super) fn unknown(left: &[&str], known: usize, backbone: &BackboneClasses) -> String {
    format!("{}; rename what is misspelled, or give --label-map FILE", not_among(left, known, backbone))
}

fn not_among(left: &[&str], known: usize, backbone: &BackboneClasses) -> String {
    let named = left.iter().map(|name| match backbone.find(name) {
        Known::Twice(one, other) => format!("`{name}` (class {one} or {other}?)"),
        _ => match backbone.nearest(name) {
            Some(nearest) => format!("`{name}` (nearest: `{nearest}`)"),
            None => format!("`{name}`"),
        },
    });
    let (class, is) = if left.len() == 1 { ("class", "is") } else { ("classes", "are") };
    let others = if known == 0 { String::new() } else { format!(", which have the other {known}") };
    format!("{class} {} {is} not among the backbone's class names{others}", first_of(named))
}

/// The first of `items`, and the number of the others.
pub(super) fn first_of(items: impl ExactSizeIterator<Item = String>) -> String {
    let more = items.len().saturating_sub(NAMED);
    let first = items.take(NAMED).collect::<Vec<_>>().join(", ");
    if more == 0 { first } else { format!("{first} and {more} more") }
}

impl<'a> OwnClasses<'a> {
    /// The classes that images have, with their names.
    fn used(&self) -> impl Iterator<Item = (usize, &'a str)> {
        let names = self.names;
        let is_used = |(_, used): &(usize, &bool)| **used;
        self.used.iter().enumerate().filter(is_used).map(|(class, _)| (class, names[class].as_str()))
    }

    /// The correspondence by name; `None` if no name is known.
    fn by_name(&self, backbone: &BackboneClasses) -> Result<Option<Correspondence>, String> {
        let mut classes = vec![None; self.names.len()];
        let (mut left, mut guessed) = (Vec::new(), Vec::new());
        // The first name of each of the backbone's classes, and whether it is spelled as there.
        let mut taken = HashMap::<u32, (&str, bool)>::new();
        for (at, name) in self.used() {
            let (class, exact) = match backbone.find(name) {
                Known::Exactly(class) => (class, true),
                Known::Spelled(class, known) => {
                    guessed.push(format!("`{name}` is `{known}`"));
                    (class, false)
                }
                Known::Twice(..) | Known::Not => {
                    left.push(name);
                    continue;
                }
            };
            classes[at] = Some(class);
            if let Some((other, was_exact)) = taken.insert(class, (name, exact))
                && !(exact && was_exact)
            {
                return Err(format!(
                    "classes `{other}` and `{name}` would both be the backbone's class {class}; rename or join them, \
                     or give --label-map FILE"
                ));
            }
        }
        let known = classes.iter().flatten().count();
        let twice = |name: &&str| matches!(backbone.find(name), Known::Twice(..));
        // By elimination: the only name left belongs to the only class without a name.
        if let ([name], Some(unnamed)) = (left.as_slice(), backbone.unnamed())
            && known + 1 == backbone.count()
            && self.names.len() == backbone.count()
            && !twice(name)
            && !taken.contains_key(&unnamed)
            && let Some(at) = self.names.iter().position(|own| own == name)
        {
            classes[at] = Some(unnamed);
            guessed.push(format!("`{name}` is class {unnamed}, which alone has no name"));
            left.clear();
        }
        if known == 0 && !left.iter().any(twice) {
            return Ok(None);
        }
        let in_place = |(at, class): (usize, &Option<u32>)| class.is_none_or(|class| class as usize == at);
        let in_order = self.names.len() == backbone.count() && classes.iter().enumerate().all(in_place);
        let note = match (left.is_empty(), guessed.is_empty()) {
            (true, true) => None,
            (true, false) => {
                Some(format!("class names are not exactly the backbone's: {}", first_of(guessed.into_iter())))
            }
            // The data set's own numbers are the backbone's wherever the name is known.
            (false, _) if self.numbered && in_order => Some(format!(
                "{}; the data set's numbers are taken, which are the backbone's for the known names",
                not_among(&left, known, backbone)
            )),
            (false, _) => return Err(unknown(&left, known, backbone)),
        };
        Ok(Some(Correspondence { classes: (!in_order).then_some(classes), note }))
    }

    /// The correspondence of classes whose names are unknown.
    fn guessed(&self, backbone: &BackboneClasses) -> Result<Correspondence, String> {
        if !self.numbered
            && let Some(found) = self.by_bare_numbers(backbone)?
        {
            return Ok(found);
        }
        // Another number of classes is refused where the classes are compared.
        if self.names.len() != backbone.count() || self.used().next().is_none() {
            return Ok(Correspondence::default());
        }
        let why = match backbone.are_named() {
            true => "the backbone does not know the class names",
            false => "the backbone has no class names",
        };
        if self.numbered {
            let note = format!("{why}; the data set's numbers of its classes are taken as the backbone's");
            return Ok(Correspondence { classes: None, note: Some(note) });
        }
        let rank = self.rank_by_number();
        if let Some(moved) = (0..rank.len()).find(|&at| rank[at] as usize != at) {
            return Err(format!(
                "the class names have two orders: as text `{}` is class {moved}, by number it is class {}; give \
                 --label-order own for the first, --label-order number for the second, or --label-map FILE",
                self.names[moved], rank[moved]
            ));
        }
        let last = self.names.len() - 1;
        let note = format!(
            "{why}; the classes are taken in the order of their names, `{}` as class 0 to `{}` as class {last}; \
             --label-map FILE sets another",
            self.names[0], self.names[last]
        );
        Ok(Correspondence { classes: None, note: Some(note) })
    }

    /// The correspondence of classes that are called by numbers alone, each of which is a class of the backbone.
    fn by_bare_numbers(&self, backbone: &BackboneClasses) -> Result<Option<Correspondence>, String> {
        let Some(numbers) = bare_numbers(self.names) else { return Ok(None) };
        if numbers.is_empty() || !numbers.iter().all(|number| (*number as usize) < backbone.count()) {
            return Ok(None);
        }
        let lowest = numbers.iter().enumerate().min_by_key(|(_, number)| **number);
        let last = numbers.iter().copied().max().unwrap_or_default() as usize;
        if let Some((first, 1)) = lowest.map(|(at, number)| (self.names[at].as_str(), *number))
            && last == numbers.len()
            && last > 1
        {
            return Err(format!(
                "classes `{first}` to `{last}` can be counted from 0, so that `{first}` is class 1, or from 1, so that \
                 it is class 0; give --label-order index for the first, --label-map FILE for the second"
            ));
        }
        let moved = numbers.iter().enumerate().find(|(at, number)| **number as usize != *at);
        let all = numbers.len() == backbone.count();
        let note = match moved {
            // The order of the names says the same.
            None if all => return Ok(Some(Correspondence::default())),
            Some((at, number)) if all => format!(
                "classes are called by number, which is taken as the class: `{}` is class {} (--label-order own sorts the \
                 names as text, as torchvision does: it is then class {at})",
                self.names[at], number
            ),
            _ => format!(
                "classes are called by number, which is taken as the class, counted from 0: {} of the backbone's {}",
                numbers.len(),
                backbone.count()
            ),
        };
        let classes = numbers.into_iter().map(Some).collect();
        Ok(Some(Correspondence { classes: Some(classes), note: Some(note) }))
    }

    /// The position of each class in the order by number.
    fn rank_by_number(&self) -> Vec<u32> {
        let mut sorted: Vec<usize> = (0..self.names.len()).collect();
        sorted.sort_by(|&a, &b| by_number(&self.names[a], &self.names[b]));
        let mut rank = vec![0; sorted.len()];
        for (class, &at) in sorted.iter().enumerate() {
            rank[at] = class as u32;
        }
        rank
    }

    fn in_order_of_numbers(&self, backbone: &BackboneClasses) -> Result<Correspondence, String> {
        let (own, all) = (self.names.len(), backbone.count());
        if own != all {
            return Err(format!(
                "--label-order number needs all of the backbone's {all} classes, but there are {own}"
            ));
        }
        if let Some((_, name)) = self.used().find(|(_, name)| !name.bytes().any(|byte| byte.is_ascii_digit()))
        {
            return Err(format!("--label-order number: class `{name}` has no number in its name"));
        }
        let classes = self.rank_by_number().into_iter().map(Some).collect();
        Ok(Correspondence { classes: Some(classes), note: None })
    }

    fn by_index(&self, backbone: &BackboneClasses) -> Result<Correspondence, String> {
        let mut classes = vec![None; self.names.len()];
        let mut taken = HashMap::new();
        for (at, name) in self.used() {
            let class = index_in(name, backbone)?;
            if let Some(other) = taken.insert(class, name) {
                return Err(format!(
                    "--label-order index: classes `{other}` and `{name}` have the same number"
                ));
            }
            classes[at] = Some(class);
        }
        Ok(Correspondence { classes: Some(classes), note: None })
    }
}

/// The class whose number `name` has, for [`LabelOrder::Index`].
pub(super) fn index_in(name: &str, backbone: &BackboneClasses) -> Result<u32, String> {
    let last = backbone.count().saturating_sub(1);
    match number_in(name) {
        Some(class) if (class as usize) <= last => Ok(class),
        Some(_) => Err(format!("--label-order index: class `{name}` has no number from 0 to {last}")),
        None => Err(format!("--label-order index: class `{name}` has not one number in its name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(
        names: &[&str],
        numbered: bool,
        backbone: &BackboneClasses,
        order: Option<LabelOrder>,
    ) -> Result<Correspondence, String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_string()).collect();
        let used: Vec<bool> = names.iter().map(|name| !name.ends_with("(empty)")).collect();
        correspond(&OwnClasses { names: &names, used: &used, numbered }, backbone, order)
    }

    /// The classes and the note of folders called `names`.
    fn folders(names: &[&str], backbone: &BackboneClasses) -> (Option<Vec<Option<u32>>>, String) {
        let found = found(names, false, backbone, None).unwrap();
        (found.classes, found.note.unwrap_or_default())
    }

    fn refusal(names: &[&str], backbone: &BackboneClasses) -> String {
        found(names, false, backbone, None).unwrap_err()
    }

    fn some(classes: &[u32]) -> Option<Vec<Option<u32>>> {
        Some(classes.iter().copied().map(Some).collect())
    }

    fn sorted(form: impl Fn(u32) -> String, numbers: std::ops::Range<u32>) -> Vec<String> {
        let mut names: Vec<String> = numbers.map(form).collect();
        names.sort();
        names
    }

    fn strs(names: &[String]) -> Vec<&str> {
        names.iter().map(String::as_str).collect()
    }

    #[test]
    fn known_names_are_found_in_any_order() {
        let backbone = BackboneClasses::new(3, ["zebra", "ant", "moth"]);
        assert_eq!(folders(&["ant", "moth", "zebra"], &backbone), (some(&[1, 2, 0]), String::new()));
        assert_eq!(folders(&["ant"], &backbone), (some(&[1]), String::new()));
        assert_eq!(
            folders(&["zebra", "ant", "moth"], &backbone),
            (None, String::new()),
            "they are themselves"
        );
        assert_eq!(folders(&["zebra", "ant", "x (empty)"], &backbone), (None, String::new()));
    }

    #[test]
    fn names_that_are_spelled_otherwise_are_found_and_said() {
        let backbone = BackboneClasses::new(4, ["Zèbre", "hot dog", "moth", "tench, Tinca tinca"]);
        let (classes, note) = folders(&["MOTH", "hot_dog", "tench", "ze\u{300}bre"], &backbone);
        assert_eq!(classes, some(&[2, 1, 3, 0]));
        assert!(
            note.contains("`MOTH` is `moth`, `hot_dog` is `hot dog`") && note.contains("and 1 more"),
            "{note}"
        );
        let both = refusal(&["Moth", "moth"], &backbone);
        assert!(both.contains("`Moth` and `moth` would both be the backbone's class 2"), "{both}");
    }

    #[test]
    fn some_known_names_leave_no_guess_for_the_others() {
        let backbone = BackboneClasses::new(3, ["zebra", "ant", "moth"]);
        let refused = refusal(&["ant", "moht", "zebra"], &backbone);
        assert!(refused.contains("class `moht` (nearest: `moth`) is not among"), "{refused}");
        assert!(refused.contains("the other 2") && refused.contains("--label-map"), "{refused}");
        let refused = refusal(&["ant", "b", "c", "d", "e"], &backbone);
        assert!(refused.contains("classes `b`, `c`, `d` and 1 more are not among"), "{refused}");
        // By elimination: one class has no name, and one name no class.
        let gap = BackboneClasses::new(3, ["zebra", "", "moth"]);
        let (classes, note) = folders(&["ant", "moth", "zebra"], &gap);
        assert!(
            classes == some(&[1, 2, 0]) && note.contains("`ant` is class 1, which alone has no name"),
            "{note}"
        );
        assert!(refusal(&["ant", "moth"], &gap).contains("`ant` is not among"));
        assert!(refusal(&["ant", "bee", "zebra"], &gap).contains("classes `ant`, `bee` are not among"));
        let twice = BackboneClasses::new(3, ["crane", "ant", "crane"]);
        assert!(refusal(&["ant", "crane", "moth"], &twice).contains("`crane` (class 0 or 2?)"));
        // Numbers that the data set gives to its classes are right where the names are known.
        let numbered = found(&["zebra", "emmet", "moth"], true, &backbone, None).unwrap();
        assert_eq!(numbered.classes, None);
        assert!(numbered.note.unwrap().contains("`emmet` is not among"));
        assert!(found(&["moth", "emmet", "zebra"], true, &backbone, None).is_err());
    }

    #[test]
    fn bare_numbers_are_the_classes() {
        let backbone = BackboneClasses::new(12, []);
        let names = sorted(|n| n.to_string(), 0..12);
        let (classes, note) = folders(&strs(&names), &backbone);
        assert_eq!(classes, some(&[0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]));
        assert!(note.contains("`10` is class 10") && note.contains("it is then class 2"), "{note}");
        // The same if the backbone has names; no note if the order gives the same classes.
        let named = BackboneClasses::new(3, ["a", "b", "c"]);
        assert_eq!(folders(&["0", "1", "2"], &named), (None, String::new()));
        let padded = sorted(|n| format!("{n:02}"), 0..12);
        assert_eq!(folders(&strs(&padded), &backbone), (None, String::new()));
        let (classes, note) = folders(&["10", "3"], &backbone);
        assert!(classes == some(&[10, 3]) && note.contains("2 of the backbone's 12"), "{note}");
        // The names of the backbone come first, also if they are numbers.
        let digits = BackboneClasses::new(3, ["2", "1", "0"]);
        assert_eq!(folders(&["0", "1", "2"], &digits).0, some(&[2, 1, 0]));
    }

    #[test]
    fn numbers_with_two_readings_are_refused_with_both() {
        let backbone = BackboneClasses::new(12, []);
        for names in [
            sorted(|n| n.to_string(), 1..13),
            sorted(|n| format!("class_{n}"), 1..13),
            sorted(|n| format!("class_{n}"), 0..12),
            sorted(|n| format!("{n} mm"), 1..13),
        ] {
            let refused = refusal(&strs(&names), &backbone);
            assert!(refused.contains("two orders") && refused.contains("--label-order number"), "{refused}");
        }
        let refused = refusal(&["1", "2", "3"], &backbone);
        assert!(
            refused.contains("so that `1` is class 1") && refused.contains("--label-order index"),
            "{refused}"
        );
        // If both orders agree, the note says that the order was taken.
        let padded = sorted(|n| format!("{n:02}"), 1..13);
        let (classes, note) = folders(&strs(&padded), &backbone);
        assert!(classes.is_none() && note.contains("`01` as class 0 to `12` as class 11"), "{note}");
    }

    #[test]
    fn unknown_names_are_taken_in_order_and_that_is_said() {
        let (classes, note) = folders(&["cat", "dog"], &BackboneClasses::new(2, []));
        assert!(
            classes.is_none() && note.contains("no class names") && note.contains("`cat` as class 0"),
            "{note}"
        );
        let (_, note) = folders(&["cat", "dog"], &BackboneClasses::new(2, ["Katze", "Hund"]));
        assert!(note.contains("does not know"), "{note}");
        let numbered = found(&["dog", "cat"], true, &BackboneClasses::new(2, []), None).unwrap();
        assert!(numbered.classes.is_none() && numbered.note.unwrap().contains("numbers of its classes"));
        // Another number of classes is refused elsewhere.
        assert_eq!(folders(&["cat", "dog"], &BackboneClasses::new(9, [])), (None, String::new()));
    }

    #[test]
    fn a_given_order_decides() {
        let backbone = BackboneClasses::new(12, ["class_10"]);
        let names = sorted(|n| format!("class_{n}"), 0..12);
        let given = |order| found(&strs(&names), false, &backbone, Some(order)).unwrap();
        let by_number = some(&[0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(given(LabelOrder::Own), Correspondence::default());
        assert_eq!(given(LabelOrder::Number), Correspondence { classes: by_number.clone(), note: None });
        assert_eq!(given(LabelOrder::Index), Correspondence { classes: by_number, note: None });
        let from_1 = sorted(|n| format!("class_{n}"), 1..13);
        let two = BackboneClasses::new(2, []);
        let found = |names: &[&str], order| {
            let backbone = if names.len() == 2 { &two } else { &backbone };
            found(names, false, backbone, Some(order))
        };
        assert_eq!(
            found(&strs(&from_1), LabelOrder::Number).unwrap().classes.unwrap()[..3],
            [Some(0), Some(9), Some(10)]
        );
        for (names, order, words) in [
            (&strs(&from_1)[..], LabelOrder::Index, "`class_12` has no number from 0 to 11"),
            (&["a1b2", "c3"], LabelOrder::Index, "`a1b2` has not one number"),
            (&["a1", "b1"], LabelOrder::Index, "`a1` and `b1` have the same number"),
            (&["a1", "b"], LabelOrder::Number, "`b` has no number"),
            (&["a1", "a2", "a3"], LabelOrder::Number, "backbone's 12 classes, but there are 3"),
        ] {
            let refused = found(names, order).unwrap_err();
            assert!(refused.contains(words), "{refused}");
        }
    }
}
