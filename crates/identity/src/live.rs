//! What a process is right now: its certificate, its key, and the bundle by which it judges others.
//!
//! One atomic pointer, read at each handshake and replaced by a rotation. Connections that exist are never touched.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;
use weft_model::{SpiffeId, TrustDomain};

use crate::bans::{Bans, CutOff, Leaf, OpenPeers};
use crate::fault::{OwnFault, PeerError};
use crate::federated::Federated;
use crate::peer::{self, Role, VerifiedIssuer, at};
use crate::svid::{Svid, TrustBundle};

/// How often a clock that was set is noticed.
const CLOCK_LOOK: Duration = Duration::from_secs(1);

/// One consistent view of an identity. Handshakes read one of these and no other.
#[derive(Debug, Default)]
pub struct IdentityState {
    svid: Option<Arc<Svid>>,
    bundle: Option<Arc<TrustBundle>>,
    federated: Arc<Federated>,
    issuer: Option<VerifiedIssuer>,
    generation: u64,
}

impl IdentityState {
    /// The certificate and key, if there is one yet.
    pub fn svid(&self) -> Option<&Arc<Svid>> {
        self.svid.as_ref()
    }

    /// The bundle, if there is one yet.
    pub fn bundle(&self) -> Option<&Arc<TrustBundle>> {
        self.bundle.as_ref()
    }

    /// The bundles of other trust domains, by which those are judged who belong to them.
    pub fn federated(&self) -> &Arc<Federated> {
        &self.federated
    }

    /// The bundle by which somebody of this trust domain is judged; never that of another one.
    pub fn bundle_of(&self, domain: &TrustDomain) -> Option<&Arc<TrustBundle>> {
        self.bundle.as_ref().filter(|own| own.trust_domain() == domain).or_else(|| self.federated.get(domain))
    }

    /// Grows by one with each change; 0 is the empty identity.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The certificate and key while they have not run out at `now`: an expired identity fails closed.
    pub(crate) fn unexpired(&self, now: UnixTime) -> Result<&Arc<Svid>, OwnFault> {
        let svid = self.svid.as_ref().ok_or(OwnFault::Missing)?;
        match at(now).duration_since(svid.not_after()) {
            Ok(ago) if ago > Duration::ZERO => Err(OwnFault::Expired { id: svid.id().clone(), ago: ago.as_secs() }),
            _ => Ok(svid),
        }
    }

    /// Why no mesh connection can come about at `now`, whoever the peer is; `None` if nothing of this process's own stands against it.
    pub fn fault(&self, now: UnixTime) -> Option<OwnFault> {
        let svid = match self.unexpired(now) {
            Ok(svid) => svid,
            Err(fault) => return Some(fault),
        };
        if let Ok(early) = svid.not_before().duration_since(at(now))
            && early > Duration::ZERO
        {
            return Some(OwnFault::NotYetValid { id: svid.id().clone(), in_seconds: early.as_secs() });
        }
        match &self.bundle {
            Some(bundle) => bundle.anchors(at(now)).err(),
            None => Some(OwnFault::Missing),
        }
    }

    /// Who a peer is that shows this chain.
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
        role: Role,
    ) -> Result<SpiffeId, PeerError> {
        let bundle = self.bundle.as_ref().ok_or(OwnFault::Missing)?;
        peer::verify_among(bundle, &self.federated, self.issuer.as_ref(), leaf, rest, now, role)
    }

    /// For the fuzz target `certificate`: who a client is that shows this chain, leaf first.
    #[doc(hidden)]
    pub fn verify_client(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<SpiffeId, PeerError> {
        let [leaf, rest @ ..] = chain else { return Err(PeerError::NoCertificate) };
        self.verify(leaf, rest, now, Role::Client)
    }
}

/// The identity of this process, shared by everything that makes or takes TLS connections.
pub struct LiveIdentity {
    state: ArcSwap<IdentityState>,
    generation: watch::Sender<u64>,
    /// The generations that others have who work by copies.
    copies: Mutex<Vec<watch::Receiver<u64>>>,
    /// Apart from the state: a ban makes no connection anew but cuts some.
    bans: watch::Sender<Arc<Bans>>,
    peers: OpenPeers,
}

