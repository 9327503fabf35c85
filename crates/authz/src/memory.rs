//! Remembered decisions in shards, so that many who ask at once wait for nobody.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, TryLockError};
use std::time::Instant;

use weft_policy::{CallRequest, Decided, Decisions, Engine};

/// Calls that hash to different shards are remembered apart. Each shard holds at most what [`Decisions`] does, about 5 MiB of the longest keys.
const SHARDS: usize = 8;

/// What engines decided, of all callees. A call whose shard is in use at this moment is decided without memory: that takes
/// microseconds, and is the same decision.
#[derive(Default)]
pub(crate) struct Memory {
    shards: [Mutex<Decisions>; SHARDS],
    /// With a key of its own, so that nobody can choose calls of one shard.
    hasher: RandomState,
}

impl Memory {
    /// What `engine` decides on `request`, remembered or fresh.
    pub(crate) fn decide(&self, engine: &Engine, request: &CallRequest<'_>) -> Decided {
        match self.shard(request).try_lock() {
            Ok(mut decisions) => decisions.decide(engine, request),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().decide(engine, request),
            Err(TryLockError::WouldBlock) => {
                let began = Instant::now();
                let decision = engine.decide(request);
                Decided { decision, evaluated: Some(began.elapsed()) }
            }
        }
    }

    /// By caller and path, so that the calls of one busy caller are spread too.
    fn shard(&self, request: &CallRequest<'_>) -> &Mutex<Decisions> {
        let caller = request.principal.as_str();
        &self.shards[self.hasher.hash_one((caller, request.path)) as usize % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use weft_policy::{Decision, testing};

    use super::*;

    #[test]
    fn a_shard_that_another_holds_stops_no_check() {
        let mut intent = testing::intent(&["prod/web", "prod/board"]);
        testing::policies(&mut intent, "permit(principal, action, resource) when { context.path == \"/a\" };");
        let (engine, id) = (testing::engine(&intent, "prod/board"), testing::id("prod/web"));
        let memory = Memory::default();
        let request = |path| CallRequest { path, ..testing::request(&id) };
        // The sentence of a denial by default is made anew by each evaluation.
        let remembered = memory.decide(&engine, &request("/b")).decision;
        let is_same = |other: &Decision| std::sync::Arc::ptr_eq(&remembered.reason, &other.reason);
        assert!(is_same(&memory.decide(&engine, &request("/b")).decision));
        let held: Vec<_> = memory.shards.iter().map(|shard| shard.lock().expect("not poisoned")).collect();
        let meanwhile = memory.decide(&engine, &request("/b")).decision;
        assert!(!meanwhile.allowed && !is_same(&meanwhile), "decided, and not from memory");
        assert!(memory.decide(&engine, &request("/a")).decision.allowed);
        drop(held);
        assert!(is_same(&memory.decide(&engine, &request("/b")).decision), "and nothing is forgotten by it");
    }

    #[test]
    fn one_callers_calls_are_spread_over_the_shards() {
        let (memory, id) = (Memory::default(), testing::id("prod/web"));
        let shards: std::collections::HashSet<_> = (0..200)
            .map(|n| {
                let path = format!("/{n}");
                std::ptr::from_ref(memory.shard(&CallRequest { path: &path, ..testing::request(&id) }))
            })
            .collect();
        assert_eq!(shards.len(), SHARDS);
    }
}
