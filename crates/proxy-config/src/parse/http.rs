//! `HttpConnectionManager`.

use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::common::mutation_rules::v3::header_mutation::Action;
use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::config::trace::v3::{OpenTelemetryConfig, tracing::http::ConfigType as ProviderConfig};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    CodecType, ForwardClientCertDetails, PathWithEscapedSlashesAction, ProxyStatusConfig, RouteSpecifier,
    ServerHeaderTransformation, SetCurrentClientCertDetails, StripPortMode, Tracing, UpgradeConfig,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_connection_manager::proxy_status_config::ProxyName, http_filter::ConfigType,
};
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation;
use http::HeaderName;
use weft_model::intent::{EscapedSlashes, Paths, Slashes};

use super::strict::{NOT_SUPPORTED, Path, Refused, boolean, bound, named, required, uint32, unbounded};
use super::{Names, access_log, authz, from_ads, limits, local_reply, route, to_agent};
use crate::Reserved;
use crate::authz::Authorizer;
use crate::listener::{DownstreamProtocol, ForwardClientCert, HttpListener, RouteSource};
use crate::log_format::LogFormat;

type Manager = HttpConnectionManager;

/// The HTTP side of a listener, and its access log.
pub(crate) fn manager(
    mut given: Manager,
    at: &Path<'_>,
    names: &mut Names,
) -> Result<(HttpListener, Option<Arc<LogFormat>>), Refused> {
    let log = access_log::only(take(&mut given.access_log), &at.field("access_log"))?;
    let upgrades = upgrades(take(&mut given.upgrade_configs), &at.field("upgrade_configs"))?;
    let at_removed = at.field("early_header_mutation_extensions");
    common_options(&mut given, at)?;
    limits::head(given.max_request_headers_kb.take(), &at.field("max_request_headers_kb"))?;
    unbounded(given.stream_idle_timeout.take(), &at.field("stream_idle_timeout"))?;
    let patience = bound(given.stream_flush_timeout.take(), Duration::ZERO, &at.field("stream_flush_timeout"))?;
    let listener = HttpListener {
        routes: routes(&mut given, at, names)?,
        protocol: protocol(&mut given, at)?,
        authorize: filters(take(&mut given.http_filters), &at.field("http_filters"), names)?,
        stat_prefix: named(&mut given.stat_prefix, &at.field("stat_prefix"))?,
        strip_port: strip_port(&mut given),
        xfcc: client_cert(&mut given, at)?,
        reserved: Arc::new(Reserved::new(removed_headers(
            take(&mut given.early_header_mutation_extensions),
            &at_removed,
        )?)),
        preserve_request_id: take(&mut given.preserve_external_request_id),
        websocket: upgrades.websocket,
        connect: upgrades.connect,
        paths: paths(&mut given, at)?,
        tracing: tracing(given.tracing.take(), &at.field("tracing"))?,
        patience,
        max_concurrent_streams: concurrent_streams(&mut given, at)?,
        interim: take(&mut given.proxy_100_continue),
    };
    local_reply::check(given.local_reply_config.take(), &at.field("local_reply_config"))?;
    proxy_status(given.proxy_status_config.take(), &at.field("proxy_status_config"))?;
    server_header(&mut given, at)?;
    if boolean(given.generate_request_id, true) {
        given.generate_request_id = None;
    }
    if !boolean(given.use_remote_address, false) {
        given.use_remote_address = None;
    }
    at.rest(&given)?;
    Ok((listener, log))
}

fn routes(given: &mut Manager, at: &Path<'_>, names: &mut Names) -> Result<RouteSource, Refused> {
    match given.route_specifier.take() {
        Some(RouteSpecifier::Rds(mut rds)) => {
            let at = &at.field("rds");
            from_ads(rds.config_source.take(), &at.field("config_source"))?;
            let name = named(&mut rds.route_config_name, &at.field("route_config_name"))?;
            at.rest(&rds)?;
            Ok(RouteSource::Named(names.route(&name)))
        }
        Some(RouteSpecifier::RouteConfig(config)) => {
            Ok(RouteSource::Inline(Arc::new(route::table(config, &at.field("route_config"), names)?)))
        }
        Some(RouteSpecifier::ScopedRoutes(_)) => Err(at.field("scoped_routes").refuse(NOT_SUPPORTED)),
        None => Err(at.refuse("one of rds and route_config is required")),
    }
}

fn protocol(given: &mut Manager, at: &Path<'_>) -> Result<DownstreamProtocol, Refused> {
    let mut http1 = given.http_protocol_options.take().unwrap_or_default();
    http1.accept_http_10 = false; // HTTP/1.0 is always taken
    at.field("http_protocol_options").rest(&http1)?;
    match CodecType::try_from(take(&mut given.codec_type)) {
        Ok(CodecType::Auto) => Ok(DownstreamProtocol::Auto),
        Ok(CodecType::Http1) => Ok(DownstreamProtocol::Http1),
        Ok(CodecType::Http2) => Ok(DownstreamProtocol::Http2),
        _ => Err(at.field("codec_type").refuse(NOT_SUPPORTED)),
    }
}

