//! What a request can mean, and what is wrong with one that means nothing.

use std::sync::Arc;

use tonic::Status;

use crate::{Nack, type_url};

/// The most names that one stream may follow of one type.
const MAX_NAMES: usize = 65_536;
/// The longest name, in bytes.
const MAX_NAME: usize = 4_096;

/// What a request meant, beside its subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A response was accepted.
    Ack {
        /// What type.
        type_url: &'static str,
        /// The revision that it was made from.
        revision: Arc<str>,
        /// What the client has refused before, and this did not mend.
        still_refused: Vec<Arc<str>>,
    },
    /// A response was refused.
    Nack(Nack),
    /// The client asked for a type that Weft does not have; it gets no answer, as xDS has none for that.
    UnknownType(String),
}

/// The track's type, or what to say about a request whose type is missing or unknown.
pub(super) fn known_type(type_url: &str) -> Result<Result<&'static str, Event>, Status> {
    if type_url.is_empty() {
        return Err(Status::invalid_argument("the request has no type_url"));
    }
    Ok(type_url::intern(type_url).ok_or_else(|| Event::UnknownType(type_url.chars().take(200).collect())))
}

pub(super) fn check_name(name: &str) -> Result<(), Status> {
    if name.len() > MAX_NAME {
        return Err(Status::invalid_argument(format!(
            "a resource name has {} bytes; at most {MAX_NAME} are allowed",
            name.len()
        )));
    }
    Ok(())
}

pub(super) fn check_count(type_url: &str, count: usize) -> Result<(), Status> {
    if count > MAX_NAMES {
        let short = type_url::short(type_url);
        return Err(Status::resource_exhausted(format!(
            "{count} names of {short} are too many; at most {MAX_NAMES} are allowed"
        )));
    }
    Ok(())
}
