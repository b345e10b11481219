//! The classes of a backbone, and how names are looked up among them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use super::spelling::spelling;

/// Names that are less alike than this are not called near; 1 means equal.
const ALIKE: f64 = 0.5;

/// The classes of a backbone: their number, and their names as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BackboneClasses {
    count: usize,
    /// Names and their classes.
    names: Vec<(String, u32)>,
    /// Where each name is in `names`.
    exact: HashMap<String, Place>,
    /// Where the name of each spelling is, and each name in a list of names.
    spelled: HashMap<String, Place>,
}

/// The place of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    One(usize),
    /// Two classes are called so.
    Two(u32, u32),
}

/// A name among those of a backbone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known<'a> {
    /// The class has this name.
    Exactly(u32),
    /// The class has a name that is spelled otherwise.
    Spelled(u32, &'a str),
    /// Two classes have this name.
    Twice(u32, u32),
    Not,
}

impl BackboneClasses {
    /// The classes of a backbone that has `count` of them, called `names` (empty if unknown; so is a blank name).
    pub fn new<'a>(count: usize, names: impl IntoIterator<Item = &'a str>) -> Self {
        Self { count, ..Self::default() }.also_called(names)
    }

    /// These classes, which are also called `names`, in the same order. A name that is known already is unchanged.
    #[must_use]
    pub fn also_called<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        let first = self.names.len();
        for (class, name) in (0..).zip(names) {
            let known = matches!(self.exact.get(name), Some(Place::One(at)) if *at < first);
            if !name.trim().is_empty() && !known {
                self.names.push((name.to_string(), class));
            }
        }
        for at in first..self.names.len() {
            let (name, class) = self.names[at].clone();
            insert(&mut self.exact, name.clone(), at, class, &self.names);
            // ImageNet's names are lists: `tench, Tinca tinca`.
            let listed = name.split(',').filter(|_| name.contains(','));
            for spelled in std::iter::once(name.as_str()).chain(listed).map(spelling) {
                if !spelled.is_empty() {
                    insert(&mut self.spelled, spelled, at, class, &self.names);
                }
            }
        }
        self
    }

    /// The number of classes.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Whether the names of the classes are known, or of some of them.
    pub(super) fn are_named(&self) -> bool {
        !self.names.is_empty()
    }

    /// The only class without a name; `None` if there is none, or several.
    pub(super) fn unnamed(&self) -> Option<u32> {
        let named: BTreeSet<u32> = self.names.iter().map(|(_, class)| *class).collect();
        let mut unnamed = (0..self.count as u32).filter(|class| !named.contains(class));
        let only = unnamed.next()?;
        if unnamed.next().is_some() { None } else { Some(only) }
    }

    /// The class that is called `name`.
    pub(super) fn find(&self, name: &str) -> Known<'_> {
        match self.exact.get(name) {
            Some(Place::One(at)) => return Known::Exactly(self.names[*at].1),
            Some(Place::Two(one, other)) => return Known::Twice(*one, *other),
            None => {}
        }
        match self.spelled.get(&spelling(name)) {
            Some(Place::One(at)) => Known::Spelled(self.names[*at].1, &self.names[*at].0),
            Some(Place::Two(one, other)) => Known::Twice(*one, *other),
            None => Known::Not,
        }
    }

    /// The name that is most like `name`, if one is like it at all.
    pub(super) fn nearest(&self, name: &str) -> Option<&str> {
        let wanted = spelling(name);
        let likeness =
            |(known, _): &'_ (String, u32)| strsim::normalized_damerau_levenshtein(&wanted, &spelling(known));
        let rated = self.names.iter().map(|known| (likeness(known), known.0.as_str()));
        rated
            .filter(|(likeness, _)| *likeness >= ALIKE)
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .map(|(_, name)| name)
    }
}

fn insert(places: &mut HashMap<String, Place>, key: String, at: usize, class: u32, names: &[(String, u32)]) {
    match places.entry(key) {
        Entry::Vacant(place) => {
            place.insert(Place::One(at));
        }
        Entry::Occupied(mut place) => {
            if let Place::One(first) = *place.get()
                && names[first].1 != class
            {
                place.insert(Place::Two(names[first].1, class));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_as_they_are_and_by_their_spelling() {
        let classes = BackboneClasses::new(5, ["crane", "Hot dog", "crane", "", "été"]);
        assert_eq!(classes.find("Hot dog"), Known::Exactly(1));
        assert_eq!(classes.find("hot_dog"), Known::Spelled(1, "Hot dog"));
        assert_eq!(classes.find("e\u{301}te\u{301}"), Known::Spelled(4, "été"));
        assert_eq!((classes.find("crane"), classes.find("Crane")), (Known::Twice(0, 2), Known::Twice(0, 2)));
        assert_eq!((classes.find("dog"), classes.find(""), classes.count()), (Known::Not, Known::Not, 5));
        // Two names with the same spelling are told apart by their exact text.
        let both = BackboneClasses::new(2, ["Polish", "polish"]);
        assert_eq!((both.find("polish"), both.find("POLISH")), (Known::Exactly(1), Known::Twice(0, 1)));
    }

    #[test]
    fn further_names_do_not_replace_the_first() {
        let classes = BackboneClasses::new(2, ["tench", "goldfish"]).also_called(["n01440764", "n01443537"]);
        assert_eq!(
            (classes.find("n01443537"), classes.find("tench")),
            (Known::Exactly(1), Known::Exactly(0))
        );
        let classes = BackboneClasses::new(2, ["b", "a"]).also_called(["a", "b"]);
        assert_eq!((classes.find("a"), classes.find("b")), (Known::Exactly(1), Known::Exactly(0)));
        assert!(classes.are_named() && !BackboneClasses::new(3, []).are_named());
    }

    #[test]
    fn the_nearest_name_is_near() {
        let classes = BackboneClasses::new(3, ["moth", "mother", "zebra"]);
        assert_eq!((classes.nearest("Moht"), classes.nearest("zebras")), (Some("moth"), Some("zebra")));
        assert_eq!(classes.nearest("unicorn"), None);
    }
}
