//! The certificate authority of a mesh: roots that sign issuing CAs, and an issuing CA of this server that signs workloads.
//!
//! Which roots there are, and which of them signs, is the trust domain's (see [`crate::trust`]) and stands in the store, where several
//! servers share it; each server has an issuing CA of its own. Keys are kept in the store, sealed; a root's key is read only for the
//! moment in which it signs, that of the key for JWT-SVIDs is kept in memory too. The authority signs whatever identity it is told to: who deserves which is decided by its callers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use rcgen::PublicKeyData;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, watch};
use weft_identity::ca::{self, CaError, KeyRequest, Names};
use weft_identity::{Audience, JwtSigner, Svid, TrustBundle};
use weft_model::{SpiffeId, TrustDomain};
use weft_store::Store;
use weft_upstream::Upstream;

use crate::error::AuthorityError;
use crate::holders::{Certificate, Holder, Holders};
use crate::issuing::Issuing;
use crate::keys::{Published, certificate, from_base64, read_trust, seconds};
use crate::lives::Lives;
use crate::outside::UpstreamProblem;
use crate::own_roots::Grounds;
use crate::signer::Signer;
use crate::trust::{Key, KeyId, Phase};

mod renewal;
mod steps;

/// Between two looks at what there has to be before a server can start.
const LOOK: Duration = Duration::from_millis(500);
/// How often a server that shares its store says that it lives, and how long it issues after it last could.
const BEAT: Duration = Duration::from_secs(8);
const CUT_OFF: Duration = Duration::from_secs(20);

/// What was issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf first, then the issuing CA, then those between it and the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Life that remains at issue.
    pub ttl: Duration,
    /// The root that it was issued under.
    pub under: KeyId,
    /// The leaf's serial number, upper-case hexadecimal.
    pub serial: String,
}

/// A JWT-SVID that was issued. `Debug` does not show it.
pub struct IssuedJwt {
    /// In compact form.
    pub token: String,
    /// The end of its life.
    pub expires: SystemTime,
    /// The key that signed it.
    pub kid: KeyId,
}

impl std::fmt::Debug for IssuedJwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IssuedJwt(by {} until {:?})", self.kid, self.expires)
    }
}

/// A request whose sender has proved to hold its key.
pub struct KeyProof(rcgen::SubjectPublicKeyInfo);

impl KeyProof {
    /// Checks a PKCS#10 request in DER.
    ///
    /// # Errors
    /// When it is malformed, not for an ECDSA P-256 key, or not signed by that key.
    pub fn check(csr: &[u8]) -> Result<Self, CaError> {
        ca::requested_key(csr).map(Self)
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.subject_public_key_info()).into()
    }
}

/// See the module.
pub struct Authority {
    store: Store,
    domain: TrustDomain,
    lives: Lives,
    /// What this server is told from others by.
    server: String,
    /// Where this server's issuing CA is kept.
    issuing_key: String,
    /// Who signs that.
    signer: Signer,
    /// When this server last said in a store that it shares that it lives.
    beaten: Mutex<Instant>,
    issuing: ArcSwap<Issuing>,
    /// The key that signs JWT-SVIDs; none until everybody holds the first.
    jwt: ArcSwapOption<JwtSigner>,
    published: watch::Sender<Arc<Published>>,
    holders: Holders,
    /// Somebody has asked for something.
    asked: Notify,
}

impl Authority {
    /// Opens the CA of `domain` in the store, as `server`, with roots of its own, and makes what is missing or past half of its life.
    ///
    /// Several servers that open an empty store at once end up with the same root.
    pub async fn open(
        store: Store,
        domain: TrustDomain,
        server: &str,
        lives: Lives,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        Self::open_under(None, store, domain, server, lives, now).await
    }

