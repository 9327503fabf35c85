//! CDS: `Cluster`.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, LbConfig, LbPolicy as PbLbPolicy,
};
use envoy_types::pb::envoy::config::cluster::v3::{CircuitBreakers, Cluster as PbCluster};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
};

use super::strict::{NOT_SUPPORTED, Path, Refused, bound, duration, named, required, uint32, unbounded};
use super::{Names, endpoint, from_ads, limits, tls};
use crate::cluster::{Cluster, EndpointsSource, LbPolicy, UpstreamProtocol, UpstreamTls};

/// The name under which a cluster says what HTTP it speaks.
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// As long as Envoy keeps an idle connection where nothing is said.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);

/// One cluster.
pub(crate) fn cluster(mut given: PbCluster, at: &Path<'_>, names: &mut Names) -> Result<Cluster, Refused> {
    let name = named(&mut given.name, &at.field("name"))?;
    let (protocol, idle_timeout) = protocol(&mut given, at)?;
    let cluster = Cluster {
        endpoints: endpoints(&mut given, &name, at)?,
        tls: tls::upstream(given.transport_socket.take(), &at.field("transport_socket"))?,
        protocol,
        idle_timeout,
        connect_timeout: connect_timeout(&mut given, at)?,
        lb_policy: lb_policy(&mut given, at)?,
        id: names.cluster(&name).id,
        name,
    };
    circuit_breakers(given.circuit_breakers.take(), &at.field("circuit_breakers"))?;
    given.alt_stat_name.clear(); // another name for people
    at.rest(&given)?;
    let without_h2 = |tls: &UpstreamTls| !tls.alpn.iter().any(|protocol| protocol == b"h2");
    if cluster.protocol == UpstreamProtocol::Http2 && cluster.tls.as_ref().is_some_and(without_h2) {
        return Err(at.field("transport_socket").refuse("alpn_protocols must have h2: the cluster speaks HTTP/2"));
    }
    Ok(cluster)
}

fn connect_timeout(given: &mut PbCluster, at: &Path<'_>) -> Result<Duration, Refused> {
    let at = at.field("connect_timeout");
    match duration(given.connect_timeout.take(), &at)? {
        None => Ok(Duration::from_secs(5)),
        Some(Duration::ZERO) => Err(at.refuse("must be more than zero")),
        Some(given) => Ok(given),
    }
}

fn endpoints(given: &mut PbCluster, name: &str, at: &Path<'_>) -> Result<EndpointsSource, Refused> {
    let kind = match given.cluster_discovery_type.take() {
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => {
            DiscoveryType::try_from(kind).map_err(|_| at.field("type").refuse(NOT_SUPPORTED))?
        }
        Some(ClusterDiscoveryType::ClusterType(_)) => return Err(at.field("cluster_type").refuse(NOT_SUPPORTED)),
    };
    match kind {
        DiscoveryType::Static => {
            let at = &at.field("load_assignment");
            let (_, endpoints) = endpoint::assignment(required(given.load_assignment.take(), at)?, at)?;
            Ok(EndpointsSource::Static(Arc::new(endpoints)))
        }
        DiscoveryType::Eds => {
            let at = &at.field("eds_cluster_config");
            let mut eds = required(given.eds_cluster_config.take(), at)?;
            from_ads(eds.eds_config.take(), &at.field("eds_config"))?;
            let service = take(&mut eds.service_name);
            at.rest(&eds)?;
            Ok(EndpointsSource::Eds(if service.is_empty() { name.into() } else { service.into() }))
        }
        other => Err(at.field("type").refuse(format!("{} is {NOT_SUPPORTED}", other.as_str_name()))),
    }
}

