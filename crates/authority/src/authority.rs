//! The certificate authority of a mesh: roots that sign issuing CAs, and an issuing CA of this server that signs workloads.
//!
//! Which roots there are, and which of them signs, is the trust domain's (see [`crate::trust`]) and stands in the store, where several
//! servers share it; each server has an issuing CA of its own. Keys are kept in the store, sealed; a root's key is read only for the
//! moment in which it signs. The authority signs whatever identity it is told to: who deserves which is decided by its callers.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use rcgen::PublicKeyData;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use weft_identity::ca::{self, Ca, CaError, KeyRequest, Names};
use weft_identity::schedule::{self, Plan};
use weft_identity::{LiveIdentity, Svid, SvidError, TrustBundle};
use weft_model::{SpiffeId, TrustDomain};
use weft_store::{Store, StoreError, Swap};

use crate::holders::{Holder, Holders};
use crate::trust::{Key, KeyId, Kind, Made, Patience, Phase, Step, Trust, UnknownKey};

/// What the trust domain vouches with.
const TRUST: &str = "ca/trust";
/// Where earlier versions kept the only root.
const FORMER_ROOT: &str = "ca/root";

/// How often the authority tries again what failed.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);
/// Attempts to change what several servers change at once; each fails only because another server's succeeded.
const ATTEMPTS: u32 = 100;

/// Why the authority could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The store failed or holds something forged.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A certificate could not be made.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A certificate that was made is not usable.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// The store belongs to another mesh.
    #[error(
        "the stored CA is not for trust domain {0}: {1}; give this mesh its own state folder, or put `trustDomain` back as it was"
    )]
    OtherTrustDomain(TrustDomain, String),
    /// No such key.
    #[error(transparent)]
    UnknownKey(#[from] UnknownKey),
    /// Others changed what the trust domain vouches with, again and again.
    #[error("what the trust domain vouches with is changed by other servers all the time; try again")]
    Contended,
}

/// How long keys live, and what follows from that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lives {
    /// A root; followed by another at half of its life. Default 10 years.
    pub root: Duration,
    /// An issuing CA; replaced at half of its life. Default 30 days.
    pub issuing: Duration,
    /// How long a root that signs no more stays in the bundle: as long as anything that it signed, and any join token with its pin, can
    /// live. Default 24 hours, which is the most for either.
    pub retired: Duration,
    /// How long a root vouches for its successor, for machines that were away meanwhile. Default 30 days.
    pub vouched: Duration,
}

impl Default for Lives {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { root: 3650 * day, issuing: 30 * day, retired: day, vouched: 30 * day }
    }
}

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

/// What the trust domain vouches with, and what follows from it.
#[derive(Debug)]
pub struct Published {
    /// As it stands in the store.
    pub trust: Trust,
    /// What everybody is to verify by.
    pub bundle: Arc<TrustBundle>,
    revision: Option<u64>,
}

impl Published {
    fn new(trust: Trust, revision: Option<u64>, domain: &TrustDomain) -> Result<Self, AuthorityError> {
        let roots = trust.x509.keys().iter().map(certificate).collect::<Result<Vec<_>, _>>()?;
        let bundle = TrustBundle::new(domain.clone(), roots)
            .map_err(|error| AuthorityError::OtherTrustDomain(domain.clone(), error.to_string()))?;
        Ok(Self { bundle: Arc::new(bundle.with_sequence(trust.sequence)), trust, revision })
    }

    /// Whether what was issued under this root is to be replaced at once.
    pub fn is_tainted(&self, under: &str) -> bool {
        let keys = self.trust.x509.keys();
        keys.iter().any(|key| key.id == under && key.tainted.is_some() && !matches!(key.phase, Phase::Active { .. }))
    }
}

/// An issuing CA, and the root that signed it.
struct Issuing {
    ca: Ca,
    under: KeyId,
}

/// See the module.
pub struct Authority {
    store: Store,
    domain: TrustDomain,
    lives: Lives,
    /// Where this server's issuing CA is kept.
    issuing_key: String,
    issuing: ArcSwap<Issuing>,
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
        Ok(Self {
            domain,
            lives,
            issuing_key,
            issuing: ArcSwap::from_pointee(issuing),
            published: watch::Sender::new(Arc::new(published)),
            holders,
            asked: Notify::new(),
            store,
        })
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

    /// When the present issuing CA is to be replaced.
    pub fn next_rotation(&self) -> SystemTime {
        let issuing = self.issuing.load();
        schedule::half_life(issuing.ca.not_before, issuing.ca.not_after)
    }