impl LiveIdentity {
    /// Without certificate and bundle: every handshake fails and says so.
    pub fn empty() -> Arc<Self> {
        Arc::new(Self {
            state: ArcSwap::default(),
            generation: watch::Sender::new(0),
            copies: Mutex::default(),
            bans: watch::Sender::default(),
            peers: OpenPeers::default(),
        })
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

    /// Replaces the certificate, and the bundle unless the present one is a newer one of the same trust domain.
    pub(crate) fn renew(&self, svid: Svid, bundle: TrustBundle) {
        let (svid, bundle) = (Arc::new(svid), Arc::new(bundle));
        self.update(|old| {
            let newer = |old: &&Arc<TrustBundle>| {
                old.trust_domain() == bundle.trust_domain() && old.sequence() > bundle.sequence()
            };
            (Some(svid.clone()), Some(old.bundle.as_ref().filter(newer).unwrap_or(&bundle).clone()))
        });
    }

    /// Takes over what somebody else keeps for this process: its certificate and all bundles. Bundles that the control plane itself has told
    /// of have a number, and count for more.
    pub fn provide(&self, svid: Svid, bundle: TrustBundle, federated: Federated) {
        let (svid, bundle, federated) = (Arc::new(svid), Arc::new(bundle), Arc::new(federated));
        self.change(|old| {
            let told = |old: &&Arc<TrustBundle>| {
                old.trust_domain() == bundle.trust_domain() && old.sequence() > bundle.sequence()
            };
            let (bundle, federated) = match old.bundle.as_ref().filter(told) {
                Some(told) => (told, &old.federated),
                None => (&bundle, &federated),
            };
            (Some(svid.clone()), Some(bundle.clone()), federated.clone())
        });
        self.cut_strangers();
    }

    /// Nobody keeps a certificate for this process any more: from now on every handshake fails.
    pub fn take_away(&self) {
        self.update(|old| (None, old.bundle.clone()));
    }

    /// Replaces the bundle and keeps the certificate.
    pub fn set_bundle(&self, bundle: TrustBundle) {
        let bundle = Arc::new(bundle);
        self.update(|old| (old.svid.clone(), Some(bundle.clone())));
    }

    /// From now on peers of other trust domains are judged by these bundles, and those of a trust domain that is not among them are not
    /// taken; whoever is here already of such a one is cut off.
    pub fn set_federated(&self, federated: Federated) {
        let federated = Arc::new(federated);
        self.change(|old| (old.svid.clone(), old.bundle.clone(), federated.clone()));
        self.cut_strangers();
    }

    fn cut_strangers(&self) {
        let state = self.load_full();
        let cut =
            self.peers.cut_if(|leaf| state.bundle.is_some() && state.bundle_of(&leaf.id.trust_domain()).is_none());
        if cut > 0 {
            tracing::warn!(
                connections = cut,
                "connections of peers of trust domains that are federated no more are cut off"
            );
        }
    }

    /// Sees the generation after each change; changes that follow closely may be seen as one.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Whoever works by a copy of this identity (an Envoy, which is sent secrets) says here which generation it has.
    pub fn copied(&self, generations: watch::Receiver<u64>) {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner).push(generations);
    }

    /// Waits until the present state, or a later one, is what all handshakes go by: those of this process, which is at once, and those
    /// of everybody who works by a copy.
    pub async fn in_force(&self) {
        let generation = self.load().generation();
        let copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for mut copy in copies {
            let _ = copy.wait_for(|has| *has >= generation).await; // who is gone works by nothing
        }
    }

    /// Waits until there is a certificate.
    pub async fn ready(&self) {
        let mut changes = self.subscribe();
        while self.load().svid().is_none() {
            // The sender lives in `self`, so the wait ends only by a change.
            let _ = changes.changed().await;
        }
    }

