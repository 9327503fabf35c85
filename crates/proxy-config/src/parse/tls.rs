//! `envoy.transport_sockets.tls`: own certificate and trust bundle are always this process's identity; what is read
//! here is whom to trust and what to speak.

use std::mem::take;

use envoy_types::pb::envoy::config::core::v3::{TransportSocket, transport_socket::ConfigType};
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::ValidationContextType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::SessionTicketKeysType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, SubjectAltNameMatcher,
    TlsParameters, UpstreamTlsContext,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use prost::{Message, Name};
use weft_model::TrustDomain;

use super::from_agent;
use super::strict::{NOT_SUPPORTED, Path, Refused, boolean, required, uint32};
use crate::cluster::UpstreamTls;
use crate::listener::{DownstreamTls, PeerMatch};

/// SDS names of the process's own certificate and of its trust bundle.
const CERTIFICATE: &str = "default";
const BUNDLE: &str = "ROOTCA";
/// What our TLS offers, in this order.
const CURVES: [&str; 3] = ["X25519MLKEM768", "X25519", "P-256"];

/// Towards endpoints; `None` is clear text.
pub(crate) fn upstream(given: Option<TransportSocket>, at: &Path<'_>) -> Result<Option<UpstreamTls>, Refused> {
    socket(given, at, |mut context: UpstreamTlsContext, at| {
        let whom = |peers: Vec<PeerMatch>| match <[PeerMatch; 1]>::try_from(peers) {
            Ok([PeerMatch::Exact(expected)]) => {
                let own = expected.trust_domain().id();
                Ok((expected, own))
            }
            _ => Err("whom to expect must be one exact SPIFFE ID"),
        };
        let (alpn, expected) = common(context.common_tls_context.take(), &at.field("common_tls_context"), whom)?;
        let sni = take(&mut context.sni);
        if uint32(context.max_session_keys.take()).is_some_and(|keys| keys > 0) {
            return Err(at.field("max_session_keys").refuse("this proxy does not resume TLS sessions: use 0"));
        }
        at.rest(&context)?;
        Ok(UpstreamTls {
            sni: (!sni.is_empty()).then(|| sni.into()),
            alpn,
            expected_id: expected.as_str().into(),
            expected,
        })
    })
}

/// Towards clients; `None` is clear text.
pub(crate) fn downstream(given: Option<TransportSocket>, at: &Path<'_>) -> Result<Option<DownstreamTls>, Refused> {
    socket(given, at, |mut context: DownstreamTlsContext, at| {
        let all = |peers: Vec<PeerMatch>| Ok((peers, BUNDLE.to_owned()));
        let (alpn, peers) = common(context.common_tls_context.take(), &at.field("common_tls_context"), all)?;
        if !boolean(context.require_client_certificate.take(), false) {
            return Err(at
                .field("require_client_certificate")
                .refuse("must be true: this proxy serves only mutual TLS"));
        }
        context.disable_stateful_session_resumption = false;
        if let Some(SessionTicketKeysType::DisableStatelessSessionResumption(_)) = context.session_ticket_keys_type {
            context.session_ticket_keys_type = None;
        }
        at.rest(&context)?;
        Ok(DownstreamTls { alpn, peers })
    })
}

