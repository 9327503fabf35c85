//! A certificate with its key, and the roots by which others are judged: the values that an identity is made of.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, TrustAnchor};
use rustls::sign::CertifiedKey;
use weft_model::{SpiffeId, TrustDomain};
use zeroize::Zeroizing;

use crate::certificate::{self, hex, validity};
use crate::crypto;
use crate::fault::{OwnFault, PeerError};
use crate::jwk::{JwtBundle, JwtKey};

/// Why bytes are no usable identity.
#[derive(Debug, thiserror::Error)]
pub enum SvidError {
    /// The certificate breaks a rule of X.509-SVID.
    #[error("the issued certificate is no X.509-SVID: {0}")]
    Rule(#[from] PeerError),
    /// The key cannot be read or belongs to another certificate.
    #[error("the private key does not fit the certificate: {0}")]
    Key(rustls::Error),
    /// A certificate of a bundle is no signing certificate, or two of its keys have one name.
    #[error("the bundle of {0} cannot be trusted: {1}")]
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
    /// Checks the leaf's rules and that the key is the certificate's; who issued it is checked by its peers.
    pub fn from_der(chain: Vec<CertificateDer<'static>>, pkcs8: &[u8]) -> Result<Self, SvidError> {
        let leaf = certificate::parse(chain.first().ok_or(PeerError::NoCertificate)?)?;
        let id = certificate::check_leaf(&leaf)?;
        let (not_before, not_after) = validity(&leaf);
        let serial = hex(leaf.raw_serial());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.to_vec()));
        let certified = CertifiedKey::from_der(chain, key, crypto::provider()).map_err(SvidError::Key)?;
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

/// The certificates under which a trust domain's X.509-SVIDs are issued, and with them, apart, its keys for JWT-SVIDs.
#[derive(Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    /// The end of each root's life.
    ends: Vec<SystemTime>,
    sequence: u64,
    jwt: Arc<JwtBundle>,
}

impl TrustBundle {
    /// From DER certificates, each checked to be a signing certificate (X.509-SVID s.3.2). An empty bundle trusts nobody.
    pub fn new(trust_domain: TrustDomain, roots: Vec<CertificateDer<'static>>) -> Result<Self, SvidError> {
        let (mut anchors, mut ends) = (Vec::with_capacity(roots.len()), Vec::with_capacity(roots.len()));
        for root in &roots {
            let refuse = |why: String| SvidError::Bundle(trust_domain.clone(), why);
            let parsed = certificate::parse(root)?;
            certificate::check_signing(&parsed, &trust_domain).map_err(refuse)?;
            ends.push(validity(&parsed).1);
            let anchor = webpki::anchor_from_trusted_cert(root).map_err(|error| refuse(error.to_string()))?;
            anchors.push(anchor.to_owned());
        }
        let jwt = Arc::new(JwtBundle::empty(trust_domain.clone()));
        Ok(Self { trust_domain, roots, anchors, ends, sequence: 0, jwt })
    }

    /// The same, as the one that its publisher gave this number: of two bundles of a trust domain the higher one is newer
    /// (Trust Domain and Bundle s.4.1.1).
    pub fn with_sequence(self, sequence: u64) -> Self {
        Self { sequence, ..self }
    }

    /// The same with these keys for JWT-SVIDs.
    ///
    /// # Errors
    /// Two of them have one `kid`.
    pub fn with_jwt_keys(self, keys: Vec<JwtKey>) -> Result<Self, SvidError> {
        let jwt = JwtBundle::new(self.trust_domain.clone(), keys);
        let jwt = jwt.map_err(|why| SvidError::Bundle(self.trust_domain.clone(), why))?;
        Ok(Self { jwt: Arc::new(jwt), ..self })
    }

    /// What judges the trust domain's JWT-SVIDs.
    pub fn jwt(&self) -> &Arc<JwtBundle> {
        &self.jwt
    }

    /// Its publisher's number; 0 if there is none.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whose bundle it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Whether the other one vouches with the same, whatever its number.
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain && self.roots == other.roots && self.jwt == other.jwt
    }

    /// The certificates.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }

    /// When the first of the roots runs out.
    pub fn first_end(&self) -> Option<SystemTime> {
        self.ends.iter().min().copied()
    }

    /// The roots that have not run out at `now`. Path validation itself asks nothing of a trust anchor (RFC 5280 s.6.1.1), and other
    /// TLS stacks refuse one that has.
    ///
    /// # Errors
    /// There are roots, and all of them have run out.
    pub(crate) fn anchors(&self, now: SystemTime) -> Result<Cow<'_, [TrustAnchor<'static>]>, OwnFault> {
        let lives = |end: &SystemTime| now <= *end;
        if self.ends.iter().all(lives) {
            return Ok(Cow::Borrowed(&self.anchors));
        }
        let left = self.anchors.iter().zip(&self.ends).filter(|(_, end)| lives(end));
        let left: Vec<_> = left.map(|(anchor, _)| anchor.clone()).collect();
        if left.is_empty() {
            let ago = self.ends.iter().filter_map(|end| now.duration_since(*end).ok()).min().unwrap_or_default();
            return Err(OwnFault::BundleExpired { domain: self.trust_domain.clone(), ago: ago.as_secs() });
        }
        Ok(Cow::Owned(left))
    }
}

impl fmt::Debug for TrustBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustBundle")
            .field("trust_domain", &self.trust_domain)
            .field("roots", &self.roots.len())
            .field("jwt_keys", &self.jwt.keys().len())
            .finish_non_exhaustive()
    }
}
