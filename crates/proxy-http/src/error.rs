//! What can become of an attempt to send a request, and of a body under way.

use weft_telemetry::Failure;

use crate::h1::Malformed;

/// Any failure of a body; the reader sees it as a broken message.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Whether a body broke off because its sender broke the framing (a wrong chunk size), rather than the connection.
pub fn is_malformed(error: &BodyError) -> bool {
    error.downcast_ref::<Malformed>().is_some_and(|error| *error != Malformed::Short)
}

/// Whether a body broke off because its sender reset the stream (RFC 9113 s.6.4), rather than that the connection ended. A sidecar that
/// only cancels does so for a reason of its own, and says nothing of where the body came from; an app is where it came from.
pub fn is_reset(error: &BodyError, by_app: bool) -> bool {
    let Some(error) = error.downcast_ref::<h2::Error>() else { return false };
    error.is_reset() && error.is_remote() && (by_app || error.reason() != Some(h2::Reason::CANCEL))
}

/// Whether a body broke off because the other end broke the rules of HTTP/2: it is our end that reset the stream, or the connection.
pub fn is_against_protocol(error: &BodyError) -> bool {
    let error = error.downcast_ref::<h2::Error>();
    error.is_some_and(|error| !error.is_remote() && (error.is_go_away() || error.is_reset()))
}

/// Why an attempt came to nothing, and whether the endpoint can have begun to work on it.
#[derive(Debug)]
pub struct AttemptError {
    /// For the response, the log and the metric.
    pub failure: Failure,
    /// What is proven about the request.
    pub sent: Sent,
    /// Particulars, for a reader.
    pub reason: String,
}

/// What is proven about a request that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
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
    /// An attempt that failed, with what is proven about it.
    pub fn new(failure: Failure, sent: Sent, reason: impl ToString) -> Self {
        Self { failure, sent, reason: reason.to_string() }
    }

    /// The same of an endpoint that is the app itself.
    #[must_use]
    pub fn of_app(mut self) -> Self {
        self.failure = match self.failure {
            Failure::UpstreamReset => Failure::AppReset,
            Failure::UpstreamClosed => Failure::AppClosed,
            Failure::UpstreamProtocol => Failure::AppProtocol,
            other => other,
        };
        self
    }
}
