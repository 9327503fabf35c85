//! Bounds on heads. The data plane has its own (see [`crate::h1`]) and keeps no others: a value is taken if it says the same. A head
//! between two sidecars may be a little larger than the app's, for what the mesh adds.

use std::ops::RangeInclusive;

use envoy_types::pb::google::protobuf::UInt32Value;

use super::strict::{Path, Refused, uint32};

/// KiB of a head.
const KIB: RangeInclusive<u32> = 64..=72;
/// Fields of a head.
const FIELDS: RangeInclusive<u32> = 256..=288;

/// `max_request_headers_kb`, `max_response_headers_kb`.
pub(super) fn head(given: Option<UInt32Value>, at: &Path<'_>) -> Result<(), Refused> {
    within(given, &KIB, at)
}

/// `max_headers_count`.
pub(super) fn fields(given: Option<UInt32Value>, at: &Path<'_>) -> Result<(), Refused> {
    within(given, &FIELDS, at)
}

fn within(given: Option<UInt32Value>, range: &RangeInclusive<u32>, at: &Path<'_>) -> Result<(), Refused> {
    match uint32(given) {
        Some(given) if !range.contains(&given) => {
            let (from, to) = (range.start(), range.end());
            Err(at.refuse(format!("only {from} to {to}, which this proxy takes in any case, is supported")))
        }
        _ => Ok(()),
    }
}
