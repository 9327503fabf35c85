//! What a request must have for a condition to be anything but false, so that policies can be looked up by it.

use crate::certain::{Certain, Known};
use crate::constant::Constant;
use crate::node::{Binary, List, Node, NodeId};
use crate::shape::{Lookup, WORDS};

/// Most keys of one policy; one that would need more is looked at for every request.
pub(crate) const KEYS_MAX: usize = 1024;

/// What a request must have: all that is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Key {
    /// The words, such as the method.
    pub words: [Option<Box<str>>; WORDS],
    /// How the text begins, such as the path.
    pub start: Box<str>,
    /// Whether that is all of the text.
    pub whole: bool,
}

impl Key {
    /// A request that has both; `None` if none can.
    fn and(&self, other: &Self) -> Option<Self> {
        let mut words = self.words.clone();
        for (word, other) in words.iter_mut().zip(&other.words) {
            match (&word, other) {
                (Some(one), Some(two)) if one != two => return None,
                (None, Some(_)) => word.clone_from(other),
                _ => {}
            }
        }
        let (short, long) = if self.start.len() <= other.start.len() { (self, other) } else { (other, self) };
        if !long.start.starts_with(&*short.start) || (short.whole && short.start.len() < long.start.len()) {
            return None;
        }
        Some(Self { words, start: long.start.clone(), whole: self.whole || other.whole })
    }

    fn says_nothing(&self) -> bool {
        self.words.iter().all(Option::is_none) && self.start.is_empty() && !self.whole
    }
}

/// The keys of `a && b`. `None` is no key at all, and so more than any.
pub(crate) fn and(left: Option<&[Key]>, right: Option<&[Key]>) -> Option<Vec<Key>> {
    match (left, right) {
        (None, None) => None,
        (Some(keys), None) | (None, Some(keys)) => Some(keys.to_vec()),
        (Some(left), Some(right)) if left.len() * right.len() > KEYS_MAX => {
            Some(if left.len() <= right.len() { left } else { right }.to_vec())
        }
        (Some(left), Some(right)) => {
            Some(left.iter().flat_map(|one| right.iter().filter_map(|two| one.and(two))).collect())
        }
    }
}

impl Certain<'_> {
    /// Keys of which a request has one, or the condition is false without an error. `None` if there are none.
    pub(crate) fn keys(&self, id: NodeId, known: &Known) -> Option<Vec<Key>> {
        match self.program().node(id) {
            Node::Constant(number) if *self.program().constant(number) == Constant::Bool(false) => Some(Vec::new()),
            Node::All(list) => self.keys_of_all(list, known),
            Node::Any(list) => {
                let (mut keys, mut known) = (Vec::new(), known.clone());
                for each in self.program().list_of_nodes(list) {
                    keys.extend(self.keys(each, &known)?);
                    if keys.len() > KEYS_MAX {
                        return None;
                    }
                    self.learn(each, false, &mut known);
                }
                Some(keys)
            }
            Node::Binary { .. } | Node::Like { .. } => {
                self.is_test(id, known).then_some(())?;
                let keys = self.keys_of_comparison(id)?;
                keys.iter().all(|key| !key.says_nothing()).then_some(keys)
            }
            _ => None,
        }
    }

    /// An operand can be looked up by as long as none before it can be an error.
    fn keys_of_all(&self, list: List, known: &Known) -> Option<Vec<Key>> {
        let (mut keys, mut known) = (None, known.clone());
        for each in self.program().list_of_nodes(list) {
            keys = and(keys.as_deref(), self.keys(each, &known).as_deref());
            if !self.is_test(each, &known) {
                break;
            }
            self.learn(each, true, &mut known);
        }
        keys
    }

    fn keys_of_comparison(&self, id: NodeId) -> Option<Vec<Key>> {
        let lookup = |id| self.field(id).and_then(|field| field.lookup);
        let text = |id| self.program().constant_at(id).and_then(Constant::as_text);
        match self.program().node(id) {
            Node::Binary { operator: Binary::Equal, left, right } => match (lookup(left), text(right)) {
                (Some(lookup), Some(text)) => Some(vec![equals(lookup, text)]),
                _ => Some(vec![equals(lookup(right)?, text(left)?)]),
            },
            Node::Binary { operator: Binary::Contains, left, right } => {
                let Constant::Set(set) = self.program().constant_at(left)? else { return None };
                let lookup = lookup(right)?;
                let texts = set.items().iter().filter_map(Constant::as_text);
                let keys: Vec<Key> = texts.map(|text| equals(lookup, text)).collect();
                (keys.len() <= KEYS_MAX).then_some(keys)
            }
            Node::Like { of, pattern } => {
                let (start, whole) = self.program().patterns[pattern as usize].start();
                Some(vec![match lookup(of)? {
                    word @ Lookup::Word(_) if whole => equals(word, start),
                    Lookup::Word(_) => return None,
                    Lookup::Text => Key { start: start.into(), whole, ..Key::default() },
                    Lookup::Head => Key { start: start.into(), ..Key::default() },
                }])
            }
            _ => None,
        }
    }
}

fn equals(lookup: Lookup, text: &str) -> Key {
    match lookup {
        Lookup::Word(at) => {
            let mut key = Key::default();
            key.words[at] = Some(text.into());
            key
        }
        Lookup::Text => Key { start: text.into(), whole: true, ..Key::default() },
        Lookup::Head => Key { start: text.into(), ..Key::default() },
    }
}