/// Of HTTP/2. Extended CONNECT (RFC 8441, `allow_connect`) is offered where WebSockets are.
fn concurrent_streams(given: &mut Manager, at: &Path<'_>) -> Result<Option<u32>, Refused> {
    let mut options = given.http2_protocol_options.take().unwrap_or_default();
    options.allow_connect = false;
    let streams = uint32(options.max_concurrent_streams.take());
    at.field("http2_protocol_options").rest(&options)?;
    if streams == Some(0) {
        return Err(at.field("http2_protocol_options").field("max_concurrent_streams").refuse("must be at least 1"));
    }
    Ok(streams)
}

fn common_options(given: &mut Manager, at: &Path<'_>) -> Result<(), Refused> {
    let at = &at.field("common_http_protocol_options");
    let mut options = given.common_http_protocol_options.take().unwrap_or_default();
    unbounded(options.idle_timeout.take(), &at.field("idle_timeout"))?;
    limits::fields(options.max_headers_count.take(), &at.field("max_headers_count"))?;
    at.rest(&options)
}

/// Optionally the authorization of requests, then the router. Who decides about requests.
fn filters(given: Vec<HttpFilter>, at: &Path<'_>, names: &mut Names) -> Result<Option<Authorizer>, Refused> {
    let mut authorize = None;
    let mut routed = false;
    for (index, mut filter) in given.into_iter().enumerate() {
        let at = &at.index(index);
        if routed {
            return Err(at.refuse("nothing can follow the router"));
        }
        filter.name.clear(); // the type says what it is
        let optional = take(&mut filter.is_optional);
        let at_config = at.field("typed_config");
        let Some(ConfigType::TypedConfig(config)) =
            filter.config_type.take_if(|c| matches!(c, ConfigType::TypedConfig(_)))
        else {
            at.rest(&filter)?;
            return Err(at_config.refuse("required"));
        };
        at.rest(&filter)?;
        if at_config.any(&config, |router: Router, at| at.rest(&router))?.is_some() {
            routed = true;
        } else if let Some(authorizer) = at_config.any(&config, |filter, at| authz::of_requests(filter, at, names))? {
            if authorize.replace(authorizer).is_some() {
                return Err(at.refuse("this proxy asks one authorization server, not several"));
            }
        } else if !optional {
            return Err(at_config.refuse_type(&config));
        }
    }
    if routed { Ok(authorize) } else { Err(at.refuse("must end with the router")) }
}

fn strip_port(given: &mut Manager) -> bool {
    match given.strip_port_mode.take() {
        Some(StripPortMode::StripAnyHostPort(strip)) => strip,
        None => false,
    }
}

fn client_cert(given: &mut Manager, at: &Path<'_>) -> Result<ForwardClientCert, Refused> {
    match ForwardClientCertDetails::try_from(take(&mut given.forward_client_cert_details)) {
        Ok(ForwardClientCertDetails::Sanitize) => Ok(ForwardClientCert::Sanitize),
        Ok(ForwardClientCertDetails::SanitizeSet) => {
            // `By` and `Hash` are always there.
            let only_uri = SetCurrentClientCertDetails { uri: true, ..Default::default() };
            if given.set_current_client_cert_details.take() != Some(only_uri) {
                let problem = "this proxy sets uri, and nothing else";
                return Err(at.field("set_current_client_cert_details").refuse(problem));
            }
            Ok(ForwardClientCert::SanitizeSet)
        }
        Ok(other) => {
            let problem = format!("{} is {NOT_SUPPORTED}", other.as_str_name());
            Err(at.field("forward_client_cert_details").refuse(problem))
        }
        Err(_) => Err(at.field("forward_client_cert_details").refuse(NOT_SUPPORTED)),
    }
}

fn removed_headers(given: Vec<TypedExtensionConfig>, at: &Path<'_>) -> Result<Vec<HeaderName>, Refused> {
    let mut removed = Vec::new();
    for (index, extension) in given.into_iter().enumerate() {
        let at = at.index(index);
        let at_config = at.field("typed_config");
        let config = required(extension.typed_config, &at_config)?;
        let names = at_config.any(&config, |mut mutation: HeaderMutation, at| {
            let mutations = take(&mut mutation.mutations);
            at.rest(&mutation)?;
            let at_mutations = at.field("mutations");
            let names = mutations.into_iter().enumerate();
            names
                .map(|(index, mutation)| removal(mutation.action, &at_mutations.index(index)))
                .collect::<Result<Vec<_>, _>>()
        })?;
        removed.extend(names.ok_or_else(|| at_config.refuse_type(&config))?);
    }
    Ok(removed)
}

