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
use tokio::task::JoinHandle;
use weft_identity::ca::{self, CaError, KeyRequest, Names};
use weft_identity::schedule::{self, Plan};
use weft_identity::{Audience, JwtSigner, LiveIdentity, Svid, TrustBundle};
use weft_model::{SpiffeId, TrustDomain};
use weft_store::Store;

use crate::error::AuthorityError;
use crate::holders::{Certificate, Holder, Holders};
use crate::jwt_keys;
use crate::keys::{
    ATTEMPTS, Issuing, Published, TRUST, advance, certificate, from_base64, is_good, make_issuing, put_trust,
    read_issuing, read_trust, seconds,
};
use crate::lives::Lives;
use crate::trust::{KeyId, Kind, Phase, Trust, UnknownKey};

/// How often the authority tries again what failed.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// How often a server that shares its store says that it lives, and how long it issues after it last could.
const BEAT: Duration = Duration::from_secs(8);
const CUT_OFF: Duration = Duration::from_secs(20);

/// What was issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf first, then the issuing CA.
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
    /// Opens the CA of `domain` in the store, as `server`, and makes what is missing or past half of its life.
    ///
    /// Several servers that open an empty store at once end up with the same root.
    pub async fn open(
        store: Store,
        domain: TrustDomain,
        server: &str,
        lives: Lives,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let holders = Holders::open(store.clone()).await?;
        let published = read_trust(&store, &domain).await?;
        let published = advance(&store, &domain, lives, published, &holders, now).await?;
        let issuing_key = format!("ca/issuing/{server}");
        let issuing = match read_issuing(&store, &issuing_key).await? {
            Some(issuing) if is_good(&issuing, &published, now) => issuing,
            _ => make_issuing(&store, &issuing_key, &domain, lives, &published, now).await?,
        };
        if store.is_shared() {
            holders.beat(server, published.trust.sequence, &issuing.under, seconds(now)).await?;
        }
        let authority = Self {
            domain,
            lives,
            server: server.to_owned(),
            issuing_key,
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

    /// SHA-256 of the SubjectPublicKeyInfo of the root that signs; join tokens carry it.
    pub fn pin(&self) -> [u8; 32] {
        let published = self.published.borrow().clone();
        let active = published.trust.x509.active().and_then(|root| certificate(root).ok());
        active.and_then(|root| ca::pin_of(&root).ok()).unwrap_or_default()
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
        let issuing = self.issuing.load();
        schedule::half_life(issuing.ca.not_before, issuing.ca.not_after)
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
            chain: vec![leaf, issuing.ca.certificate().clone()],
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

    /// Wants a new key of this kind, whatever the age of the present one. Everybody gets it before it signs.
    ///
    /// # Errors
    /// The store failed.
    pub async fn rotate(&self, kind: Kind, reason: &str) -> Result<(), AuthorityError> {
        self.change(|trust| {
            trust.lineage_mut(kind).ask(reason);
            Ok(())
        })
        .await
    }

    /// Nothing that this key signed is to be trusted any longer than it takes to replace it. There is no way back.
    ///
    /// # Errors
    /// There is no such key, or the store failed.
    pub async fn taint(&self, kind: Kind, id: &str, reason: &str) -> Result<(), AuthorityError> {
        tracing::warn!(?kind, id, reason, "a key is tainted: everything that it signed is being replaced");
        self.change(|trust| trust.taint(kind, id, reason)).await
    }

    async fn change(&self, change: impl Fn(&mut Trust) -> Result<(), UnknownKey>) -> Result<(), AuthorityError> {
        for _ in 0..ATTEMPTS {
            let present = read_trust(&self.store, &self.domain).await?;
            let mut trust = present.trust.clone();
            change(&mut trust)?;
            if let Some(published) = put_trust(&self.store, &self.domain, &present, trust).await? {
                self.published.send_replace(Arc::new(published));
                self.asked.notify_one();
                return Ok(());
            }
        }
        Err(AuthorityError::Contended)
    }

    /// Does what is due: takes the roots a step further, and replaces the issuing CA if half of its life is over or its root signs no
    /// more. One of several servers takes a step, the others take over the result. Whether anything changed here.
    pub async fn advance(&self, now: SystemTime) -> Result<bool, AuthorityError> {
        self.holders.save(seconds(now)).await?;
        let mut changed = false;
        loop {
            let (stepped, replaced) = self.take_steps(now).await?;
            changed |= stepped || replaced;
            if self.store.is_shared() {
                self.beat(now, stepped || replaced).await?;
            }
            if !stepped {
                return Ok(changed);
            }
        }
    }

    /// Says to the other servers that this one lives, if it is time or something has changed.
    async fn beat(&self, now: SystemTime, changed: bool) -> Result<(), AuthorityError> {
        let begun = Instant::now();
        if !changed && self.beaten.lock().unwrap_or_else(PoisonError::into_inner).elapsed() < BEAT {
            return Ok(());
        }
        // What was issued under the root before has to be known first.
        self.holders.save(seconds(now)).await?;
        let (sequence, under) = (self.published.borrow().trust.sequence, self.issuing.load().under.clone());
        self.holders.beat(&self.server, sequence, &under, seconds(now)).await?;
        *self.beaten.lock().unwrap_or_else(PoisonError::into_inner) = begun;
        Ok(())
    }

    /// Takes the steps up to the next root that signs, and has this server's issuing CA be that one's. Only then anybody is told: whoever
    /// renews because of it gets a certificate under the new root. Whether a step was taken, and whether the issuing CA was replaced.
    async fn take_steps(&self, now: SystemTime) -> Result<(bool, bool), AuthorityError> {
        let before = self.published.borrow().clone();
        let present = read_trust(&self.store, &self.domain).await?;
        let present = advance(&self.store, &self.domain, self.lives, present, &self.holders, now).await?;
        let replaced = !is_good(&self.issuing.load(), &present, now);
        if replaced {
            let issuing = make_issuing(&self.store, &self.issuing_key, &self.domain, self.lives, &present, now).await?;
            self.issuing.store(Arc::new(issuing));
        }
        self.take_jwt_key(&present).await?;
        let stepped = present.trust != before.trust;
        if stepped {
            self.published.send_replace(Arc::new(present));
        }
        Ok((stepped, replaced))
    }

    /// When the next root or key may have to go a step further, as far as time alone says: now for one that is published, and for a retired
    /// one at the end.
    fn next_step(&self) -> SystemTime {
        let published = self.published.borrow().clone();
        let keys = published.trust.x509.keys().iter().chain(published.trust.jwt.keys());
        let steps = keys.filter_map(|key| match key.phase {
            Phase::Published { since, .. } => Some(since),
            Phase::Active { .. } => None,
            Phase::Retired { until } => Some(until),
        });
        UNIX_EPOCH + Duration::from_secs(steps.min().unwrap_or(u64::from(u32::MAX)))
    }

    /// Has the key in memory that signs JWT-SVIDs by what is published.
    async fn take_jwt_key(&self, published: &Published) -> Result<(), AuthorityError> {
        let Some(active) = published.trust.jwt.active() else { return Ok(()) };
        if self.jwt.load().as_ref().is_none_or(|signer| signer.kid() != active.id) {
            self.jwt.store(Some(Arc::new(jwt_keys::read(&self.store, &active.id).await?)));
        }
        Ok(())
    }

    /// Gives the control plane its own identity, and keeps it, the issuing CA and the roots renewed until the task is aborted.
    pub fn start(
        self: &Arc<Self>,
        names: Names,
        ttl: Duration,
    ) -> Result<(Arc<LiveIdentity>, JoinHandle<()>), AuthorityError> {
        let live = LiveIdentity::empty();
        live.set(self.own_svid(&names, ttl, SystemTime::now())?, (*self.bundle()).clone());
        let (authority, own) = (self.clone(), live.clone());
        if self.store.is_shared() {
            let authority = self.clone();
            tokio::spawn(async move { authority.holders.follow().await });
        }
        let task = tokio::spawn(async move {
            let mut plan = own_plan(&own);
            let mut begun = Instant::now();
            let mut others = authority.store.watch(TRUST);
            let longest = if authority.store.is_shared() { BEAT } else { Duration::MAX };
            loop {
                let due = plan.due.min(authority.next_rotation()).min(authority.next_step());
                let nap = schedule::nap(SystemTime::now(), due);
                tokio::select! {
                    () = tokio::time::sleep(nap.max(AT_MOST_EVERY).min(longest)) => {}
                    () = authority.holders.changed() => {}
                    () = authority.asked.notified() => {}
                    _ = others.next(), if authority.store.is_shared() => {}
                }
                let now = SystemTime::now();
                let changed = authority.advance(now).await.unwrap_or_else(|error| {
                    tracing::error!(%error, "the mesh's keys were not looked after; trying again");
                    false
                });
                if changed || plan.is_due(now, begun.elapsed()) {
                    match authority.own_svid(&names, ttl, now) {
                        Ok(svid) => {
                            own.set(svid, (*authority.bundle()).clone());
                            (plan, begun) = (own_plan(&own), Instant::now());
                        }
                        Err(error) => {
                            tracing::error!(%error, "the server's own certificate was not renewed; trying again")
                        }
                    }
                }
            }
        });
        Ok((live, task))
    }
}

/// When the control plane's own certificate is to be renewed.
fn own_plan(own: &LiveIdentity) -> Plan {
    let state = own.load();
    let (not_before, due) = state.svid().map_or((SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH), |svid| {
        (svid.not_before(), schedule::half_life(svid.not_before() + ca::BACKDATE, svid.not_after()))
    });
    Plan { begun: SystemTime::now(), due, not_before }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_is_handed_out_under_a_root_that_may_be_forgotten_before_it_is_known_who_lives_by_it() {
        let folder = tempfile::tempdir().unwrap();
        let (store, now) = (Store::open(folder.path()).unwrap(), SystemTime::now());
        let open = Authority::open(store, "acme.internal".parse().unwrap(), "self", Lives::default(), now);
        let authority = open.await.unwrap();
        let request = KeyProof::check(&KeyRequest::new().unwrap().csr).unwrap();
        let id: SpiffeId = "spiffe://acme.internal/ns/prod/sa/web".parse().unwrap();
        let hour = Duration::from_secs(3600);
        let issue = || authority.issue(&request, &id, None, hour, &Names::default(), now).unwrap();
        let early = issue();
        let stolen = early.under.clone();
        authority.taint(Kind::X509, &stolen, "a drill").await.unwrap();
        // All steps at once, since nobody holds anything: the root is gone when the slow answer wants to leave.
        authority.advance(now).await.unwrap();
        assert!(authority.published().borrow().trust.x509.keys().iter().all(|root| root.id != stolen));
        assert!(!authority.hold("holder/slow".to_owned(), &early, None, 1, now));
        let again = issue();
        assert!(again.under != stolen && authority.hold("holder/slow".to_owned(), &again, None, 3, now));
        // One that was taken note of in time is waited for.
        let second = again.under.clone();
        authority.taint(Kind::X509, &second, "another").await.unwrap();
        authority.holds("holder/slow", u64::MAX);
        authority.advance(now).await.unwrap();
        assert!(authority.must_renew("holder/slow"), "it is told to, and the root stays until it has");
        assert!(authority.hold("holder/slow".to_owned(), &issue(), None, 9, now));
        authority.advance(now).await.unwrap();
        assert!(authority.published().borrow().trust.x509.keys().iter().all(|root| root.id != second));
        assert!(!authority.must_renew("holder/slow"));
    }
}
