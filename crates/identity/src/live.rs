//! What a process is right now: its certificate, its key, and the bundle by which it judges others.
//!
//! One atomic pointer, read at each handshake and replaced by a rotation. Connections that exist are never touched.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, Guard};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, TrustAnchor, UnixTime};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use weft_model::{SpiffeId, TrustDomain};
use x509_parser::prelude::X509Certificate;
use zeroize::Zeroizing;

use crate::peer::{self, PeerError};
use crate::tls;

/// Why bytes are no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// The certificate breaks a rule of X.509-SVID.
    #[error("the issued certificate is no X.509-SVID: {0}")]
    Rule(#[from] PeerError),
    /// The key cannot be read or belongs to another certificate.
    #[error("the private key does not fit the certificate: {0}")]
    Key(rustls::Error),
    /// A certificate of a bundle is no signing certificate.
    #[error("a certificate of the bundle of {0} cannot be trusted: {1}")]
    Bundle(TrustDomain, String),
}

/// An X.509-SVID with its private key. Neither `Debug` nor `Display` shows the key.
pub struct Svid {
    id: SpiffeId,
    certified: Arc<CertifiedKey>,
    key: Zeroizing<Vec<u8>>,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Svid {
    /// From a chain (leaf first, then its issuers) and the leaf's private key as PKCS#8 DER.
    ///
    /// Checks the leaf's rules and that the key is the certificate's; who issued it is checked by [`TrustBundle::verify`].
    pub fn from_der(chain: Vec<CertificateDer<'static>>, pkcs8: &[u8]) -> Result<Self, SvidError> {
        let leaf = peer::parse(chain.first().ok_or(PeerError::NoCertificate)?)?;
        let id = peer::check_leaf(&leaf)?;
        let (not_before, not_after) = validity(&leaf);
        let serial = hex(leaf.raw_serial());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.to_vec()));
        let certified = CertifiedKey::from_der(chain, key, tls::provider()).map_err(SvidError::Key)?;
        certified.keys_match().map_err(SvidError::Key)?;
        Ok(Self {
            id,
            certified: Arc::new(certified),
            key: Zeroizing::new(pkcs8.to_vec()),
            serial,
            not_before,
            not_after,
        })
    }

    /// Whose it is.
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Leaf first, then its issuers.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// For a TLS stack.
    pub fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    /// The private key, PKCS#8 DER. For SDS and for saving to a file of mode 0600, never for a log.
    pub fn private_key_der(&self) -> &[u8] {
        &self.key
    }

    /// The leaf's serial number, upper-case hexadecimal as `openssl x509 -serial` prints it.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The start of its life.
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// The end of its life.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.id)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// The certificates under which a trust domain's SVIDs are issued.
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
}

impl TrustBundle {
    /// From DER certificates, each checked to be a signing certificate (X.509-SVID s.3.2). An empty bundle trusts nobody.
    pub fn new(trust_domain: TrustDomain, roots: Vec<CertificateDer<'static>>) -> Result<Self, SvidError> {
        let mut anchors = Vec::with_capacity(roots.len());
        for root in &roots {
            let refuse = |why: String| SvidError::Bundle(trust_domain.clone(), why);
            peer::check_signing(&peer::parse(root)?, &trust_domain).map_err(refuse)?;
            let anchor = webpki::anchor_from_trusted_cert(root).map_err(|error| refuse(error.to_string()))?;
            anchors.push(anchor.to_owned());
        }
        Ok(Self { trust_domain, roots, anchors })
    }

    /// Whose bundle it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The certificates.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustBundle")
            .field("trust_domain", &self.trust_domain)
            .field("roots", &self.roots.len())
            .finish_non_exhaustive()
    }
}

/// The CA that issued this process's own certificate, once its path to the bundle has been verified.
///
/// Nearly every peer is issued by the same CA. As long as that lives, a peer's leaf is checked against it directly, which saves one
/// of the two signature checks of a handshake.
pub(crate) struct VerifiedIssuer {
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) anchor: TrustAnchor<'static>,
    pub(crate) not_after: SystemTime,
}

impl fmt::Debug for VerifiedIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedIssuer").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// One consistent view of an identity. Handshakes read one of these and no other.
#[derive(Debug, Default)]
pub struct IdentityState {
    svid: Option<Arc<Svid>>,
    bundle: Option<Arc<TrustBundle>>,
    issuer: Option<VerifiedIssuer>,
    generation: u64,
}

