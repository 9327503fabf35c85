//! The words of the mesh: names, SPIFFE IDs, and the intent that users write, with the place where they wrote it.
//!
//! Everything here is a value. Text is parsed once, at the edge, into types that cannot hold an illegal state; no module of
//! this crate does network I/O or knows a wire protocol.

pub mod attest;
pub mod code;
pub mod finding;
pub mod grpc;
pub mod id;
pub mod intent;
pub mod mtls;
pub mod parse;
pub mod render;
pub mod source;
pub mod subject;
pub mod time;

pub use finding::{Finding, Severity, Span};
pub use id::{NameError, ServiceName, SpiffeId, TrustDomain};
pub use intent::Intent;
pub use mtls::{Mtls, PLAIN_TEXT};
pub use source::SourceFile;
pub use subject::{AgentName, Subject};