    /// The same under a CA outside, if one is given. Where there is no issuing CA yet that lives, this waits until it has signed one.
    ///
    /// # Errors
    /// The store failed, or a CA outside cannot sign until somebody has corrected something.
    pub async fn open_under(
        upstream: Option<Arc<Upstream>>,
        store: Store,
        domain: TrustDomain,
        server: &str,
        lives: Lives,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let (signer, begun) = (Signer::new(upstream), Instant::now());
        let holders = Holders::open(store.clone()).await?;
        let grounds = Grounds { store: &store, domain: &domain, lives, holders: &holders, server };
        let issuing_key = format!("ca/issuing/{server}");
        let stored = Issuing::read(&store, &issuing_key).await?;
        let (published, issuing) = loop {
            let now = now + begun.elapsed();
            let published = read_trust(&store, &domain).await?;
            let present = stored.as_ref().filter(|issuing| issuing.serves(&published, now));
            let published = signer.advance(&grounds, published, present, now).await?;
            if let Some(issuing) = signer.issuing(&grounds, &published, present, now).await? {
                issuing.write(&store, &issuing_key).await?;
                break (published, issuing);
            }
            if present.is_some()
                && let Some(stored) = stored
            {
                break (published, stored);
            }
            if let Some((_, Some((problem, _)))) = signer.outside()
                && !problem.is_passing()
            {
                return Err(problem.into());
            }
            tokio::select! {
                () = signer.changed() => {}
                () = tokio::time::sleep(LOOK) => holders.take_over().await?, // others may have to hold the root first
            }
        };
        if store.is_shared() {
            holders.beat(server, published.trust.sequence, &issuing.under, seconds(now)).await?;
        }
        let authority = Self {
            domain,
            lives,
            server: server.to_owned(),
            issuing_key,
            signer,
            beaten: Mutex::new(Instant::now()),
            issuing: ArcSwap::from_pointee(issuing),
            published: watch::Sender::new(Arc::new(published)),
            holders,
            jwt: ArcSwapOption::empty(),
            asked: Notify::new(),
            store,
        };
        let published = authority.published.borrow().clone();
        authority.take_jwt_key(&published).await?;
        Ok(authority)
    }

