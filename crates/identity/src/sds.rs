//! Certificates for Envoy: the live identity as SDS secrets, in a snapshot that an ADS/SDS server serves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::{DataSource, TypedExtensionConfig};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, SpiffeCertValidatorConfig, TlsCertificate, secret,
    spiffe_cert_validator_config,
};
use envoy_types::pb::google::protobuf::Any;
use prost::{Message, Name};
use tokio::sync::watch;
use weft_xds::{Observer, Resource, Snapshot, type_url};

use crate::files;
use crate::live::{IdentityState, LiveIdentity};
use crate::svid::{Svid, TrustBundle};

/// The secret with this workload's certificate and key.
pub const CERTIFICATE: &str = "default";
/// The secret with the trust bundle, and those of all other trust domains. The SPIFFE ID of a trust domain names its bundle alone.
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
        snapshot.insert(certificate(CERTIFICATE, svid));
    }
    if let Some(bundle) = state.bundle() {
        snapshot.insert(validation(BUNDLE, bundle, state.federated().iter()));
        for bundle in std::iter::once(bundle).chain(state.federated().iter()) {
            snapshot.insert(validation(&bundle.trust_domain().id(), bundle, []));
        }
    }
    snapshot
}

/// Certificate and key as a secret of this name.
pub fn certificate(name: &str, svid: &Svid) -> Arc<Resource> {
    let certificate = TlsCertificate {
        certificate_chain: Some(inline(files::certificates_pem(svid.chain()))),
        private_key: Some(inline(files::private_key_pem(svid).to_string())),
        ..Default::default()
    };
    let secret = Secret { name: name.into(), r#type: Some(secret::Type::TlsCertificate(certificate)) };
    Resource::new(type_url::SECRET, name, &secret)
}

/// A bundle as a secret of this name, and with it those of other trust domains, if there are any. Envoy's default validator would take a
/// certificate of any trust domain from any of the roots, and one that may sign others as a leaf: its validator for SPIFFE judges each by the
/// bundle of its own, and refuses the latter (X.509-SVID s.5.2).
pub fn validation<'a>(
    name: &str,
    bundle: &'a TrustBundle,
    federated: impl IntoIterator<Item = &'a Arc<TrustBundle>>,
) -> Arc<Resource> {
    let mut all = vec![bundle];
    all.extend(federated.into_iter().map(|bundle| &**bundle));
    // An empty bundle trusts nobody, and Envoy would refuse the whole for it.
    all.retain(|bundle| !bundle.roots().is_empty());
    let context = if all.is_empty() {
        CertificateValidationContext { trusted_ca: Some(inline(String::new())), ..Default::default() }
    } else {
        let trust_domain = |bundle: &TrustBundle| spiffe_cert_validator_config::TrustDomain {
            name: bundle.trust_domain().as_str().to_owned(),
            trust_bundle: Some(inline(files::certificates_pem(bundle.roots()))),
            ..Default::default()
        };
        let trust_domains = all.into_iter().map(trust_domain).collect();
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
    let secret = Secret { name: name.into(), r#type: Some(secret::Type::ValidationContext(context)) };
    Resource::new(type_url::SECRET, name, &secret)
}

fn inline(text: String) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineString(text)), ..Default::default() }
}

/// Which generation of an identity those have who work by copies of it: Envoys, which are sent secrets. Cheap to clone.
#[derive(Clone)]
pub struct Copies(Arc<Streams>);

/// What each stream has: an Envoy opens one for each secret.
struct Streams {
    /// Stream -> generation of the identity.
    has: Mutex<BTreeMap<u64, u64>>,
    /// The least of them; whoever follows nothing works by nothing.
    least: watch::Sender<u64>,
}

impl Default for Copies {
    fn default() -> Self {
        Self(Arc::new(Streams { has: Mutex::default(), least: watch::Sender::new(u64::MAX) }))
    }
}

impl Copies {
    /// Tells this identity what they have of it.
    pub fn follow(&self, identity: &LiveIdentity) {
        identity.copied(self.0.least.subscribe());
    }

    /// Observes a stream on which the revision of each snapshot is a generation.
    pub fn observer(&self) -> Box<dyn Observer> {
        let observer = Stream { number: rand::random(), streams: self.0.clone() };
        self.0.has(observer.number, Some(0));
        Box::new(observer)
    }
}

impl Streams {
    fn has(&self, stream: u64, generation: Option<u64>) {
        let mut has = self.has.lock().unwrap_or_else(PoisonError::into_inner);
        match generation {
            Some(generation) => has.insert(stream, generation),
            None => has.remove(&stream),
        };
        self.least.send_replace(has.values().min().copied().unwrap_or(u64::MAX));
    }
}

struct Stream {
    number: u64,
    streams: Arc<Streams>,
}

impl Observer for Stream {
    fn settled(&mut self, revision: &str) {
        if let Ok(generation) = revision.parse() {
            self.streams.has(self.number, Some(generation));
        }
    }

    fn closed(&mut self) {
        self.streams.has(self.number, None);
    }
}
