//! One xDS stream as a state machine: requests, snapshots and answers go in, responses come out. No I/O and no clock.
//!
//! A [`Session`] is the same in both protocols; a [`Protocol`] reads its requests and writes its responses. A session never queues: when
//! the client is slow, the next response is made from the newest snapshot.

mod delta;
mod event;
mod order;
mod protocol;
mod sotw;
mod stream;
#[cfg(test)]
mod tests;
mod track;

pub use delta::Delta;
pub use event::Event;
pub use protocol::{Protocol, Session};
pub use sotw::Sotw;

/// One delta stream.
pub type DeltaSession = Session<Delta>;
/// One state-of-the-world stream.
pub type SotwSession = Session<Sotw>;
