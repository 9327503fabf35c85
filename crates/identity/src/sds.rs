//! Certificates for Envoy: the live identity as SDS secrets, in a snapshot that an ADS/SDS server serves.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TypedExtensionConfig};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret,
    spiffe_cert_validator_config,
};
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};
use tokio::sync::watch;
use weft_xds::{Resource, Snapshot, type_url};

use crate::federated::Federated;
use crate::files;
use crate::live::{IdentityState, LiveIdentity};
use crate::svid::{Svid, TrustBundle};

/// The secret with this workload's certificate and key.
pub const CERTIFICATE: &str = "default";
/// The secret with the trust bundle.
pub const BUNDLE: &str = "ROOTCA";

/// Follows the identity; the snapshot is empty until there is one. The task ends when no receiver is left.
pub fn snapshots(identity: Arc<LiveIdentity>) -> watch::Receiver<Arc<Snapshot>> {
    let mut changes = identity.subscribe();
    let (sender, receiver) = watch::channel(Arc::new(snapshot(&identity.load())));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                changed = changes.changed() => if changed.is_err() { return },
            }
            sender.send_replace(Arc::new(snapshot(&identity.load())));
        }
    });
    receiver
}

/// The secrets of one state; its revision is the state's generation. Only what changed has another version, so a rotation sends `default`
/// alone.
pub fn snapshot(state: &IdentityState) -> Snapshot {
    let mut snapshot = Snapshot::new(&state.generation().to_string());
    if let Some(svid) = state.svid() {
        snapshot.insert(Resource::new(type_url::SECRET, CERTIFICATE, &certificate(svid)));
    }
    if let Some(bundle) = state.bundle() {
        snapshot.insert(Resource::new(type_url::SECRET, BUNDLE, &validation(bundle, state.federated())));
    }
    snapshot
}

fn certificate(svid: &Svid) -> Secret {
    let certificate = TlsCertificate {
        certificate_chain: Some(inline(files::certificates_pem(svid.chain()))),
        private_key: Some(inline(files::private_key_pem(svid).to_string())),
        ..Default::default()
    };
    Secret { name: CERTIFICATE.into(), r#type: Some(secret::Type::TlsCertificate(certificate)) }
}

/// Without federation a pool of roots is enough. With it, Envoy's default validator would take a certificate of any trust domain from any of
/// the roots: its validator for SPIFFE judges each by the bundle of its own.
fn validation(bundle: &TrustBundle, federated: &Federated) -> Secret {
    let context = if federated.is_empty() {
        CertificateValidationContext {
            trusted_ca: Some(inline(files::certificates_pem(bundle.roots()))),
            ..Default::default()
        }
    } else {
        let all = std::iter::once(bundle).chain(federated.iter().map(|bundle| &**bundle));
        let trust_domain = |bundle: &TrustBundle| spiffe_cert_validator_config::TrustDomain {
            name: bundle.trust_domain().as_str().to_owned(),
            trust_bundle: Some(inline(files::certificates_pem(bundle.roots()))),
            ..Default::default()
        };
        // An empty bundle trusts nobody, and Envoy would refuse the whole for it.
        let trust_domains = all.filter(|bundle| !bundle.roots().is_empty()).map(trust_domain).collect();
        let config = SpiffeCertValidatorConfig { trust_domains, ..Default::default() };
        let config = Any { type_url: SpiffeCertValidatorConfig::type_url(), value: config.encode_to_vec() };
        CertificateValidationContext {
            custom_validator_config: Some(TypedExtensionConfig {
                name: "envoy.tls.cert_validator.spiffe".into(),
                typed_config: Some(config),
            }),
            ..Default::default()
        }
    };
    Secret { name: BUNDLE.into(), r#type: Some(secret::Type::ValidationContext(context)) }
}

fn inline(text: String) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineString(text)), ..Default::default() }
}
