//! The way to an endpoint: pools of connections, HTTP/2 to other sidecars, HTTP/1.1 to the app.
//!
//! Each worker has its own pools. A request that finds a connection takes no lock, no channel, and no task of its own unless
//! it has a body.

mod body;
mod connect;
mod h1;
mod h2;
mod pool;
mod upload;

pub(crate) use body::{BodyError, Progress, RequestBody, UpstreamBody, is_malformed};
pub(crate) use connect::{Stream, TLS_READ_AHEAD, connect};
pub(crate) use h2::{H2Body, H2Connection, StreamCount};
pub(crate) use pool::{ActiveCount, EndpointPool, Leased, Pools};

use weft_telemetry::Failure;

/// Why an attempt came to nothing, and whether the endpoint can have begun to work on it.
#[derive(Debug)]
pub(crate) struct AttemptError {
    /// For the response, the log and the metric.
    pub(crate) failure: Failure,
    /// What is proven about the request.
    pub(crate) sent: Sent,
    /// Particulars, for a reader.
    pub(crate) reason: String,
}

/// What is proven about a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Nothing can be sent by this process now, whoever the endpoint is.
    Nowhere,
    /// No connection was there to send it on.
    NoConnection,
    /// A connection was there; not a byte of the request was sent, or the peer said that it did not process it.
    NotProcessed,
    /// The endpoint may have acted on it.
    Perhaps,
}

impl AttemptError {
    pub(crate) fn new(failure: Failure, sent: Sent, reason: impl ToString) -> Self {
        Self { failure, sent, reason: reason.to_string() }
    }
}
