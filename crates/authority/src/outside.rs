//! A CA outside that signs this server's issuing CA: when it is asked, and what it gave until that may be put in force.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use rustls::pki_types::CertificateDer;
use tokio::sync::Notify;
use weft_identity::ca::{self, CaError, rfc3339};
use weft_identity::certificate::{parse, validity};
use weft_identity::issuing::{IssuingRequest, root_of};
use weft_identity::schedule;
use weft_upstream::{Signed, Upstream, UpstreamError};

use crate::error::AuthorityError;
use crate::given::Given;
use crate::issuing::Issuing;
use crate::keys::{Published, key_id, seconds};
use crate::own_roots::Grounds;
use crate::trust::{KeyId, Made, Phase};

/// Where a request is kept that a person has to carry, with its key.
const REQUEST: &str = "ca/request/";
/// How long until a CA is asked again that signs under a root which others have left, or which is in wrong hands.
const LEFT: Duration = Duration::from_secs(600);
const TAINTED: Duration = Duration::from_secs(60);

/// Why a CA outside has not signed what is due, and since when.
pub type UpstreamProblem = (UpstreamError, SystemTime);

/// See the module.
pub(crate) struct Outside {
    upstream: Arc<Upstream>,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    /// What is to be trusted, by its last answer or by its file.
    roots: Vec<Made>,
    /// Signed, and not in force yet.
    waiting: Option<Issuing>,
    /// Its root, if that is another one than that of the present issuing CA.
    wanted: Option<KeyId>,
    /// It is to be asked whatever the age of the present issuing CA.
    asked: bool,
    failures: u32,
    /// When it may be asked again.
    again: Option<Instant>,
    problem: Option<UpstreamProblem>,
}

impl Outside {
    pub(crate) fn new(upstream: Arc<Upstream>) -> Self {
        Self { upstream, state: Mutex::default(), wake: Notify::new() }
    }

    pub(crate) fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    pub(crate) fn problem(&self) -> Option<UpstreamProblem> {
        self.state().problem.clone()
    }

    /// What it has brought.
    pub(crate) fn given(&self) -> Given {
        let state = self.state();
        Given { roots: state.roots.clone(), wanted: state.wanted.clone() }
    }

    /// Has it sign anew as soon as possible.
    pub(crate) fn ask(&self) {
        let mut state = self.state();
        state.asked = true;
        state.again = None;
        drop(state);
        self.wake.notify_one();
    }

