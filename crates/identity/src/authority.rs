//! The certificate authority of a mesh: a root that signs issuing CAs, and an issuing CA that signs workloads.
//!
//! Both are made on first start and kept in the store, sealed. The root's key is read only for the moment in which it signs an
//! issuing CA. The authority signs whatever identity it is told to: who deserves which is decided by its callers.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use rcgen::PublicKeyData;
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use weft_model::{SpiffeId, TrustDomain};
use weft_store::{Store, StoreError, Swap};

use crate::ca::{self, Ca, CaError, KeyRequest, Names};
use crate::live::LiveIdentity;
use crate::schedule::{self, Plan};
use crate::svid::{Svid, SvidError, TrustBundle};

const ROOT: &str = "ca/root";
const ISSUING: &str = "ca/issuing";

/// How often the authority tries again what failed.
const AT_MOST_EVERY: Duration = Duration::from_secs(1);

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
}

/// How long CA certificates live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lives {
    /// The root. Default 10 years.
    pub root: Duration,
    /// The issuing CA; replaced at half of its life. Default 30 days.
    pub issuing: Duration,
}

impl Default for Lives {
    fn default() -> Self {
        let day = Duration::from_secs(24 * 3600);
        Self { root: 3650 * day, issuing: 30 * day }
    }
}

/// What was issued.
#[derive(Clone, Debug)]
pub struct Issued {
    /// Leaf first, then the issuing CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// Life that remains at issue.
    pub ttl: Duration,
    /// SHA-256 of the leaf's SubjectPublicKeyInfo.
    pub key_hash: [u8; 32],
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
    root: CertificateDer<'static>,
    pin: [u8; 32],
    issuing: ArcSwap<Ca>,
    bundle: watch::Sender<Arc<TrustBundle>>,
}

impl Authority {
    /// Opens the CA of `domain` in the store and makes what is missing or past half of its life.
    ///
    /// Several processes that open an empty store at once end up with the same root.
    pub async fn open(
        store: Store,
        domain: TrustDomain,
        lives: Lives,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        let root = match read(&store, ROOT).await? {
            Some(root) => root,
            None => create(&store, ROOT, Ca::root(&domain, now, lives.root)?).await?,
        };
        let check = TrustBundle::new(domain.clone(), vec![root.certificate().clone()]);
        let bundle = check.map_err(|error| AuthorityError::OtherTrustDomain(domain.clone(), error.to_string()))?;
        let issuing = match read(&store, ISSUING).await? {
            Some(issuing) => issuing,
            None => create(&store, ISSUING, root.issuing(&domain, now, lives.issuing)?).await?,
        };
        let authority = Self {
            domain,
            lives,
            root: root.certificate().clone(),
            pin: root.pin(),
            issuing: ArcSwap::from_pointee(issuing),
            bundle: watch::Sender::new(Arc::new(bundle)),
            store,
        };
        authority.rotate_if_due(now).await?;
        Ok(authority)
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The SPIFFE ID of the control plane itself.
    pub fn own_id(&self) -> SpiffeId {
        own_id(&self.domain)
    }

    /// What peers verify by: the root.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        self.bundle.borrow().clone()
    }

    /// The bundle now and after each change.
    pub fn bundles(&self) -> watch::Receiver<Arc<TrustBundle>> {
        self.bundle.subscribe()
    }

    /// SHA-256 of the root's SubjectPublicKeyInfo; join tokens carry it.
    pub fn pin(&self) -> [u8; 32] {
        self.pin
    }

    /// When the present issuing CA is to be replaced.
    pub fn next_rotation(&self) -> SystemTime {
        let issuing = self.issuing.load();
        schedule::half_life(issuing.not_before, issuing.not_after)
    }

    /// Half of its life is over, or it was made by a clock that has been set back since and is not valid yet.
    fn is_rotation_due(&self, now: SystemTime) -> bool {
        now >= self.next_rotation() || now < self.issuing.load().not_before
    }

