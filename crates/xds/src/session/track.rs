//! What one client follows of one type, what it has, and the difference to what it should have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::{Resource, Resources};

/// A response that waits for its ACK or NACK.
pub(super) struct Outstanding {
    pub(super) nonce: String,
    pub(super) revision: Arc<str>,
    /// All names in it, removed ones too.
    pub(super) names: Vec<Arc<str>>,
}

/// What the client has been told about a name.
enum Known {
    /// It does not exist.
    Absent,
    /// This version was sent (also if it was refused: it is not sent again until it changes), or the client said that it has it; then
    /// the resource is unknown.
    Sent { version: Arc<str>, resource: Option<Arc<Resource>> },
}

/// The difference between what the client has and what it should have.
#[derive(Default)]
struct Plan {
    changes: Vec<Arc<Resource>>,
    /// Names that were asked for and do not exist: nothing the client has goes away, so nothing needs to wait.
    absent: Vec<Arc<str>>,
    /// Resources that the client has and should lose.
    removals: Vec<Arc<str>>,
    /// A response goes out even if it is empty.
    answer: bool,
}

/// What goes into one response.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) changes: Vec<Arc<Resource>>,
    pub(super) removed: Vec<Arc<str>>,
}

/// One client, one type.
#[derive(Default)]
pub struct Track {
    /// Follows everything, beside the names.
    wildcard: bool,
    /// Has given a name at least once, so that no names mean none.
    named: bool,
    names: BTreeSet<Arc<str>>,
    known: BTreeMap<Arc<str>, Known>,
    /// Names to answer for even if the client should have them already.
    due: BTreeSet<Arc<str>>,
    /// A response is due even if it is empty: a client that follows everything must learn that there is nothing.
    answer_due: bool,
    /// `None` when something changed since it was made.
    plan: Option<Plan>,
    pub(super) outstanding: Option<Outstanding>,
    /// Names of which the client has refused the newest version, or the removal: of these it still runs on something older.
    refused: BTreeSet<Arc<str>>,
}

impl Track {
    pub(super) fn follows(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    pub(super) fn has_given_names(&self) -> bool {
        self.named
    }

    pub(super) fn names(&self) -> &BTreeSet<Arc<str>> {
        &self.names
    }

    /// Whether the client still runs on something older than it was sent. Later responses that it accepts say nothing about what they
    /// do not carry.
    pub(super) fn refused(&self) -> bool {
        !self.refused.is_empty() && (self.wildcard || !self.names.is_empty())
    }

    /// Of which names it does.
    pub(super) fn refused_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.refused.iter()
    }

    /// Takes note of the answer to a response that carried `names`, or everything that there is if it was `whole`.
    pub(super) fn answered(&mut self, names: &[Arc<str>], whole: bool, refused: bool) {
        if refused {
            self.refused.extend(names.iter().cloned());
        } else if whole {
            self.refused.clear();
        } else {
            self.refused.retain(|name| !names.contains(name));
        }
    }

    /// Forgets the plan, because the snapshot changed.
    pub(super) fn touch(&mut self) {
        self.plan = None;
    }

    /// Starts to follow everything.
    pub(super) fn follow_all(&mut self) {
        if !self.wildcard {
            self.wildcard = true;
            self.answer_due = true;
            self.touch();
        }
    }

    /// Stops following everything; what is followed by name stays.
    pub(super) fn unfollow_all(&mut self) {
        if self.wildcard {
            self.wildcard = false;
            self.answer_due = false;
            self.known.retain(|name, _| self.names.contains(name));
            self.refused.retain(|name| self.names.contains(name));
            self.due.retain(|name| self.names.contains(name));
            self.touch();
        }
    }

    /// Follows a name; it is answered for even if it was followed before, because the client may have forgotten it.
    pub(super) fn follow(&mut self, name: Arc<str>) {
        self.named = true;
        self.due.insert(name.clone());
        self.names.insert(name);
        self.touch();
    }

    /// Remembers that an explicit `*` was given.
    pub(super) fn mark_named(&mut self) {
        self.named = true;
    }

    /// Stops following a name. Under a wildcard the client cannot know whether the resource is still its own, so `answer` makes it told.
    pub(super) fn unfollow(&mut self, name: &str, answer: bool) {
        let Some(name) = self.names.take(name) else { return };
        if !self.wildcard {
            self.known.remove(&name);
            self.due.remove(&name);
            self.refused.remove(&name);
        } else {
            if matches!(self.known.get(&name), Some(Known::Absent)) {
                self.known.remove(&name);
            }
            if answer {
                self.due.insert(name);
            } else {
                self.due.remove(&name);
            }
        }
        self.touch();
    }