    /// Wakes up when the CA has changed, or when it is time to ask it again.
    pub(crate) async fn changed(&self) {
        let again = self.state().again;
        let again = async {
            match again {
                Some(again) => tokio::time::sleep_until(again.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.upstream.changed() => {
                tracing::info!(upstream = self.upstream.name(), "the upstream CA has changed: having an issuing CA signed anew");
                let mut state = self.state();
                state.asked = true;
                state.again = None;
            }
            () = again => {}
            () = self.wake.notified() => {}
        }
    }

    /// What has been signed and may be put in force: its root signs, or is the one that the present issuing CA has.
    pub(crate) fn take(&self, published: &Published, present: Option<&Issuing>) -> Option<Issuing> {
        let may = |issuing: &mut Issuing| {
            let root = published.trust.x509.keys().iter().find(|root| root.id == issuing.under);
            root.is_some_and(|root| match root.phase {
                Phase::Active { .. } => true,
                Phase::Published { .. } => false,
                Phase::Retired { .. } => {
                    root.tainted.is_none() && present.is_none_or(|present| present.under == issuing.under)
                }
            })
        };
        let mut state = self.state();
        let taken = state.waiting.take_if(may);
        if taken.is_some() {
            state.wanted = None;
        }
        taken
    }

    /// Asks for an issuing CA if one is wanted: there is none, half of its life is over, its root is not the one that signs, or somebody has
    /// asked. What is wrong with the CA is kept, and no error: the present issuing CA goes on.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) async fn ask_if_due(
        &self,
        on: &Grounds<'_>,
        published: &Published,
        present: Option<&Issuing>,
        now: SystemTime,
    ) -> Result<(), AuthorityError> {
        if self.state().roots.is_empty() {
            self.read_roots();
        }
        {
            let state = self.state();
            let early = state.again.is_some_and(|again| Instant::now() < again);
            let goes_on =
                present.is_some_and(|it| it.is_of_active(published) && !it.is_old(now) && !is_tainted(it, published));
            if early || state.waiting.is_some() && !state.asked || goes_on && !state.asked {
                return Ok(());
            }
        }
        let request = self.request(on).await?;
        let signed = self.upstream.sign(&request, on.domain, on.lives.issuing, now).await;
        match signed.and_then(|signed| self.judge(request, signed, on, now)) {
            Ok((issuing, roots)) => {
                if self.upstream.is_by_hand() {
                    on.store.delete(&self.request_key(on)).await?;
                }
                self.came(issuing, roots, published, present, now);
            }
            Err(error) => self.failed(error, on, now),
        }
        Ok(())
    }

    fn came(
        &self,
        issuing: Issuing,
        roots: Vec<Made>,
        published: &Published,
        present: Option<&Issuing>,
        now: SystemTime,
    ) {
        let (ends, root) = (rfc3339(issuing.ca.not_after), &issuing.under);
        tracing::info!(upstream = self.upstream.name(), ends, root, "the upstream CA has signed an issuing CA");
        let of_the_same = present.is_some_and(|present| present.under == issuing.under);
        // Others have gone on to another root, or nobody should live by this one: a new issuing CA of it helps only against age.
        let no_help = match published.trust.x509.keys().iter().find(|root| root.id == issuing.under) {
            Some(root) if root.tainted.is_some() => Some(TAINTED),
            Some(root) if of_the_same && matches!(root.phase, Phase::Retired { .. }) => Some(LEFT),
            _ => None,
        };
        let mut state = self.state();
        state.again = no_help.map(|pause| Instant::now() + pause);
        state.problem = no_help.map(|_| {
            let why =
                format!("it signs under root {root}, which is to be left: give this server the CA under the new root");
            (UpstreamError::Unfit { what: self.upstream.name(), why }, now)
        });
        let old = present.is_none_or(|present| present.is_old(now));
        state.waiting = (no_help.is_none() || old).then_some(issuing);
        state.wanted = state.waiting.as_ref().map(|issuing| issuing.under.clone()).filter(|_| !of_the_same);
        state.roots = roots;
        state.asked = false;
        state.failures = 0;
    }

    fn failed(&self, error: UpstreamError, on: &Grounds<'_>, now: SystemTime) {
        self.read_roots();
        let mut state = self.state();
        let since = match &state.problem {
            Some((before, since)) if *before == error => *since,
            _ => {
                if let UpstreamError::Waiting { .. } = error {
                    tracing::warn!("{error}");
                } else {
                    tracing::error!(%error, "the upstream CA has not signed an issuing CA; trying again");
                }
                now
            }
        };
        state.failures += 1;
        state.again = Some(Instant::now() + schedule::backoff(state.failures, on.lives.issuing, rand::random()));
        state.problem = Some((error, since));
    }

    /// What is to be trusted is known without its signing, where there is a file.
    fn read_roots(&self) {
        let roots = self.upstream.roots().unwrap_or_default();
        let roots: Vec<Made> = roots.iter().filter_map(|root| self.made(root).ok()).collect();
        if !roots.is_empty() {
            self.state().roots = roots;
        }
    }

    /// Judges as peers will, before anybody is shown what was issued.
    fn judge(
        &self,
        request: IssuingRequest,
        signed: Signed,
        on: &Grounds<'_>,
        now: SystemTime,
    ) -> Result<(Issuing, Vec<Made>), UpstreamError> {
        let unfit = |why: String| UpstreamError::Unfit { what: self.upstream.name(), why };
        let Signed { issuing, above, roots } = signed;
        let mut ca = request.complete(issuing).map_err(|error| unfit(error.to_string()))?;
        let root = root_of(&ca, &above, &roots, on.domain, now).map_err(unfit)?;
        let key = ca::pin_of(root).map_err(|error| unfit(error.to_string()))?;
        for certificate in above.iter().chain([root]) {
            ca.not_after = ca.not_after.min(validity(&parse(certificate).map_err(|error| unfit(error.to_string()))?).1);
        }
        let issuing = Issuing::new(ca, above, key_id(&key));
        let roots = roots
            .iter()
            .map(|root| self.made(root).map_err(|error| unfit(error.to_string())))
            .collect::<Result<_, _>>()?;
        Ok((issuing, roots))
    }

    fn made(&self, root: &CertificateDer<'_>) -> Result<Made, CaError> {
        let parsed = parse(root).map_err(|error| CaError::Stored(error.to_string()))?;
        let (not_before, not_after) = validity(&parsed);
        Ok(Made {
            id: key_id(&ca::pin_of(root)?),
            public: BASE64.encode(root),
            not_before: seconds(not_before),
            not_after: seconds(not_after),
            vouched: None,
            source: Some(self.upstream.name()),
        })
    }

    /// A new request, or, where a person carries it, the one that was made before.
    async fn request(&self, on: &Grounds<'_>) -> Result<IssuingRequest, AuthorityError> {
        if !self.upstream.is_by_hand() {
            return Ok(IssuingRequest::new(on.domain)?);
        }
        let key = self.request_key(on);
        if let Some(bytes) = on.store.get_sealed(&key).await? {
            return Ok(IssuingRequest::from_bytes(&bytes)?);
        }
        let request = IssuingRequest::new(on.domain)?;
        on.store.put_sealed(&key, &request.to_bytes()).await?;
        Ok(request)
    }

    fn request_key(&self, on: &Grounds<'_>) -> String {
        format!("{REQUEST}{}", on.server)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_tainted(issuing: &Issuing, published: &Published) -> bool {
    published.trust.x509.keys().iter().any(|root| root.id == issuing.under && root.tainted.is_some())
}
