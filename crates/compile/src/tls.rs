//! Mutual TLS between sidecars: TLS 1.3 only, certificates by SDS, both ends held to a SPIFFE ID.

use envoy_types::pb::envoy::config::core::v3::{TransportSocket, transport_socket};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::{
    CombinedCertificateValidationContext, ValidationContextType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::downstream_tls_context::SessionTicketKeysType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::subject_alt_name_matcher::SanType;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters::TlsProtocol;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, DownstreamTlsContext,
    SdsSecretConfig, SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use prost::{Message, Name};
use weft_model::{SpiffeId, TrustDomain};

use crate::pb::{agent_source, any, boolean, uint32};

/// SDS name of the proxy's own certificate.
pub const CERTIFICATE_SECRET: &str = "default";
/// SDS name of the trust bundle, with those of all other trust domains. The SPIFFE ID of a trust domain is that of its bundle alone.
pub const BUNDLE_SECRET: &str = "ROOTCA";

/// Towards the sidecars of a service: who answers must be exactly `peer`, by the bundle of its trust domain and no other. With all bundles, an
/// Envoy would take a certificate of two URIs: it chooses the bundle by the first, and is content if any of them is `peer`.
pub(crate) fn upstream(peer: &SpiffeId, sni: String, alpn: &[&str]) -> TransportSocket {
    let san = MatchPattern::Exact(peer.as_str().to_owned());
    socket(&UpstreamTlsContext {
        common_tls_context: Some(common(vec![san], alpn, &peer.trust_domain().id())),
        sni,
        // No resumption: a peer whose certificate expired or whose CA was withdrawn must not slip through on an old session.
        max_session_keys: uint32(0),
        ..Default::default()
    })
}

/// Towards the callers: any workload of these trust domains may connect, what it may do is for the policy.
pub(crate) fn downstream<'a>(trust_domains: impl Iterator<Item = &'a TrustDomain>, alpn: &[&str]) -> TransportSocket {
    let sans = trust_domains.map(|domain| MatchPattern::Prefix(format!("{}/", domain.id()))).collect();
    socket(&DownstreamTlsContext {
        common_tls_context: Some(common(sans, alpn, BUNDLE_SECRET)),
        require_client_certificate: boolean(true),
        disable_stateful_session_resumption: true,
        session_ticket_keys_type: Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)),
        ..Default::default()
    })
}

/// The same as [`upstream`] in the words of proxyless gRPC (gRFC A29): certificates come from a provider that the client's own
/// bootstrap names `default`.
#[allow(deprecated)] // gRPC reads the older of the two ways in which Envoy says whom to expect.
pub(crate) fn upstream_for_grpc(peer: &SpiffeId) -> TransportSocket {
    let provider =
        || CertificateProviderPluginInstance { instance_name: "default".to_owned(), certificate_name: String::new() };
    let matcher = string(MatchPattern::Exact(peer.as_str().to_owned()));
    let validation = CertificateValidationContext {
        ca_certificate_provider_instance: Some(provider()),
        match_subject_alt_names: vec![matcher],
        ..Default::default()
    };
    let combined =
        CombinedCertificateValidationContext { default_validation_context: Some(validation), ..Default::default() };
    socket(&UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificate_provider_instance: Some(provider()),
            validation_context_type: Some(ValidationContextType::CombinedValidationContext(combined)),
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn common(sans: Vec<MatchPattern>, alpn: &[&str], bundle: &str) -> CommonTlsContext {
    let secret = |name: &str| SdsSecretConfig { name: name.to_owned(), sds_config: agent_source() };
    let san =
        |san| SubjectAltNameMatcher { san_type: SanType::Uri.into(), matcher: Some(string(san)), oid: String::new() };
    CommonTlsContext {
        tls_params: Some(TlsParameters {
            tls_minimum_protocol_version: TlsProtocol::TlSv13.into(),
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ecdh_curves: ["X25519MLKEM768", "X25519", "P-256"].map(str::to_owned).to_vec(),
            ..Default::default()
        }),
        tls_certificate_sds_secret_configs: vec![secret(CERTIFICATE_SECRET)],
        alpn_protocols: alpn.iter().map(|&protocol| protocol.to_owned()).collect(),
        validation_context_type: Some(ValidationContextType::CombinedValidationContext(
            CombinedCertificateValidationContext {
                default_validation_context: Some(CertificateValidationContext {
                    match_typed_subject_alt_names: sans.into_iter().map(san).collect(),
                    ..Default::default()
                }),
                validation_context_sds_secret_config: Some(secret(bundle)),
                ..Default::default()
            },
        )),
        ..Default::default()
    }
}

fn string(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ignore_case: false }
}

fn socket<M: Name + Message>(context: &M) -> TransportSocket {
    TransportSocket {
        name: "envoy.transport_sockets.tls".to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(any(context))),
    }
}
