//! A look-up by group, by word and by the beginning of a text: all keys that a request fits, without looking at the others.

use std::ops::Range;

use weft_policy_eval::{Bits, Key};

/// The word of keys that fit any.
const ANY: u32 = u32::MAX;

/// The groups of one caller, both to go through and to be asked.
#[derive(Debug, Default)]
pub(crate) struct Members {
    list: Box<[u32]>,
    bits: Bits,
}

impl Members {
    /// `all` is how many groups there are.
    pub(crate) fn new(list: Vec<u32>, all: usize) -> Self {
        let mut bits = Bits::none(all);
        list.iter().for_each(|group| bits.insert(*group as usize));
        Self { list: list.into(), bits }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// To go through so many items costs no more than to search them for one group.
const FEW: usize = 16;

/// Things by their keys.
#[derive(Debug)]
pub(crate) struct Table<T> {
    /// All beginnings, one after the other.
    text: String,
    /// Sorted by their beginning.
    starts: Box<[Start]>,
    items: Box<[Item<T>]>,
}

/// A beginning of texts.
#[derive(Debug)]
struct Start {
    text: Range<u32>,
    /// The longest other one that this one begins with.
    up: Option<u32>,
    items: Range<u32>,
}

#[derive(Debug)]
struct Item<T> {
    /// Whom it concerns. Items of one beginning are in the order of their groups.
    group: u32,
    word: u32,
    /// True if nothing may follow the beginning.
    whole: bool,
    item: T,
}

impl<T: Copy> Table<T> {
    /// `word` gives words their numbers.
    pub(crate) fn new(mut keyed: Vec<(u32, Key, T)>, mut word: impl FnMut(&str) -> u32) -> Self {
        keyed.sort_by(|(group, one, _), (other, two, _)| one.start.cmp(&two.start).then(group.cmp(other)));
        let (mut text, mut starts, mut items) = (String::new(), Vec::<Start>::new(), Vec::with_capacity(keyed.len()));
        // The beginnings of the last one, itself included.
        let mut chain: Vec<u32> = Vec::new();
        for (group, key, item) in keyed {
            let known = |start: u32| &text[to_usize(&starts[start as usize].text)];
            while chain.last().is_some_and(|last| !key.start.starts_with(known(*last))) {
                chain.pop();
            }
            if chain.last().is_none_or(|last| *known(*last) != *key.start) {
                let (begin, at) = (text.len() as u32, items.len() as u32);
                text.push_str(&key.start);
                let up = chain.last().copied();
                chain.push(starts.len() as u32);
                starts.push(Start { text: begin..text.len() as u32, up, items: at..at });
            }
            let word = key.word.as_deref().map_or(ANY, &mut word);
            items.push(Item { group, word, whole: key.whole, item });
            starts.last_mut().expect("it was just made").items.end += 1;
        }
        text.shrink_to_fit();
        Self { text, starts: starts.into(), items: items.into() }
    }

    /// Calls `each` with what is of one of these groups, and has a key that fits: once a key, in no order. `None` is
    /// a word that no key has.
    ///
    /// The greatest beginning that is not above the text has all beginnings of the text among its own.
    pub(crate) fn find(&self, groups: &Members, word: Option<u32>, text: &str, mut each: impl FnMut(T)) {
        let above = self.starts.partition_point(|start| self.text(start) <= text);
        let mut at = above.checked_sub(1);
        while let Some(index) = at {
            let start = &self.starts[index];
            at = start.up.map(|up| up as usize);
            if !text.starts_with(self.text(start)) {
                continue;
            }
            let is_all = start.text.len() == text.len();
            let fits = |item: &&Item<T>| (item.word == ANY || Some(item.word) == word) && (is_all || !item.whole);
            let items = &self.items[to_usize(&start.items)];
            if items.len() < FEW * groups.list.len() {
                let mine = items.iter().filter(|item| groups.bits.contains(item.group as usize)).filter(fits);
                mine.for_each(|item| each(item.item));
            } else {
                let mine = groups.list.iter().flat_map(|group| of_group(items, *group)).filter(fits);
                mine.for_each(|item| each(item.item));
            }
        }
    }

    fn text(&self, start: &Start) -> &str {
        &self.text[to_usize(&start.text)]
    }
}

fn of_group<T>(items: &[Item<T>], group: u32) -> &[Item<T>] {
    let first = items.partition_point(|item| item.group < group);
    let count = items[first..].iter().take_while(|item| item.group == group).count();
    &items[first..first + count]
}

fn to_usize(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn words(word: &str) -> u32 {
        u32::from(word.as_bytes()[0])
    }

    fn key(word: Option<&str>, start: &str, whole: bool) -> Key {
        Key { word: word.map(Into::into), start: start.into(), whole }
    }

    fn groups(of: &[u32]) -> Members {
        Members::new(of.to_vec(), 9)
    }

    fn found(table: &Table<usize>, groups: &Members, word: &str, text: &str) -> Vec<usize> {
        let mut found = Vec::new();
        table.find(groups, Some(words(word)), text, |item| found.push(item));
        found.sort_unstable();
        found
    }

    #[test]
    fn what_fits_is_found_and_nothing_else() {
        let keys = [
            key(None, "", false),
            key(Some("G"), "/a", false),
            key(Some("P"), "/a", false),
            key(None, "/a/b", true),
            key(None, "/a/b/c", false),
            key(Some("G"), "/a", true),
            key(None, "/b", false),
            key(Some("G"), "", false),
        ];
        let table = Table::new(keys.into_iter().zip(0..).map(|(key, item)| (7, key, item)).collect(), words);
        let found = |word, text| found(&table, &groups(&[2, 7]), word, text);
        assert_eq!(found("G", "/a"), [0, 1, 5, 7]);
        assert_eq!(found("P", "/a/b"), [0, 2, 3]);
        assert_eq!(found("P", "/a/b/cd"), [0, 2, 4]);
        assert_eq!(found("x", "/a/c"), [0]);
        assert_eq!(found("x", "/c"), [0]);
        assert_eq!(found("x", "/b\u{ff}"), [0, 6]);
        assert_eq!(found("x", ""), [0]);
        let mut none = 0;
        table.find(&groups(&[7]), None, "/a", |_| none += 1);
        assert_eq!(none, 1, "a method that no policy knows fits those that take any");
        table.find(&groups(&[6, 8]), None, "/a", |_| panic!("another group's"));
        Table::<usize>::new(Vec::new(), words).find(&groups(&[7]), None, "/a", |_| panic!("there is nothing"));
    }

    proptest! {
        #[test]
        fn a_table_finds_what_looking_at_each_key_finds(
            keys in proptest::collection::vec((0u32..9, proptest::option::of("[GP]"), "[/ab]{0,3}", any::<bool>()), 0..200),
            texts in proptest::collection::vec("[/ab]{0,6}", 1..8),
            mine in proptest::collection::btree_set(0u32..9, 0..6),
            word in "[GPX]",
        ) {
            let keys: Vec<(u32, Key)> =
                keys.iter().map(|(group, word, start, whole)| (*group, key(word.as_deref(), start, *whole))).collect();
            let table = Table::new(keys.iter().cloned().zip(0..).map(|((group, key), at)| (group, key, at)).collect(), words);
            let members = groups(&mine.iter().copied().collect::<Vec<_>>());
            for text in texts {
                let fits = |(group, key): &(u32, Key)| {
                    mine.contains(group)
                        && key.word.as_deref().is_none_or(|want| want == word)
                        && if key.whole { text == *key.start } else { text.starts_with(&*key.start) }
                };
                let expected: Vec<usize> = (0..keys.len()).filter(|at| fits(&keys[*at])).collect();
                prop_assert_eq!(found(&table, &members, &word, &text), expected);
            }
        }
    }
}