    fn grounds(&self) -> Grounds<'_> {
        let Self { store, domain, lives, holders, server, .. } = self;
        Grounds { store, domain, lives: *lives, holders, server }
    }

    /// The CA outside that signs this server's issuing CA, if there is one, and why it has not signed what is due, since when.
    pub fn upstream(&self) -> Option<(&Arc<Upstream>, Option<UpstreamProblem>)> {
        self.signer.outside()
    }

    /// Which issuing CA this server has, as a [`KeyId`], and when it ends.
    pub fn issuing_ca(&self) -> (KeyId, SystemTime) {
        let issuing = self.issuing.load();
        (issuing.id(), issuing.ca.not_after)
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The SPIFFE ID of the control plane itself.
    pub fn own_id(&self) -> SpiffeId {
        SpiffeId::of_control_plane(&self.domain)
    }

    /// What peers verify by: the roots.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        self.published.borrow().bundle.clone()
    }

    /// What the trust domain vouches with, now and after each change.
    pub fn published(&self) -> watch::Receiver<Arc<Published>> {
        self.published.subscribe()
    }

    /// SHA-256 of the SubjectPublicKeyInfo of the root that this server issues under; join tokens carry it.
    pub fn pin(&self) -> [u8; 32] {
        let root = self.own_root().and_then(|root| certificate(&root).ok());
        root.and_then(|root| ca::pin_of(&root).ok()).unwrap_or_default()
    }

    /// Whether the root that this server issues under may have others under it than this mesh.
    pub fn is_under_others(&self) -> bool {
        self.own_root().is_some_and(|root| root.source.is_some())
    }

    fn own_root(&self) -> Option<Key> {
        let (published, issuing) = (self.published.borrow().clone(), self.issuing.load());
        published.trust.x509.keys().iter().find(|root| root.id == issuing.under).cloned()
    }

    /// The holders who do not hold what is published now, with what they hold and until when.
    pub fn behind(&self, now: SystemTime) -> Vec<(String, u64, u64)> {
        let sequence = self.published.borrow().trust.sequence;
        let behind = self.holders.behind(sequence, seconds(now));
        behind.into_iter().map(|(who, holder)| (who, holder.sequence, holder.ends)).collect()
    }

    /// All certificates that live, with whom they were issued to.
    pub fn certificates(&self, now: SystemTime) -> Vec<Certificate> {
        self.holders.certificates(seconds(now))
    }

    /// When the present issuing CA is to be replaced.
    pub fn next_rotation(&self) -> SystemTime {
        self.issuing.load().half_life()
    }

    /// Signs an X.509-SVID of `id` for the key of a request, issued to a machine if that is known. It ends after `ttl`, or with the issuing
    /// CA if that is earlier.
    pub fn issue(
        &self,
        request: &KeyProof,
        id: &SpiffeId,
        machine: Option<&str>,
        ttl: Duration,
        names: &Names,
        now: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        let issuing = self.issuing.load();
        let not_after = (now + ttl).min(issuing.ca.not_after);
        let (leaf, serial) = issuing.ca.numbered_leaf(&request.0, id, machine, names, now, not_after)?;
        Ok(Issued {
            serial,
            chain: [leaf, issuing.ca.certificate().clone()].into_iter().chain(issuing.above.iter().cloned()).collect(),
            ttl: not_after.duration_since(now).unwrap_or_default(),
            under: issuing.under.clone(),
        })
    }

    /// Whether anything may be issued now.
    ///
    /// # Errors
    /// The other servers may take this one for dead.
    pub fn may_issue(&self) -> Result<(), AuthorityError> {
        let since = self.beaten.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
        if self.store.is_shared() && since > CUT_OFF { Err(AuthorityError::CutOff(since.as_secs())) } else { Ok(()) }
    }

    /// Signs a JWT-SVID of `id`. It ends after [`Lives::token`], or with the key that signs it if that is earlier.
    ///
    /// # Errors
    /// No key signs yet, or the system gives no random numbers.
    pub fn issue_jwt(&self, id: &SpiffeId, audience: &Audience, now: SystemTime) -> Result<IssuedJwt, AuthorityError> {
        let signer = self.jwt.load_full().ok_or(AuthorityError::NoJwtKey)?;
        let kid = signer.kid();
        let published = self.published.borrow().clone();
        let key = published.trust.jwt.keys().iter().find(|key| key.id == kid).ok_or(AuthorityError::NoJwtKey)?;
        let end = UNIX_EPOCH + Duration::from_secs(key.not_after);
        let expires = (now + self.lives.token.min(self.lives.jwt_retired)).min(end);
        let token = signer.sign(id, audience, now, expires)?;
        Ok(IssuedJwt { token, expires, kid })
    }

    /// Takes note of who got what was issued, together with the present bundle; rotations wait for them. What they call themselves, or
    /// the serial number of what they got, tells them from others of the same identity.
    ///
    /// `false`: the root has just been followed by another, and this one may be forgotten before it was known that somebody lives by it. What
    /// was issued must not be handed out, but issued again.
    pub(crate) fn hold(
        &self,
        holder: String,
        issued: &Issued,
        machine: Option<&str>,
        sequence: u64,
        now: SystemTime,
    ) -> bool {
        let (under, serial) = (issued.under.clone(), issued.serial.clone());
        let (since, ends) = (seconds(now), seconds(now + issued.ttl));
        let machine = machine.map(str::to_owned);
        self.holders.issued(holder, Holder { sequence, under, ends, since, serial, machine }, since);
        self.issuing.load().under == issued.under
    }

    /// A holder says which bundle it has.
    pub(crate) fn holds(&self, holder: &str, sequence: u64) {
        self.holders.holds(holder, sequence);
    }

    /// An agent says which bundle those have who live by it: `node` stands for it among the holders.
    pub(crate) fn holds_through(&self, node: &str, sequence: u64) {
        self.holders.holds_through(node, sequence);
    }

    /// Whether a holder has a certificate that lives.
    pub(crate) fn holds_one(&self, holder: &str, now: SystemTime) -> bool {
        self.holders.holds_one(holder, seconds(now))
    }

    /// Whether a holder has to get another certificate at once.
    pub(crate) fn must_renew(&self, holder: &str) -> bool {
        let under = self.holders.under(holder);
        under.is_some_and(|under| self.published.borrow().is_tainted(&under))
    }

    /// A certificate and key for the control plane's own listeners. Its chain has the roots too, and with what each vouches for its
    /// successor, so that a workload that holds nothing but a join token, or an old bundle, can find its way.
    pub fn own_svid(&self, names: &Names, ttl: Duration, now: SystemTime) -> Result<Svid, AuthorityError> {
        let request = KeyRequest::new()?;
        let mut issued = self.issue(&KeyProof::check(&request.csr)?, &self.own_id(), None, ttl, names, now)?;
        let published = self.published.borrow().clone();
        let trusted = published.trust.x509.keys().iter().rev().filter(|root| root.tainted.is_none());
        for root in trusted.filter(|root| !matches!(root.phase, Phase::Published { .. })) {
            if let Some(vouched) = &root.vouched {
                issued.chain.push(from_base64(vouched)?);
            }
            issued.chain.push(certificate(root)?);
        }
        Ok(Svid::from_der(issued.chain, &request.key)?)
    }
}

#[cfg(test)]
mod tests;