fn lb_policy(given: &mut PbCluster, at: &Path<'_>) -> Result<LbPolicy, Refused> {
    match PbLbPolicy::try_from(take(&mut given.lb_policy)) {
        Ok(PbLbPolicy::RoundRobin) => {
            if given.lb_config == Some(LbConfig::RoundRobinLbConfig(Default::default())) {
                given.lb_config = None;
            }
            Ok(LbPolicy::RoundRobin)
        }
        Ok(PbLbPolicy::LeastRequest) => {
            if let Some(LbConfig::LeastRequestLbConfig(config)) = &mut given.lb_config {
                let at = &at.field("least_request_lb_config");
                if uint32(config.choice_count.take()).is_some_and(|count| count != 2) {
                    return Err(at.field("choice_count").refuse("only 2 is supported by this proxy"));
                }
                at.rest(config)?;
                given.lb_config = None;
            }
            Ok(LbPolicy::LeastRequest)
        }
        Ok(other) => Err(at.field("lb_policy").refuse(format!("{} is {NOT_SUPPORTED}", other.as_str_name()))),
        Err(_) => Err(at.field("lb_policy").refuse(NOT_SUPPORTED)),
    }
}

/// The data plane has no bounds on what is under way. So only one can be named that is as good as none: as many retries as Envoy
/// allows requests.
fn circuit_breakers(given: Option<CircuitBreakers>, at: &Path<'_>) -> Result<(), Refused> {
    let Some(mut given) = given else { return Ok(()) };
    let at_thresholds = at.field("thresholds");
    for (index, mut threshold) in take(&mut given.thresholds).into_iter().enumerate() {
        let at = &at_thresholds.index(index);
        if uint32(threshold.max_retries.take()).is_some_and(|retries| retries < 1024) {
            return Err(at.field("max_retries").refuse("only 1024 and more is supported by this proxy"));
        }
        at.rest(&threshold)?;
    }
    at.rest(&given)
}

/// What is spoken, and how long an idle connection is kept.
fn protocol(given: &mut PbCluster, at: &Path<'_>) -> Result<(UpstreamProtocol, Option<Duration>), Refused> {
    let at_all = at.field("typed_extension_protocol_options");
    let given = take(&mut given.typed_extension_protocol_options);
    if let Some(key) = given.keys().filter(|key| *key != HTTP_OPTIONS).min() {
        return Err(at_all.key(key).refuse(NOT_SUPPORTED));
    }
    let Some(options) = given.get(HTTP_OPTIONS) else {
        return Ok((UpstreamProtocol::Http1, Some(IDLE_TIMEOUT)));
    };
    let at_options = at_all.key(HTTP_OPTIONS);
    at_options.any(options, explicit)?.ok_or_else(|| at_options.refuse_type(options))
}

fn explicit(mut given: HttpProtocolOptions, at: &Path<'_>) -> Result<(UpstreamProtocol, Option<Duration>), Refused> {
    let at_common = at.field("common_http_protocol_options");
    let mut common = given.common_http_protocol_options.take().unwrap_or_default();
    limits::fields(common.max_headers_count.take(), &at_common.field("max_headers_count"))?;
    limits::head(common.max_response_headers_kb.take(), &at_common.field("max_response_headers_kb"))?;
    let at_idle = at_common.field("idle_timeout");
    let idle = common.idle_timeout.take();
    at_common.rest(&common)?;
    let protocol = match given.upstream_protocol_options.take() {
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(config)) => config.protocol_config,
        _ => return Err(at.field("explicit_http_config").refuse("required: this proxy does not choose by itself")),
    };
    at.rest(&given)?;
    let at = &at.field("explicit_http_config");
    match protocol {
        Some(ProtocolConfig::HttpProtocolOptions(mut options)) => {
            options.allow_chunked_length = false; // such a response is always read as chunked
            at.field("http_protocol_options").rest(&options)?;
            Ok((UpstreamProtocol::Http1, bound(idle, IDLE_TIMEOUT, &at_idle)?))
        }
        Some(ProtocolConfig::Http2ProtocolOptions(mut options)) => {
            options.allow_connect = false; // extended CONNECT (RFC 8441) is used where the endpoint offers it
            at.field("http2_protocol_options").rest(&options)?;
            unbounded(idle, &at_idle)?;
            Ok((UpstreamProtocol::Http2, None))
        }
        Some(ProtocolConfig::Http3ProtocolOptions(_)) => Err(at.field("http3_protocol_options").refuse(NOT_SUPPORTED)),
        None => Err(at.refuse("one of http_protocol_options and http2_protocol_options is required")),
    }
}