impl IdentityState {
    /// No certificate yet, but a bundle to judge others by.
    pub(crate) fn trusting(bundle: TrustBundle) -> Self {
        Self { bundle: Some(Arc::new(bundle)), ..Self::default() }
    }

    /// The certificate and key, if there is one yet.
    pub fn svid(&self) -> Option<&Arc<Svid>> {
        self.svid.as_ref()
    }

    /// The bundle, if there is one yet.
    pub fn bundle(&self) -> Option<&Arc<TrustBundle>> {
        self.bundle.as_ref()
    }

    /// Grows by one with each change; 0 is the empty identity.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn issuer(&self) -> Option<&VerifiedIssuer> {
        self.issuer.as_ref()
    }

    /// The certificate and key if they may be used at `now`: an expired identity fails closed.
    pub(crate) fn usable(&self, now: UnixTime) -> Result<&Arc<Svid>, PeerError> {
        let svid = self.svid.as_ref().ok_or(PeerError::NoIdentity)?;
        let now = UNIX_EPOCH + Duration::from_secs(now.as_secs());
        match now.duration_since(svid.not_after) {
            Ok(since) if since > Duration::ZERO => Err(PeerError::OwnCertificateExpired(since.as_secs())),
            _ => Ok(svid),
        }
    }
}

/// The identity of this process, shared by everything that makes or takes TLS connections.
pub struct LiveIdentity {
    state: ArcSwap<IdentityState>,
    generation: watch::Sender<u64>,
}

impl LiveIdentity {
    /// Without certificate and bundle: every handshake fails and says so.
    pub fn empty() -> Arc<Self> {
        Arc::new(Self { state: ArcSwap::default(), generation: watch::Sender::new(0) })
    }

    /// The present state. Keep it for one handshake or one decision, then drop it.
    pub fn load(&self) -> Guard<Arc<IdentityState>> {
        self.state.load()
    }

    /// The present state, to be kept for longer.
    pub fn load_full(&self) -> Arc<IdentityState> {
        self.state.load_full()
    }

    /// The SPIFFE ID, once there is a certificate.
    pub fn id(&self) -> Option<SpiffeId> {
        self.load().svid().map(|svid| svid.id().clone())
    }

    /// Replaces certificate and bundle at once.
    pub fn set(&self, svid: Svid, bundle: TrustBundle) {
        let (svid, bundle) = (Arc::new(svid), Arc::new(bundle));
        self.update(|_| (Some(svid.clone()), Some(bundle.clone())));
    }

    /// Replaces the bundle and keeps the certificate.
    pub fn set_bundle(&self, bundle: TrustBundle) {
        let bundle = Arc::new(bundle);
        self.update(|old| (old.svid.clone(), Some(bundle.clone())));
    }

    /// Sees the generation after each change; changes that follow closely may be seen as one.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Waits until there is a certificate.
    pub async fn ready(&self) {
        let mut changes = self.subscribe();
        while self.load().svid().is_none() {
            // The sender lives in `self`, so the wait ends only by a change.
            let _ = changes.changed().await;
        }
    }

    fn update(&self, next: impl Fn(&IdentityState) -> (Option<Arc<Svid>>, Option<Arc<TrustBundle>>)) {
        self.generation.send_modify(|generation| {
            // Writers are serialised by the watch's lock; readers never wait for it.
            let (svid, bundle) = next(&self.state.load());
            *generation += 1;
            let issuer = match (&svid, &bundle) {
                (Some(svid), Some(bundle)) => peer::verified_issuer(svid, bundle, UnixTime::now()),
                _ => None,
            };
            self.state.store(Arc::new(IdentityState { svid, bundle, issuer, generation: *generation }));
        });
    }
}

impl fmt::Debug for LiveIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LiveIdentity").field(&**self.load()).finish()
    }
}

pub(crate) fn validity(certificate: &X509Certificate<'_>) -> (SystemTime, SystemTime) {
    let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(seconds.max(0).unsigned_abs());
    let validity = certificate.validity();
    (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    // A positive DER integer whose top bit is set has a leading zero byte that is no part of the number.
    let bytes = if let [0, rest @ ..] = bytes { rest } else { bytes };
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02X}"); // writing to a String cannot fail
        text
    })
}