fn socket<M: Message + Name + Default, T>(
    given: Option<TransportSocket>,
    at: &Path<'_>,
    read: impl FnOnce(M, &Path<'_>) -> Result<T, Refused>,
) -> Result<Option<T>, Refused> {
    let Some(mut given) = given else { return Ok(None) };
    given.name.clear(); // the type says what it is
    let at_config = at.field("typed_config");
    let Some(ConfigType::TypedConfig(config)) = given.config_type.take() else {
        return Err(at_config.refuse("required"));
    };
    at.rest(&given)?;
    if at_config.any(&config, |raw: RawBuffer, at| at.rest(&raw))?.is_some() {
        return Ok(None);
    }
    at_config.any(&config, read)?.map(Some).ok_or_else(|| at_config.refuse_type(&config))
}

/// `whom` says of whom is to be trusted what it means here, and by which other secret than [`BUNDLE`] they may be judged: this proxy judges
/// everybody by the bundle of his own trust domain in any case.
fn common<T>(
    given: Option<CommonTlsContext>,
    at: &Path<'_>,
    whom: impl FnOnce(Vec<PeerMatch>) -> Result<(T, String), &'static str>,
) -> Result<(Vec<Vec<u8>>, T), Refused> {
    let mut given = required(given, at)?;
    parameters(given.tls_params.take().unwrap_or_default(), &at.field("tls_params"))?;
    {
        let at = &at.field("tls_certificate_sds_secret_configs");
        let mut secrets = take(&mut given.tls_certificate_sds_secret_configs);
        if secrets.len() != 1 {
            return Err(at.refuse("must be one secret"));
        }
        secret(secrets.pop(), CERTIFICATE, &at.index(0))?;
    }
    let alpn = take(&mut given.alpn_protocols).into_iter().map(String::into_bytes).collect();
    let Some(ValidationContextType::CombinedValidationContext(mut combined)) = given.validation_context_type.take()
    else {
        return Err(at.field("combined_validation_context").refuse("required"));
    };
    let trusted = {
        let above = at;
        let at = &at.field("combined_validation_context");
        let context = combined.default_validation_context.take();
        let peers = validation(context, &at.field("default_validation_context"))?;
        let (trusted, own) = whom(peers).map_err(|why| above.refuse(why))?;
        let bundle = combined.validation_context_sds_secret_config.take();
        let is_own = bundle.as_ref().is_some_and(|bundle| bundle.name == own);
        let name = if is_own { &own } else { BUNDLE };
        secret(bundle, name, &at.field("validation_context_sds_secret_config"))?;
        at.rest(&combined)?;
        trusted
    };
    at.rest(&given)?;
    Ok((alpn, trusted))
}

fn parameters(mut given: TlsParameters, at: &Path<'_>) -> Result<(), Refused> {
    let only_13 = |version: i32, name| match TlsProtocol::try_from(version) {
        Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv13) => Ok(()),
        _ => Err(at.field(name).refuse("this proxy speaks TLSv1_3 only")),
    };
    only_13(take(&mut given.tls_minimum_protocol_version), "tls_minimum_protocol_version")?;
    only_13(take(&mut given.tls_maximum_protocol_version), "tls_maximum_protocol_version")?;
    let curves = take(&mut given.ecdh_curves);
    if !curves.is_empty() && curves != CURVES {
        return Err(at.field("ecdh_curves").refuse(format!("this proxy offers {}", CURVES.join(", "))));
    }
    at.rest(&given)
}

fn secret(given: Option<SdsSecretConfig>, name: &str, at: &Path<'_>) -> Result<(), Refused> {
    let mut given = required(given, at)?;
    if take(&mut given.name) != name {
        return Err(at.field("name").refuse(format!("only {name} is supported by this proxy")));
    }
    from_agent(given.sds_config.take(), &at.field("sds_config"))?;
    at.rest(&given)
}

fn validation(given: Option<CertificateValidationContext>, at: &Path<'_>) -> Result<Vec<PeerMatch>, Refused> {
    let mut given = given.unwrap_or_default();
    let at_names = at.field("match_typed_subject_alt_names");
    let names = take(&mut given.match_typed_subject_alt_names);
    at.rest(&given)?;
    if names.is_empty() {
        return Err(at_names.refuse("must be one matcher at least"));
    }
    names.into_iter().enumerate().map(|(index, name)| peer(name, &at_names.index(index))).collect()
}

fn peer(mut name: SubjectAltNameMatcher, at: &Path<'_>) -> Result<PeerMatch, Refused> {
    if SanType::try_from(take(&mut name.san_type)) != Ok(SanType::Uri) {
        return Err(at.field("san_type").refuse("only URI is supported by this proxy"));
    }
    let at_matcher = at.field("matcher");
    let mut matcher = required(name.matcher.take(), &at_matcher)?;
    at.rest(&name)?;
    let pattern = matcher.match_pattern.take();
    at_matcher.rest(&matcher)?;
    match pattern {
        Some(MatchPattern::Exact(id)) => {
            id.parse().map(PeerMatch::Exact).map_err(|error| at_matcher.field("exact").refuse(error.to_string()))
        }
        Some(MatchPattern::Prefix(prefix)) => trust_domain(&prefix)
            .map(PeerMatch::TrustDomain)
            .ok_or_else(|| at_matcher.field("prefix").refuse("must be a trust domain, like spiffe://acme.internal/")),
        _ => Err(at_matcher.refuse(format!("only exact and prefix: others are {NOT_SUPPORTED}"))),
    }
}

fn trust_domain(prefix: &str) -> Option<TrustDomain> {
    prefix.strip_prefix("spiffe://")?.strip_suffix('/')?.parse().ok()
}
