//! A look-up by group, by words and by the beginning of a text: all keys that a request fits, without looking at the others.

use std::ops::Range;

use weft_policy_eval::{Bits, Key, WORDS};

/// The word of keys that fit any.
const ANY: u32 = u32::MAX;

/// The words of a request, by their numbers; `None` is one that no key has.
pub(crate) type Words = [Option<u32>; WORDS];

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
    /// Whom it concerns. Items of one beginning are in the order of their groups, and those of a group in that of their words.
    group: u32,
    /// From the last, which there are most of: a service has few methods and may have many hosts.
    words: [u32; WORDS],
    /// True if nothing may follow the beginning.
    whole: bool,
    item: T,
}

impl<T: Copy> Table<T> {
    /// `word` gives words their numbers.
    pub(crate) fn new(mut keyed: Vec<(u32, Key, T)>, mut word: impl FnMut(&str) -> u32) -> Self {
        keyed.sort_by(|(_, one, _), (_, two, _)| one.start.cmp(&two.start));
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
            let mut words = key.words.map(|known| known.as_deref().map_or(ANY, &mut word));
            words.reverse();
            items.push(Item { group, words, whole: key.whole, item });
            starts.last_mut().expect("it was just made").items.end += 1;
        }
        for start in &starts {
            items[to_usize(&start.items)].sort_by_key(|item| (item.group, item.words));
        }
        text.shrink_to_fit();
        Self { text, starts: starts.into(), items: items.into() }
    }

    /// Calls `each` with what is of one of these groups, and has a key that fits: once a key, in no order.
    ///
    /// The greatest beginning that is not above the text has all beginnings of the text among its own.
    pub(crate) fn find(&self, groups: &Members, mut words: Words, text: &str, mut each: impl FnMut(T)) {
        words.reverse();
        let above = self.starts.partition_point(|start| self.text(start) <= text);
        let mut at = above.checked_sub(1);
        while let Some(index) = at {
            let start = &self.starts[index];
            at = start.up.map(|up| up as usize);
            if !text.starts_with(self.text(start)) {
                continue;
            }
            let is_all = start.text.len() == text.len();
            let fits = |item: &&Item<T>| {
                let mut pairs = item.words.iter().zip(words);
                (is_all || !item.whole) && pairs.all(|(key, word)| *key == ANY || Some(*key) == word)
            };
            let items = &self.items[to_usize(&start.items)];
            if items.len() < FEW * groups.list.len() {
                let mine = items.iter().filter(|item| groups.bits.contains(item.group as usize)).filter(fits);
                mine.for_each(|item| each(item.item));
            } else {
                let mine = groups.list.iter().flat_map(|group| of_group(items, *group, words[0])).filter(fits);
                mine.for_each(|item| each(item.item));
            }
        }
    }

    fn text(&self, start: &Start) -> &str {
        &self.text[to_usize(&start.text)]
    }
}

/// Those of a group whose first word is this one or any.
fn of_group<T>(items: &[Item<T>], group: u32, word: Option<u32>) -> impl Iterator<Item = &Item<T>> {
    let with = move |word: u32| {
        let first = items.partition_point(|item| (item.group, item.words[0]) < (group, word));
        items[first..].iter().take_while(move |item| (item.group, item.words[0]) == (group, word))
    };
    word.into_iter().chain([ANY]).flat_map(with)
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

    fn key(words: [Option<&str>; WORDS], start: &str, whole: bool) -> Key {
        Key { words: words.map(|word| word.map(Into::into)), start: start.into(), whole }
    }

    fn first(word: Option<&str>, start: &str, whole: bool) -> Key {
        key([word, None], start, whole)
    }

    fn groups(of: &[u32]) -> Members {
        Members::new(of.to_vec(), 9)
    }

    fn found(table: &Table<usize>, groups: &Members, of: [&str; WORDS], text: &str) -> Vec<usize> {
        let mut found = Vec::new();
        table.find(groups, of.map(|word| Some(words(word))), text, |item| found.push(item));
        found.sort_unstable();
        found
    }

    #[test]
    fn what_fits_is_found_and_nothing_else() {
        let keys = [
            first(None, "", false),
            first(Some("G"), "/a", false),
            first(Some("P"), "/a", false),
            first(None, "/a/b", true),
            first(None, "/a/b/c", false),
            first(Some("G"), "/a", true),
            first(None, "/b", false),
            first(Some("G"), "", false),
            key([None, Some("h")], "", false),
            key([Some("P"), Some("i")], "/a", false),
        ];
        let table = Table::new(keys.into_iter().zip(0..).map(|(key, item)| (7, key, item)).collect(), words);
        let found = |word, text| found(&table, &groups(&[2, 7]), [word, "z"], text);
        assert_eq!(found("G", "/a"), [0, 1, 5, 7]);
        assert_eq!(found("P", "/a/b"), [0, 2, 3]);
        assert_eq!(found("P", "/a/b/cd"), [0, 2, 4]);
        assert_eq!(found("x", "/a/c"), [0]);
        assert_eq!(found("x", "/c"), [0]);
        assert_eq!(found("x", "/b\u{ff}"), [0, 6]);
        assert_eq!(found("x", ""), [0]);
        let with_host = |word, host, text| super::tests::found(&table, &groups(&[7]), [word, host], text);
        assert_eq!(with_host("x", "h", "/c"), [0, 8]);
        assert_eq!(with_host("x", "i", "/a"), [0]);
        assert_eq!(with_host("P", "i", "/a"), [0, 2, 9]);
        let mut none = 0;
        table.find(&groups(&[7]), [None, None], "/a", |_| none += 1);
        assert_eq!(none, 1, "a method that no policy knows fits those that take any");
        table.find(&groups(&[6, 8]), [None, None], "/a", |_| panic!("another group's"));
        Table::<usize>::new(Vec::new(), words).find(&groups(&[7]), [None, None], "/a", |_| panic!("there is nothing"));
    }

    proptest! {
        #[test]
        fn a_table_finds_what_looking_at_each_key_finds(
            keys in proptest::collection::vec(
                (0u32..9, proptest::option::of("[GP]"), proptest::option::of("[hi]"), "[/ab]{0,3}", any::<bool>()),
                0..200,
            ),
            texts in proptest::collection::vec("[/ab]{0,6}", 1..8),
            mine in proptest::collection::btree_set(0u32..9, 0..6),
            (word, host) in ("[GPX]", "[hix]"),
        ) {
            let keyed = |(group, word, host, start, whole): &(u32, Option<String>, Option<String>, String, bool)| {
                (*group, key([word.as_deref(), host.as_deref()], start, *whole))
            };
            let keys: Vec<(u32, Key)> = keys.iter().map(keyed).collect();
            let table = Table::new(keys.iter().cloned().zip(0..).map(|((group, key), at)| (group, key, at)).collect(), words);
            let members = groups(&mine.iter().copied().collect::<Vec<_>>());
            for text in texts {
                let fits = |(group, key): &(u32, Key)| {
                    let mut words = key.words.iter().zip([&word, &host]);
                    mine.contains(group)
                        && words.all(|(want, word)| want.as_deref().is_none_or(|want| want == word))
                        && if key.whole { text == *key.start } else { text.starts_with(&*key.start) }
                };
                let expected: Vec<usize> = (0..keys.len()).filter(|at| fits(&keys[*at])).collect();
                prop_assert_eq!(found(&table, &members, [&word, &host], &text), expected);
            }
        }
    }
}
