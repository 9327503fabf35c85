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

/// Follows a prefix. Start the watch, then list: nothing is missed between the two.
#[derive(Debug)]
pub struct Watch {
    prefix: String,
    events: broadcast::Receiver<Event>,
}

impl Watch {
    /// The next write under the prefix, in the order of revisions. Cancel safe.
    ///
    /// `None` means that events were missed (this watcher was too slow) or that the store was closed: list again.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            match self.events.recv().await {
                Ok(event) if event.key.starts_with(&self.prefix) => return Some(event),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Watchers(broadcast::Sender<Event>);

impl Watchers {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }

    pub(crate) fn watch(&self, prefix: &str) -> Watch {
        Watch { prefix: prefix.to_owned(), events: self.0.subscribe() }
    }

    pub(crate) fn tell(&self, event: Event) {
        let _ = self.0.send(event); // an error only says that nobody watches
    }
}
