//! Following the writes under a prefix.

use std::sync::Arc;

use tokio::sync::broadcast;

/// How many events a slow watcher may lag behind before it has to list again.
const BACKLOG: usize = 1024;

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What was written.
    pub key: Arc<str>,
    /// The store's revision of this write.
    pub revision: u64,
    /// What happened.
    pub change: Change,
}

/// What a write did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key has this value now; sealed values stay sealed.
    Put(Arc<[u8]>),
    /// The key is gone.
    Deleted,
}

/// What watchers are told.
#[derive(Clone, Debug)]
enum Told {
    Event(Event),
    /// Of some writes it is not known what they were.
    Missed,
}

/// Follows a prefix. Start the watch, then list: nothing is missed between the two.
#[derive(Debug)]
pub struct Watch {
    prefix: String,
    /// Writes up to this revision were before the watch.
    after: u64,
    told: broadcast::Receiver<Told>,
}

impl Watch {
    /// The next write under the prefix, in the order of revisions. Cancel safe.
    ///
    /// `None` means that events were missed (this watcher was too slow, or etcd was away for longer than it remembers) or that the store was
    /// closed: list again.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.told.recv().await {
                Ok(Told::Event(event)) if event.revision > self.after && event.key.starts_with(&self.prefix) => {
                    return Some(event);
                }
                Ok(Told::Event(_)) => {}
                Ok(Told::Missed) | Err(_) => return None,
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Watchers(broadcast::Sender<Told>);

impl Watchers {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }

    /// Follows the writes with a revision after `after`.
    pub(crate) fn watch(&self, prefix: &str, after: u64) -> Watch {
        Watch { prefix: prefix.to_owned(), after, told: self.0.subscribe() }
    }

    pub(crate) fn tell(&self, event: Event) {
        let _ = self.0.send(Told::Event(event)); // an error only says that nobody watches
    }

    /// There were writes that nobody can tell of any more.
    pub(crate) fn missed(&self) {
        let _ = self.0.send(Told::Missed);
    }
}
