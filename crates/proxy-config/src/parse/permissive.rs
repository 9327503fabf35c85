//! A listener that takes TLS and plain text: `envoy.filters.listener.tls_inspector`, and a chain of filters for each, which must be the same.

use std::mem::take;
use std::time::Duration;

use envoy_types::pb::envoy::config::listener::v3::listener_filter::ConfigType;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener};
use envoy_types::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;

use super::strict::{Path, Refused, bound};
use super::tls;
use crate::listener::Permissive;

/// As long as Envoy gives.
const FIRST_BYTE: Duration = Duration::from_secs(15);
/// `FilterChainMatch.transport_protocol` as the inspector says it.
const TLS: &str = "tls";
const PLAIN_TEXT: &str = "raw_buffer";

/// Whether clients are told apart, and how long that may take. Without an inspector there is nothing to wait for.
pub(super) fn inspection(given: &mut Listener, at: &Path<'_>) -> Result<Option<Permissive>, Refused> {
    let at_filters = at.field("listener_filters");
    let mut filters = take(&mut given.listener_filters);
    let Some(mut filter) = filters.pop() else { return Ok(None) };
    if !filters.is_empty() {
        return Err(at_filters.refuse("must be one filter"));
    }
    let at_filter = &at_filters.index(0);
    filter.name.clear(); // the type says what it is
    let at_config = at_filter.field("typed_config");
    let Some(ConfigType::TypedConfig(config)) = filter.config_type.take() else {
        return Err(at_config.refuse("required"));
    };
    at_filter.rest(&filter)?;
    at_config
        .any(&config, |inspector: TlsInspector, at| at.rest(&inspector))?
        .ok_or_else(|| at_config.refuse_type(&config))?;
    let at_timeout = at.field("listener_filters_timeout");
    let first_byte = bound(given.listener_filters_timeout.take(), FIRST_BYTE, &at_timeout)?;
    Ok(Some(Permissive { first_byte }))
}

/// Takes the chain for plain text out, and leaves the one for TLS as if it were alone.
pub(super) fn plain_text(chains: &mut Vec<FilterChain>, at: &Path<'_>) -> Result<(), Refused> {
    let is_for = |chain: &FilterChain, protocol: &str| {
        let wanted = FilterChainMatch { transport_protocol: protocol.to_owned(), ..Default::default() };
        chain.filter_chain_match.as_ref() == Some(&wanted)
    };
    let place = |protocol| chains.iter().position(|chain| is_for(chain, protocol));
    let (2, Some(tls_at), Some(plain_at)) = (chains.len(), place(TLS), place(PLAIN_TEXT)) else {
        let both = format!("must be one chain that matches transport_protocol {TLS}, and one for {PLAIN_TEXT}");
        return Err(at.refuse(both));
    };
    chains[tls_at].filter_chain_match = None;
    let mut plain = chains.remove(plain_at);
    let at_plain = &at.index(plain_at);
    plain.name.clear(); // for people
    plain.filter_chain_match = None;
    let at_socket = at_plain.field("transport_socket");
    if tls::downstream(plain.transport_socket.take(), &at_socket)?.is_some() {
        return Err(at_socket.refuse("must not be TLS"));
    }
    if take(&mut plain.filters) != chains[0].filters {
        return Err(at_plain.field("filters").refuse("must be those of the chain for TLS"));
    }
    at_plain.rest(&plain)
}
