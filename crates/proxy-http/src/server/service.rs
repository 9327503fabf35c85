//! Who answers what clients ask.

use std::future::Future;

use http::Response;
use weft_telemetry::Failure;

use super::request::ClientRequest;
use crate::timed::TimedBody;

/// Answers the requests of one connection. Cloned for each that runs beside others.
pub trait Service: Clone + 'static {
    /// What answers are made of. Dropped when the answer has left, or when nobody wants it any more.
    type Body: TimedBody;

    /// Answers one request. Never fails: what cannot be served has an answer too.
    fn answer(&self, request: ClientRequest) -> impl Future<Output = Response<Self::Body>> + 'static;

    /// Answers what came in place of a request: it has no method, path or host.
    fn refuse(&self, failure: Failure, why: String) -> Response<Self::Body>;

    /// Ready when no more requests are to be taken.
    fn drained(&self) -> impl Future<Output = ()>;

    /// Whether no more requests are to be taken.
    fn is_draining(&self) -> bool;
}