fn removal(action: Option<Action>, at: &Path<'_>) -> Result<HeaderName, Refused> {
    match action {
        Some(Action::Remove(name)) => HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| at.field("remove").refuse(format!("{name:?} is not the name of a header"))),
        _ => Err(at.refuse("only remove is supported by this proxy")),
    }
}

#[derive(Default)]
struct Upgrades {
    websocket: bool,
    connect: bool,
}

fn upgrades(given: Vec<UpgradeConfig>, at: &Path<'_>) -> Result<Upgrades, Refused> {
    let mut upgrades = Upgrades::default();
    for (index, mut upgrade) in given.into_iter().enumerate() {
        let at = &at.index(index);
        let enabled = boolean(upgrade.enabled.take(), true);
        match &*take(&mut upgrade.upgrade_type).to_ascii_lowercase() {
            "websocket" => upgrades.websocket = enabled,
            "connect" => upgrades.connect = enabled,
            _ => return Err(at.field("upgrade_type").refuse(NOT_SUPPORTED)),
        }
        at.rest(&upgrade)?;
    }
    Ok(upgrades)
}

/// How paths are normalised, if they are: there is no refusing of escaped slashes without it.
fn paths(given: &mut Manager, at: &Path<'_>) -> Result<Option<Paths>, Refused> {
    use PathWithEscapedSlashesAction as Action;
    let normalize = boolean(given.normalize_path.take(), false);
    let slashes = if take(&mut given.merge_slashes) { Slashes::Merge } else { Slashes::Keep };
    let escaped_slashes = match (Action::try_from(take(&mut given.path_with_escaped_slashes_action)), normalize) {
        (Ok(Action::ImplementationSpecificDefault | Action::RejectRequest), true) => EscapedSlashes::Reject,
        (Ok(Action::KeepUnchanged), true) => EscapedSlashes::Keep,
        (Ok(Action::ImplementationSpecificDefault | Action::KeepUnchanged), false) if slashes == Slashes::Keep => {
            return Ok(None);
        }
        (Ok(Action::ImplementationSpecificDefault | Action::KeepUnchanged), false) => {
            return Err(at.field("merge_slashes").refuse("this proxy merges slashes only where it normalizes paths"));
        }
        _ => {
            return Err(at.field("path_with_escaped_slashes_action").refuse(
                "this proxy refuses escaped slashes where it normalizes paths or keeps them, and does nothing else",
            ));
        }
    };
    Ok(Some(Paths { escaped_slashes, slashes, ..Paths::default() }))
}

/// Trace context is made and carried on; spans are not exported, so none may be asked for.
fn tracing(given: Option<Tracing>, at: &Path<'_>) -> Result<bool, Refused> {
    let Some(mut given) = given else { return Ok(false) };
    if given.random_sampling.take().is_none_or(|percent| percent.value != 0.0) {
        return Err(at.field("random_sampling").refuse("must be 0: this proxy does not export spans"));
    }
    let at_provider = at.field("provider");
    let mut provider = required(given.provider.take(), &at_provider)?;
    provider.name.clear(); // the type says what it is
    let at_config = at_provider.field("typed_config");
    let Some(ProviderConfig::TypedConfig(config)) = provider.config_type.take() else {
        return Err(at_config.refuse("required"));
    };
    at_provider.rest(&provider)?;
    let opentelemetry = at_config.any(&config, |mut config: OpenTelemetryConfig, at| {
        config.service_name.clear(); // of spans
        if let Some(service) = config.grpc_service.take() {
            to_agent(service, &at.field("grpc_service"))?;
        }
        at.rest(&config)
    })?;
    opentelemetry.ok_or_else(|| at_config.refuse_type(&config))?;
    at.rest(&given)?;
    Ok(true)
}

/// `Proxy-Status` (RFC 9209) is in every answer that this proxy makes itself.
fn proxy_status(given: Option<ProxyStatusConfig>, at: &Path<'_>) -> Result<(), Refused> {
    let Some(mut given) = given else { return Ok(()) };
    if given.proxy_name == Some(ProxyName::UseNodeId(true)) {
        given.proxy_name = None;
        return at.rest(&given);
    }
    Err(at.field("use_node_id").refuse("must be true"))
}

fn server_header(given: &mut Manager, at: &Path<'_>) -> Result<(), Refused> {
    use ServerHeaderTransformation as Server;
    match Server::try_from(take(&mut given.server_header_transformation)) {
        Ok(Server::PassThrough | Server::Overwrite) => Ok(()),
        _ => Err(at.field("server_header_transformation").refuse("only PASS_THROUGH is supported by this proxy")),
    }
}
