//! What a request leaves behind: one log line and one set of metrics a hop, a trace context, and for every mesh-made error
//! the layer at fault and its cause.
//!
//! The request path calls this crate without a lock: counters are sharded by worker, log lines are gathered in the worker's
//! own buffer and written by a thread of their own. Nothing here may block or fail a request.

pub mod failure;
pub mod json;
pub mod lines;
pub mod metrics;
pub mod problem;
pub mod trace;

pub use failure::{Failure, Layer};
pub use problem::Problem;