    /// Signs an X.509-SVID of `id` for the key of a request, issued to a machine if that is known. It ends after `ttl`, or with the issuing CA if that is earlier.
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
        let leaf = issuing.ca.leaf(&request.0, id, machine, names, now, not_after)?;
        let serial = weft_identity::certificate::serial_of(&leaf).map_err(SvidError::from)?;
        Ok(Issued {
            serial,
            chain: vec![leaf, issuing.ca.certificate().clone()],
            ttl: not_after.duration_since(now).unwrap_or_default(),
            under: issuing.under.clone(),
        })
    }

    /// Takes note of who got what was issued, together with the present bundle; rotations wait for them. What they call themselves, or
    /// the serial number of what they got, tells them from others of the same identity.
    pub(crate) fn hold(&self, holder: String, issued: &Issued, sequence: u64, now: SystemTime) {
        let ends = seconds(now + issued.ttl);
        self.holders.issued(holder, Holder { sequence, under: issued.under.clone(), ends }, seconds(now));
    }

    /// A holder says which bundle it has.
    pub(crate) fn holds(&self, holder: &str, sequence: u64) {
        self.holders.holds(holder, sequence);
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
        let before = self.published.borrow().clone();
        let present = read_trust(&self.store, &self.domain).await?;
        let present = advance(&self.store, &self.domain, self.lives, present, &self.holders, now).await?;
        let mut changed = present.trust != before.trust;
        if changed {
            self.published.send_replace(Arc::new(present));
        }
        let published = self.published.borrow().clone();
        if !is_good(&self.issuing.load(), &published, now) {
            let issuing =
                make_issuing(&self.store, &self.issuing_key, &self.domain, self.lives, &published, now).await?;
            self.issuing.store(Arc::new(issuing));
            changed = true;
        }
        Ok(changed)
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
        let task = tokio::spawn(async move {
            let mut plan = own_plan(&own);
            let mut begun = Instant::now();
            loop {
                let nap = schedule::nap(SystemTime::now(), plan.due.min(authority.next_rotation()));
                tokio::select! {
                    () = tokio::time::sleep(nap.max(AT_MOST_EVERY)) => {}
                    () = authority.holders.changed() => {}
                    () = authority.asked.notified() => {}
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

/// Takes every step that is due. Of several servers that take the same one, the store lets one through; the others look again.
async fn advance(
    store: &Store,
    domain: &TrustDomain,
    lives: Lives,
    mut present: Published,
    holders: &Holders,
    now: SystemTime,
) -> Result<Published, AuthorityError> {
    let patience = Patience { longest: lives.retired.as_secs(), fetchers: 0 };
    for _ in 0..ATTEMPTS {
        let at = seconds(now);
        let Some(step) = present.trust.x509.next(at, &holders.held(at), patience) else { return Ok(present) };
        let mut trust = present.trust.clone();
        let mut made_key = None;
        match &step {
            Step::Publish => {
                let made = make_root(store, domain, lives, &trust, now).await?;
                made_key = Some(root_key(&made.id));
                trust.publish(Kind::X509, made, at);
            }
            Step::Activate(id) => trust.x509.activate(id, at, patience)?,
            Step::Forget(id) => trust.forget(Kind::X509, id)?,
        }
        present = match put_trust(store, domain, &present, trust).await? {
            Some(published) => {
                tell(&step, &published);
                if let Step::Forget(id) = &step {
                    store.delete(&root_key(id)).await?;
                }
                published
            }
            None => {
                // Another server was quicker: the key that was made here is nobody's.
                if let Some(key) = made_key {
                    store.delete(&key).await?;
                }
                read_trust(store, domain).await?
            }
        };
    }
    Err(AuthorityError::Contended)
}

fn tell(step: &Step, published: &Published) {
    let sequence = published.trust.sequence;
    match step {
        Step::Publish => tracing::info!(sequence, "a new root is in the bundle; it signs when everybody holds it"),
        Step::Activate(root) => tracing::info!(root, "the root signs from now on"),
        Step::Forget(root) => tracing::info!(root, sequence, "nothing lives by the root any more: it left the bundle"),
    }
}

/// A new root with its key in the store, certified by the one that signs now, if that may be trusted.
async fn make_root(
    store: &Store,
    domain: &TrustDomain,
    lives: Lives,
    trust: &Trust,
    now: SystemTime,
) -> Result<Made, AuthorityError> {
    let root = match (trust.sequence, store.get_sealed(FORMER_ROOT).await?) {
        (0, Some(bytes)) => Ca::from_bytes(&bytes)?,
        _ => Ca::root(domain, now, lives.root)?,
    };
    let predecessor = match trust.x509.active().filter(|active| active.tainted.is_none()) {
        Some(active) => read_root(store, &active.id).await?,
        None => None,
    };
    let vouched = predecessor.map(|before| before.vouch_for(&root, domain, now, now + lives.vouched)).transpose()?;
    let id = key_id(&root.pin());
    store.put_sealed(&root_key(&id), &root.to_bytes()).await?;
    Ok(Made {
        id,
        public: BASE64.encode(root.certificate()),
        not_before: seconds(root.not_before),
        not_after: seconds(root.not_after),
        vouched: vouched.map(|certificate| BASE64.encode(certificate)),
    })
}

/// Whether an issuing CA may go on: the root that signs has signed it, and half of its life is not over. One that was made by a clock
/// that has been set back since is not valid yet.
fn is_good(issuing: &Issuing, published: &Published, now: SystemTime) -> bool {
    published.trust.x509.active().is_some_and(|root| root.id == issuing.under)
        && now < schedule::half_life(issuing.ca.not_before, issuing.ca.not_after)
        && now >= issuing.ca.not_before
}

async fn make_issuing(
    store: &Store,
    key: &str,
    domain: &TrustDomain,
    lives: Lives,
    published: &Published,
    now: SystemTime,
) -> Result<Issuing, AuthorityError> {
    let gone = || CaError::Stored("the key of the root that signs is gone".into());
    let active = published.trust.x509.active().ok_or_else(gone)?;
    let root = read_root(store, &active.id).await?.ok_or_else(gone)?;
    let issuing = Issuing { ca: root.issuing(domain, now, lives.issuing)?, under: active.id.clone() };
    let mut bytes = issuing.ca.to_bytes();
    bytes.splice(0..0, issuing.under.bytes());
    store.put_sealed(key, &bytes).await?;
    tracing::info!(not_after = ca::rfc3339(issuing.ca.not_after), root = issuing.under, "made a new issuing CA");
    Ok(issuing)
}

async fn read_issuing(store: &Store, key: &str) -> Result<Option<Issuing>, AuthorityError> {
    let Some(bytes) = store.get_sealed(key).await? else { return Ok(None) };
    let short = || CaError::Stored("it is cut short".into());
    let (under, ca) = bytes.split_at_checked(KEY_ID_LENGTH).ok_or_else(short)?;
    let under = String::from_utf8(under.to_vec()).map_err(|_| CaError::Stored("it names no root".into()))?;
    Ok(Some(Issuing { ca: Ca::from_bytes(ca)?, under }))
}

async fn read_root(store: &Store, id: &str) -> Result<Option<Ca>, AuthorityError> {
    Ok(store.get_sealed(&root_key(id)).await?.map(|bytes| Ca::from_bytes(&bytes)).transpose()?)
}

fn root_key(id: &str) -> String {
    format!("ca/x509/{id}")
}

async fn read_trust(store: &Store, domain: &TrustDomain) -> Result<Published, AuthorityError> {
    let Some(entry) = store.get(TRUST).await? else { return Published::new(Trust::default(), None, domain) };
    let plain = store.unseal(TRUST, &entry.value)?;
    let trust = serde_json::from_slice(&plain).map_err(|error| CaError::Stored(format!("{TRUST}: {error}")))?;
    Published::new(trust, Some(entry.revision), domain)
}

/// Puts what the trust domain vouches with into the store, sealed, since whoever could write it could have the mesh trust anybody.
/// `None`: somebody else has changed it since `present` was read.
async fn put_trust(
    store: &Store,
    domain: &TrustDomain,
    present: &Published,
    trust: Trust,
) -> Result<Option<Published>, AuthorityError> {
    let plain = serde_json::to_vec(&trust).expect("strings and numbers are JSON");
    match store.compare_and_swap(TRUST, present.revision, Some(store.seal(TRUST, &plain))).await? {
        Swap::Done(revision) => Ok(Some(Published::new(trust, Some(revision), domain)?)),
        Swap::Conflict(_) => Ok(None),
    }
}

const KEY_ID_LENGTH: usize = 16;

/// See [`KeyId`].
fn key_id(hash: &[u8; 32]) -> KeyId {
    hash[..KEY_ID_LENGTH / 2].iter().map(|byte| format!("{byte:02x}")).collect()
}

fn certificate(root: &Key) -> Result<CertificateDer<'static>, CaError> {
    from_base64(&root.public)
}

fn from_base64(text: &str) -> Result<CertificateDer<'static>, CaError> {
    let der = BASE64.decode(text).map_err(|error| CaError::Stored(format!("a certificate: {error}")))?;
    Ok(CertificateDer::from(der))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// When the control plane's own certificate is to be renewed.
fn own_plan(own: &LiveIdentity) -> Plan {
    let state = own.load();
    let (not_before, due) = state.svid().map_or((SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH), |svid| {
        (svid.not_before(), schedule::half_life(svid.not_before() + ca::BACKDATE, svid.not_after()))
    });
    Plan { begun: SystemTime::now(), due, not_before }
}
