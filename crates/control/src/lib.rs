//! The control plane: Git -> check -> compile -> snapshot -> stream, and what became of every change.
//!
//! It never sits on the request path: when it is away, sidecars go on with what they have.

pub mod registry;
pub mod status;
pub mod tracker;
