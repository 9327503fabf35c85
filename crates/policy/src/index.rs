//! The policies of a service, found by caller, method, host and path: only what may apply to a call is evaluated.
//!
//! Policies that concern exactly the same callers are a group; a caller has a list of groups, and a group a table of keys.

use std::collections::HashMap;

use weft_policy_eval::{Bits, Code, Compiled, Way};

use crate::context::{self, Reads};
use crate::request::CallRequest;
use crate::table::{Members, Table};

/// Callers in all groups, at most: what comes behind is looked at for every caller, as it would take memory without end.
const PLACES_MAX: usize = 2_000_000;

/// A part of a policy that may apply.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// The position of the policy.
    pub(crate) policy: u32,
    pub(crate) code: Code,
}

/// All policies. One table for all groups: a look-up is one search, however many groups a caller has.
#[derive(Debug)]
pub(crate) struct Index {
    words: HashMap<Box<str>, u32>,
    /// Those without a key, by group.
    always: Box<[Box<[Candidate]>]>,
    keyed: Table<Candidate>,
}

/// The groups that concern one caller.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    all: Members,
    /// Those that have policies without a key.
    always: Vec<u32>,
    /// What of a call their policies mention.
    pub(crate) reads: Reads,
}

impl Groups {
    /// Nothing concerns the caller.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
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

    /// Takes a policy, which is about callers `among` these alone, whatever it says. One that never applies is left out.
    pub(crate) fn add(&mut self, policy: u32, reads: &Reads, compiled: Compiled, among: &Bits) {
        let Compiled { mut principals, ways, whole } = compiled;
        principals.intersect(among);
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
            (among.clone(), vec![Way { keys: keys.map(|keys| keys.concat()), code: whole }])
        };
        let group = self.groups.entry(callers).or_default();
        group.ways.extend(ways.into_iter().map(|way| (policy, way)));
        group.reads.add(reads);
    }

    /// The index, and the groups of each caller.
    pub(crate) fn finish(self) -> (Index, Vec<Groups>) {
        let mut of_callers: Vec<(Vec<u32>, Groups)> = (0..self.callers).map(|_| Default::default()).collect();
        let mut gathered: Vec<_> = self.groups.into_iter().collect();
        // As they stand in the bundle, so that equal bundles make equal engines.
        gathered.sort_by_key(|(_, group)| group.ways[0].0);
        let (mut always, mut keyed) = (Vec::with_capacity(gathered.len()), Vec::new());
        for (number, (callers, group)) in (0..).zip(gathered) {
            let mut without = Vec::new();
            for (policy, Way { keys, code }) in group.ways {
                let candidate = Candidate { policy, code };
                match keys {
                    None => without.push(candidate),
                    Some(keys) => keyed.extend(keys.into_iter().map(|key| (number, key, candidate))),
                }
            }
            for caller in callers.iter() {
                let (all, groups) = &mut of_callers[caller];
                all.push(number);
                groups.always.extend((!without.is_empty()).then_some(number));
                groups.reads.add(&group.reads);
            }
            always.push(without.into());
        }
        let mut words = HashMap::new();
        let keyed = Table::new(keyed, |word| {
            let next = words.len() as u32;
            *words.entry(word.into()).or_insert(next)
        });
        let with_all = |(all, groups)| Groups { all: Members::new(all, always.len()), ..groups };
        let of_callers = of_callers.into_iter().map(with_all).collect();
        (Index { words, always: always.into(), keyed }, of_callers)
    }
}

impl Index {
    /// Calls `each` with all that may apply to a call by someone of these groups; what is left out does not apply, and cannot be
    /// an error. The same part may come several times.
    pub(crate) fn candidates(&self, groups: &Groups, call: &CallRequest<'_>, mut each: impl FnMut(Candidate)) {
        for group in &groups.always {
            self.always[*group as usize].iter().copied().for_each(&mut each);
        }
        let words = context::words(call).map(|word| self.words.get(word).copied());
        self.keyed.find(&groups.all, words, call.path, each);
    }
}
