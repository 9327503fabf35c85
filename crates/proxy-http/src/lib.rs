//! HTTP as bytes at both ends of a sidecar: requests as clients send them and answers as they get them (`server/`), requests as
//! endpoints get them and answers as they send them (`client/`).
//!
//! It never decides where a request goes or whether it may: that is the proxy's. Both ends share what HTTP/1.1 looks like
//! (`h1/`, without I/O), how bodies of HTTP/2 streams move (`h2_stream.rs`), and which fields belong to one connection
//! (`headers.rs`).

pub mod client;
mod error;
mod flushes;
mod h1;
pub mod h2_stream;
pub mod headers;
mod held;
#[cfg(test)]
mod interim_tests;
mod kind;
mod request_body;
mod response_body;
pub mod server;
mod task;
mod timed;
mod way;

#[doc(hidden)]
pub use h1::fuzz;

pub use error::{AttemptError, BodyError, Sent, is_against_protocol, is_malformed, is_reset};
pub use h1::Malformed;
pub use kind::{Kind, kind};
pub use request_body::{Again, Ahead, KEPT_MAX, Progress, RequestBody, Until};
pub use response_body::UpstreamBody;
pub use task::spawn_large;
pub use timed::TimedBody;
pub use way::{Severed, Stream, Switched, TLS_READ_AHEAD, Way};
