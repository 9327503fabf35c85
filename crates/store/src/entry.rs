//! What a key holds, and how a write to it ended.

/// A value and the revision of the write that put it there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The bytes.
    pub value: Vec<u8>,
    /// For [`Store::compare_and_swap`](crate::Store::compare_and_swap). Never reused, not even after a delete.
    pub revision: u64,
}

impl From<(u64, &[u8])> for Entry {
    fn from((revision, value): (u64, &[u8])) -> Self {
        Self { value: value.to_vec(), revision }
    }
}

/// How a compare-and-swap ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Swap {
    /// Written, with this revision.
    Done(u64),
    /// The key was not as expected and nothing was written; this is what it held.
    Conflict(Option<Entry>),
}

/// What a write may demand of the present state of its key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    Anything,
    Revision(Option<u64>),
}
