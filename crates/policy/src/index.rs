//! The policies of a service, found by caller, method and path: only what may apply to a call is evaluated.
//!
//! Policies that concern exactly the same callers are a group; a caller has a list of groups, and a group a table of keys.

use std::collections::HashMap;

use weft_policy_eval::{Bits, Code, Compiled, Way};

use crate::context::Reads;
use crate::table::Table;

/// Callers in all groups, at most: what comes behind is looked at for every caller, as it would take memory without end.
const PLACES_MAX: usize = 2_000_000;

/// A part of a policy that may apply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// The position of the policy.
    pub(crate) policy: u32,
    pub(crate) code: Code,
}

/// The groups.
#[derive(Debug)]
pub(crate) struct Index {
    words: HashMap<Box<str>, u32>,
    groups: Box<[Group]>,
}

#[derive(Debug)]
struct Group {
    /// Those without a key.
    always: Box<[Candidate]>,
    keyed: Table<Candidate>,
    /// What of a call its policies mention.
    reads: Reads,
}

/// Where policies are gathered before there is an index.
#[derive(Debug)]
pub(crate) struct Gathering {
    callers: usize,
    /// Groups by whom they concern.
    groups: HashMap<Bits, Gathered>,
    places: usize,
}

#[derive(Debug, Default)]
struct Gathered {
    ways: Vec<(u32, Way)>,
    reads: Reads,
}

impl Gathering {
    pub(crate) fn new(callers: usize) -> Self {
        Self { callers, groups: HashMap::new(), places: 0 }
    }

    /// Takes a policy. One that never applies is left out.
    pub(crate) fn add(&mut self, policy: u32, reads: Reads, compiled: Compiled) {
        let Compiled { principals, ways, whole } = compiled;
        if ways.is_empty() {
            return;
        }
        let count = if self.groups.contains_key(&principals) { 0 } else { principals.iter().count() };
        let (callers, ways) = if self.places + count <= PLACES_MAX {
            self.places += count;
            (principals, ways)
        } else {
            // For all callers: then who calls has to be evaluated too, and all of the policy with it.
            let keys = ways.into_iter().map(|way| way.keys).collect::<Option<Vec<_>>>();
            (Bits::all(self.callers), vec![Way { keys: keys.map(|keys| keys.concat()), code: whole }])
        };
        let group = self.groups.entry(callers).or_default();
        group.ways.extend(ways.into_iter().map(|way| (policy, way)));
        group.reads = group.reads.union(reads);
    }

    /// The index, and the groups of each caller.
    pub(crate) fn finish(self) -> (Index, Vec<Vec<u32>>) {
        let (mut words, mut groups) = (HashMap::new(), Vec::with_capacity(self.groups.len()));
        let mut of_callers = vec![Vec::new(); self.callers];
        let mut gathered: Vec<_> = self.groups.into_iter().collect();
        // As they stand in the bundle, so that equal bundles make equal engines.
        gathered.sort_by_key(|(_, group)| group.ways[0].0);
        for (callers, group) in gathered {
            callers.iter().for_each(|caller| of_callers[caller].push(groups.len() as u32));
            groups.push(Group::new(group, &mut words));
        }
        (Index { words, groups: groups.into() }, of_callers)
    }
}

impl Group {
    fn new(Gathered { ways, reads }: Gathered, words: &mut HashMap<Box<str>, u32>) -> Self {
        let (mut always, mut keyed) = (Vec::new(), Vec::new());
        for (policy, Way { keys, code }) in ways {
            let candidate = Candidate { policy, code };
            match keys {
                None => always.push(candidate),
                Some(keys) => keyed.extend(keys.into_iter().map(|key| (key, candidate))),
            }
        }
        let number = |word: &str| {
            let next = words.len() as u32;
            *words.entry(word.into()).or_insert(next)
        };
        Self { always: always.into(), keyed: Table::new(keyed, number), reads }
    }
}

impl Index {
    /// What of a call decisions on someone of these groups can depend on.
    pub(crate) fn reads(&self, groups: &[u32]) -> Reads {
        groups.iter().map(|group| self.groups[*group as usize].reads).fold(Reads::NOTHING, Reads::union)
    }

    /// Calls `each` with all that may apply to a call by someone of these groups; what is left out does not apply, and cannot be
    /// an error. The same part may come several times.
    pub(crate) fn candidates(&self, groups: &[u32], method: &str, path: &str, mut each: impl FnMut(Candidate)) {
        let word = self.words.get(method).copied();
        for group in groups {
            let group = &self.groups[*group as usize];
            group.always.iter().copied().for_each(&mut each);
            group.keyed.find(word, path, &mut each);
        }
    }
}