    /// The client says that it has a version from an earlier stream, so there is no need to send that again.
    pub(super) fn claim(&mut self, name: Arc<str>, version: Arc<str>) {
        if self.follows(&name) {
            self.due.remove(&name);
            self.answer_due = false;
            self.known.insert(name, Known::Sent { version, resource: None });
            self.touch();
        }
    }

    /// The client has all that it should have.
    pub(super) fn claim_all(&mut self, available: &Resources) {
        let held: Vec<_> = self.targets(available).cloned().collect();
        for resource in held {
            self.due.remove(&resource.name);
            self.known.insert(resource.name.clone(), sent(&resource));
        }
        self.answer_due = false;
        self.touch();
    }

    /// Answers for a resource again if it is followed: something that the client had from it is to be rebuilt.
    pub(super) fn repeat(&mut self, name: &Arc<str>) {
        self.due.insert(name.clone());
        self.touch();
    }

    /// The client was sent this, in some version.
    pub(super) fn has(&self, name: &str) -> bool {
        matches!(self.known.get(name), Some(Known::Sent { .. }))
    }

    /// Every resource that the client has been sent and should still have.
    pub(super) fn held(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.known.values().filter_map(|known| match known {
            Known::Sent { resource, .. } => resource.as_ref(),
            Known::Absent => None,
        })
    }

    /// What exists of what is followed.
    pub(super) fn targets<'a>(&'a self, available: &'a Resources) -> Box<dyn Iterator<Item = &'a Arc<Resource>> + 'a> {
        if self.wildcard {
            Box::new(available.values())
        } else {
            Box::new(self.names.iter().filter_map(|name| available.get(name)))
        }
    }

    /// Makes the plan if there is none. `says_no`: the protocol can say that something does not exist. `partial`: what is missing may
    /// still come.
    pub(super) fn replan(&mut self, available: &Resources, says_no: bool, partial: bool) {
        if self.plan.is_some() {
            return;
        }
        let mut plan = Plan { answer: self.answer_due && !partial, ..Plan::default() };
        for resource in self.targets(available) {
            let current = match self.known.get(&resource.name) {
                Some(Known::Sent { version, .. }) => *version == resource.version,
                _ => false,
            };
            if !current || self.due.contains(&resource.name) {
                plan.changes.push(resource.clone());
            }
        }
        if says_no && !partial {
            let asked = self.names.iter().filter(|name| !self.known.contains_key(*name));
            let again = self.due.iter().filter(|name| !self.has(name));
            let missing: BTreeSet<_> =
                asked.chain(again).filter(|name| !available.contains_key(*name)).cloned().collect();
            plan.absent.extend(missing);
        }
        if says_no {
            let gone = self.known.keys().filter(|name| self.has(name) && !available.contains_key(*name));
            plan.removals.extend(gone.cloned());
        }
        self.plan = Some(plan);
    }

    /// Whether there is something to send that need not wait for removals to be safe.
    pub(super) fn has_changes(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.answer || !plan.changes.is_empty() || !plan.absent.is_empty())
    }

    /// Whether something should be taken away.
    pub(super) fn has_removals(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| !plan.removals.is_empty())
    }

    /// Takes what goes out now and counts it as known. At most `limit` bytes of resources (but at least one); the rest stays planned.
    pub(super) fn take(&mut self, removals: bool, limit: usize) -> Batch {
        let mut plan = self.plan.take().unwrap_or_default();
        let mut bytes = 0;
        let fits = plan.changes.iter().take_while(|resource| {
            bytes += resource.any.value.len();
            bytes <= limit
        });
        let count = fits.count().max(1).min(plan.changes.len());
        let changes: Vec<_> = plan.changes.drain(..count).collect();
        for resource in &changes {
            self.due.remove(&resource.name);
            self.known.insert(resource.name.clone(), sent(resource));
        }
        let mut removed = std::mem::take(&mut plan.absent);
        if removals {
            removed.append(&mut plan.removals);
        }
        for name in &removed {
            self.due.remove(name);
            if self.names.contains(name) {
                self.known.insert(name.clone(), Known::Absent);
            } else {
                self.known.remove(name);
            }
        }
        self.answer_due = false;
        plan.answer = false;
        self.plan = Some(plan);
        Batch { changes, removed }
    }
}

fn sent(resource: &Arc<Resource>) -> Known {
    Known::Sent { version: resource.version.clone(), resource: Some(resource.clone()) }
}
