//! How large a head may be: what our own data plane takes, said to Envoy, whose own bounds (60 KiB, 100 fields) fail calls that ours
//! carries.

use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions;

use crate::pb::uint32;

/// A head with its target, in KiB, and its fields.
pub(crate) struct Head {
    pub(crate) kib: u32,
    fields: u32,
}

/// Of a head that an app sends, as request or as response.
pub(crate) const FROM_APP: Head = Head { kib: 64, fields: 256 };
/// Of a head between sidecars, which the mesh has added to.
pub(crate) const BETWEEN: Head = Head { kib: 72, fields: 288 };

impl Head {
    /// For the requests of a listener, beside its `max_request_headers_kb`.
    pub(crate) fn of_requests(&self) -> HttpProtocolOptions {
        HttpProtocolOptions { max_headers_count: uint32(self.fields), ..Default::default() }
    }

    /// For the responses of a cluster.
    pub(crate) fn of_responses(&self) -> HttpProtocolOptions {
        HttpProtocolOptions { max_response_headers_kb: uint32(self.kib), ..self.of_requests() }
    }
}