    /// Signs an X.509-SVID of `id` for the key of a request. It ends after `ttl`, or with the issuing CA if that is earlier.
    pub fn issue(
        &self,
        request: &KeyProof,
        id: &SpiffeId,
        ttl: Duration,
        names: &Names,
        now: SystemTime,
    ) -> Result<Issued, AuthorityError> {
        let issuing = self.issuing.load();
        let not_after = (now + ttl).min(issuing.not_after);
        let leaf = issuing.leaf(&request.0, id, names, now, not_after)?;
        Ok(Issued {
            chain: vec![leaf, issuing.certificate().clone()],
            ttl: not_after.duration_since(now).unwrap_or_default(),
            key_hash: request.hash(),
        })
    }

    /// A certificate and key for the control plane's own listeners. Its chain includes the root, so that a workload that holds
    /// nothing but a join token can check it against the token's pin.
    pub fn own_svid(&self, names: &Names, ttl: Duration, now: SystemTime) -> Result<Svid, AuthorityError> {
        let request = KeyRequest::new()?;
        let mut issued = self.issue(&KeyProof::check(&request.csr)?, &self.own_id(), ttl, names, now)?;
        issued.chain.push(self.root.clone());
        Ok(Svid::from_der(issued.chain, &request.key)?)
    }

    /// Replaces the issuing CA if half of its life is over; whether it was replaced. One of several processes does it, the others
    /// take over the result.
    pub async fn rotate_if_due(&self, now: SystemTime) -> Result<bool, AuthorityError> {
        if !self.is_rotation_due(now) {
            return Ok(false);
        }
        let Some(lease) = self.store.lease(ISSUING, now, Duration::from_secs(60)).await? else {
            return self.reload().await; // another process is at it
        };
        let replaced = self.reload().await?;
        let due = self.is_rotation_due(now);
        if due {
            let root = read(&self.store, ROOT).await?.ok_or_else(|| CaError::Stored("the root is gone".into()))?;
            let issuing = root.issuing(&self.domain, now, self.lives.issuing)?;
            self.store.put_sealed(ISSUING, &issuing.to_bytes()).await?;
            tracing::info!(not_after = ca::rfc3339(issuing.not_after), "replaced the issuing CA");
            self.issuing.store(Arc::new(issuing));
        }
        lease.release().await?;
        Ok(replaced || due)
    }

    /// Gives the control plane its own identity, and keeps it and the issuing CA renewed until the task is aborted.
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
                tokio::time::sleep(nap.max(AT_MOST_EVERY)).await;
                let now = SystemTime::now();
                if let Err(error) = authority.rotate_if_due(now).await {
                    tracing::error!(%error, "the issuing CA was not replaced; trying again");
                }
                if plan.is_due(now, begun.elapsed()) {
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

    /// Takes over an issuing CA that another process has put into the store; whether there was one.
    async fn reload(&self) -> Result<bool, AuthorityError> {
        let stored =
            read(&self.store, ISSUING).await?.ok_or_else(|| CaError::Stored("the issuing CA is gone".into()))?;
        let newer = stored.certificate() != self.issuing.load().certificate();
        if newer {
            self.issuing.store(Arc::new(stored));
        }
        Ok(newer)
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

/// The SPIFFE ID that every control plane of `domain` has.
pub fn own_id(domain: &TrustDomain) -> SpiffeId {
    SpiffeId::of_control_plane(domain)
}

async fn read(store: &Store, key: &str) -> Result<Option<Ca>, AuthorityError> {
    Ok(store.get_sealed(key).await?.map(|bytes| Ca::from_bytes(&bytes)).transpose()?)
}

/// Puts a new CA into the store, or takes the one that another process was quicker to put there.
async fn create(store: &Store, key: &str, ca: Ca) -> Result<Ca, AuthorityError> {
    let sealed = store.seal(key, &ca.to_bytes());
    match store.compare_and_swap(key, None, Some(sealed)).await? {
        Swap::Done(_) => {
            tracing::info!(key, "made a new CA");
            Ok(ca)
        }
        Swap::Conflict(_) => read(store, key).await?.ok_or_else(|| CaError::Stored("it vanished".into()).into()),
    }
}