    /// See [`IdentityState::fault`], at this moment; and whether this identity is banned.
    pub fn fault(&self) -> Option<OwnFault> {
        self.fault_at(UnixTime::now())
    }

    pub(crate) fn fault_at(&self, now: UnixTime) -> Option<OwnFault> {
        let state = self.load();
        state.fault(now).or_else(|| self.own_ban(&state))
    }

    fn own_ban(&self, state: &IdentityState) -> Option<OwnFault> {
        let bans = self.bans.borrow();
        if bans.is_empty() {
            return None;
        }
        let leaf = Leaf::of(state.svid()?.chain().first()?).ok()?;
        let reason = bans.of(&leaf)?.reason.clone();
        Some(OwnFault::Banned { id: leaf.id, reason })
    }

    /// Who is banned, now and after each change.
    pub fn bans(&self) -> watch::Receiver<Arc<Bans>> {
        self.bans.subscribe()
    }

    /// From now on nobody who is banned is taken, and whoever is here already is cut off.
    pub fn set_bans(&self, bans: Bans) {
        let bans = Arc::new(bans);
        self.bans.send_replace(bans.clone());
        let cut = self.peers.cut(&bans);
        if cut > 0 {
            tracing::warn!(connections = cut, "connections of peers that are banned are cut off");
        }
    }

    /// A connection to a peer is open: what is returned ends when the peer is banned. To be dropped with the connection.
    ///
    /// # Errors
    /// It is banned already, since the handshake, or has shown no certificate of a leaf.
    pub fn watch(&self, leaf: &CertificateDer<'_>) -> Result<CutOff, PeerError> {
        let leaf = Leaf::of(leaf)?;
        let cut_off = self.peers.enter(leaf.clone());
        // After it was entered: whoever bans now either finds it or is seen here.
        let (state, domain) = (self.load(), leaf.id.trust_domain());
        if let (Some(own), None) = (state.bundle(), state.bundle_of(&domain)) {
            return Err(PeerError::ForeignTrustDomain(leaf.id, own.trust_domain().clone()));
        }
        match self.bans.borrow().of(&leaf) {
            Some(ban) => Err(PeerError::Banned { id: leaf.id, reason: ban.reason.clone() }),
            None => Ok(cut_off),
        }
    }

    /// Who a peer is that shows this chain, if it is not banned.
    pub(crate) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
        role: Role,
    ) -> Result<SpiffeId, PeerError> {
        let id = self.load().verify(leaf, rest, now, role)?;
        self.bans.borrow().check(leaf)?;
        Ok(id)
    }

    /// Waits until there is a certificate that has not expired.
    pub async fn unexpired(&self) {
        let mut changes = self.subscribe();
        while self.load().unexpired(UnixTime::now()).is_err() {
            // The sender lives in `self`; and a clock that is put right says nothing.
            let _ = tokio::time::timeout(CLOCK_LOOK, changes.changed()).await;
        }
    }

    fn update(&self, next: impl Fn(&IdentityState) -> (Option<Arc<Svid>>, Option<Arc<TrustBundle>>)) {
        self.change(|old| {
            let (svid, bundle) = next(old);
            (svid, bundle, old.federated.clone())
        });
    }

    fn change(&self, next: impl Fn(&IdentityState) -> (Option<Arc<Svid>>, Option<Arc<TrustBundle>>, Arc<Federated>)) {
        self.generation.send_modify(|generation| {
            // Writers are serialised by the watch's lock; readers never wait for it.
            let (svid, bundle, federated) = next(&self.state.load());
            *generation += 1;
            let issuer = match (&svid, &bundle) {
                (Some(svid), Some(bundle)) => peer::verified_issuer(svid, bundle, UnixTime::now()),
                _ => None,
            };
            self.state.store(Arc::new(IdentityState { svid, bundle, federated, issuer, generation: *generation }));
        });
    }
}

impl fmt::Debug for LiveIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LiveIdentity").field(&**self.load()).finish()
    }
}
