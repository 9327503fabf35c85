//! The certificate authority and the join tokens as the API sees them: not there before the first commit says which trust domain this is.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use weft_authority::trust::{Key, Kind, Phase};
use weft_authority::{
    Authority, AuthorityError, BanError, BanList, Certificate, Event, JoinTokens, Machines, Record, Records,
    UpstreamProblem,
};
use weft_federation::{Keeper, State};
use weft_identity::bans::Leaf;
use weft_identity::{Ban, Banned, document};
use weft_model::{SpiffeId, Subject, TrustDomain};
use weft_upstream::{Offline, Upstream, UpstreamError};

use crate::status::{
    BanStatus, BehindStatus, CertificateStatus, FederationStatus, JoinTokenAnswer, RootState, RootStatus, TrustStatus,
    UpstreamStatus, unix_seconds,
};

/// What should have happened so long ago has failed, and more than once.
const OVERDUE: Duration = Duration::from_secs(3600);
/// A root from outside is warned of when it ends within the life of an issuing CA.
const FROM_OUTSIDE: Duration = Duration::from_secs(30 * 24 * 3600);

/// See the module.
#[derive(Default)]
pub(crate) struct Identities {
    open: OnceLock<Open>,
    /// The CA outside, which may have to sign before anything opens.
    upstream: Option<Arc<Upstream>>,
}

/// What there is once a commit has said which trust domain this is.
pub(crate) struct Open {
    pub(crate) tokens: JoinTokens,
    pub(crate) machines: Machines,
    pub(crate) bans: BanList,
    pub(crate) authority: Arc<Authority>,
    pub(crate) records: Records,
    pub(crate) federation: Arc<Keeper>,
}

/// Why somebody was not banned, or still is.
pub(crate) enum BanProblem {
    /// There is no authority yet.
    Starting,
    /// What was asked cannot be.
    Refused(String),
    /// There is no such ban.
    Unknown(String),
    /// Something else, in words.
    Failed(String),
}

/// Why no rotation was begun.
pub(crate) enum RotateError {
    /// There is no authority yet.
    Starting,
    /// There is no such root.
    Unknown(String),
    /// Something else, in words.
    Failed(String),
}

impl Identities {
    /// Under this CA outside, if there is one.
    pub(crate) fn under(upstream: Option<Arc<Upstream>>) -> Self {
        Self { open: OnceLock::new(), upstream }
    }

    /// The CA outside.
    pub(crate) fn upstream(&self) -> Option<&Arc<Upstream>> {
        self.upstream.as_ref()
    }

    /// The root that is kept apart, if that is who signs.
    pub(crate) fn offline(&self) -> Option<&Offline> {
        match self.upstream.as_deref() {
            Some(Upstream::Offline(offline)) => Some(offline),
            _ => None,
        }
    }

    /// From now on they are there.
    pub(crate) fn open(&self, open: Open) {
        let _ = self.open.set(open); // once: see `ControlPlane::serve`
    }

    fn authority(&self) -> Option<&Arc<Authority>> {
        self.open.get().map(|open| &open.authority)
    }

    /// A token that may become `subject` once within `ttl`, or why not.
    pub(crate) async fn join_token(&self, subject: &Subject, ttl: Duration) -> Result<JoinTokenAnswer, String> {
        let Open { tokens, authority, records, .. } = self.open.get().ok_or("the control plane is still starting")?;
        let now = SystemTime::now();
        let domain = authority.is_under_others().then(|| authority.trust_domain());
        let token = tokens
            .create_naming(subject, authority.pin(), domain, ttl, now)
            .await
            .map_err(|error| error.to_string())?;
        tracing::info!(%subject, ?ttl, ?token, "join token made");
        let id = SpiffeId::of(authority.trust_domain(), subject);
        let made = Record::of(Event::TokenMade, id.to_string()).because(format!("join token {}", token.id()));
        records.write(Record { expires: Some(unix_seconds(now + ttl)), ..made });
        Ok(JoinTokenAnswer { token: token.text(), service: subject.to_string(), expires_at: unix_seconds(now + ttl) })
    }

    /// When the first root certificate expires, seconds since the Unix epoch; 0 before there is one.
    pub(crate) fn root_expiry(&self) -> u64 {
        self.authority().and_then(|authority| authority.bundle().first_end()).map_or(0, unix_seconds)
    }

    /// What the mesh vouches with.
    pub(crate) fn trust(&self) -> Option<TrustStatus> {
        let waits = || {
            let upstream = self.upstream.as_ref()?;
            let problem = self.offline()?.waiting().map(|request| UpstreamError::Waiting { request })?;
            let upstream = upstream_status(upstream, Some((problem, SystemTime::now())));
            Some(TrustStatus { upstream: Some(upstream), ..TrustStatus::default() })
        };
        self.open.get().map(|open| status(&open.authority, &open.bans)).or_else(waits)
    }

    /// The bundle of this trust domain, as others get it.
    pub(crate) fn bundle(&self) -> Option<String> {
        self.authority().map(|authority| document::write(&authority.bundle(), None))
    }

    /// The other trust domains, and how it is going with their bundles.
    pub(crate) fn federation(&self) -> Option<Vec<FederationStatus>> {
        let Open { federation, .. } = self.open.get()?;
        let bundles = federation.published().borrow().clone();
        let status = |(domain, state): (TrustDomain, State)| {
            let bundle = bundles.get(&domain);
            FederationStatus {
                trust_domain: domain.to_string(),
                sequence: bundle.map(|bundle| bundle.sequence()),
                roots: bundle.map_or(0, |bundle| bundle.roots().len()),
                jwt_keys: bundle.map_or(0, |bundle| bundle.jwt().keys().len()),
                fetched_at: state.fetched_at.map(unix_seconds),
                next_at: state.next_at.map(unix_seconds),
                fetches: state.fetches,
                failures: state.failures,
                failing_since: state.failing_since.map(unix_seconds),
                error: state.error,
            }
        };
        Some(federation.states().into_iter().map(status).collect())
    }

    /// Every certificate that lives.
    pub(crate) fn certificates(&self) -> Option<Vec<CertificateStatus>> {
        let Open { authority, bans, .. } = self.open.get()?;
        let (now, bans) = (SystemTime::now(), bans.published().borrow().clone());
        let status = |certificate: Certificate| {
            let leaf = Leaf {
                id: certificate.identity.parse().ok()?,
                serial: certificate.serial.clone(),
                machine: certificate.machine.clone(),
            };
            Some(CertificateStatus {
                late: certificate.is_late(unix_seconds(now)),
                banned: bans.of(&leaf).map(|ban| ban.reason.clone()),
                identity: certificate.identity,
                node: certificate.node,
                machine: certificate.machine,
                by: None,
                serial: certificate.serial,
                root: certificate.root,
                bundle: certificate.bundle,
                issued_at: certificate.since,
                expires_at: certificate.ends,
            })
        };
        Some(authority.certificates(now).into_iter().filter_map(status).collect())
    }

    /// The same, with what the machine of each was enrolled by.
    pub(crate) async fn enrolled(&self) -> Option<Vec<CertificateStatus>> {
        let mut all = self.certificates()?;
        let ways = self.open.get()?.machines.ways().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "it is not known by what machines were enrolled");
            BTreeMap::new()
        });
        for one in &mut all {
            one.by = one.machine.as_ref().and_then(|machine| ways.get(machine).cloned());
        }
        Some(all)
    }

    /// The youngest records, of somebody or of all: of a service or agent by its name, or as [`Record::is_about`] has it.
    pub(crate) fn records(&self, who: Option<&str>, most: usize) -> Option<Vec<Record>> {
        let Open { authority, records, .. } = self.open.get()?;
        let who = who.map(|who| match who.parse::<Subject>() {
            Ok(subject) => SpiffeId::of(authority.trust_domain(), &subject).to_string(),
            Err(_) => who.to_owned(),
        });
        Some(records.recent(most, |record| who.as_ref().is_none_or(|who| record.is_about(who))))
    }

    /// How often each event has happened, and how many records were lost.
    pub(crate) fn recorded(&self) -> Option<(Vec<(Event, u64)>, u64)> {
        self.open.get().map(|open| (open.records.counts(), open.records.lost()))
    }

    /// What runs out, or is about to, without anybody having done anything about it.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let Some(Open { authority, .. }) = self.open.get() else {
            let waiting = self.offline().and_then(Offline::waiting).map(|request| UpstreamError::Waiting { request });
            return waiting.map(|waiting| waiting.to_string()).into_iter().collect();
        };
        let now = SystemTime::now();
        let mut warnings = Vec::new();
        if let Some((_, Some((problem, _)))) = authority.upstream() {
            let left = authority.issuing_ca().1.duration_since(now).unwrap_or_default().as_secs() / 3600;
            warnings.push(format!("the issuing CA, which ends in {left} h, has no successor: {problem}"));
        }
        if let Err(error) = authority.may_issue() {
            warnings.push(format!("nothing is issued: {error}"));
        }
        let overdue = now.duration_since(authority.next_rotation()).unwrap_or_default();
        if overdue >= OVERDUE {
            let hours = overdue.as_secs() / 3600;
            warnings.push(format!("the issuing CA should have been replaced {hours} h ago: see the server's log"));
        }
        let published = authority.published().borrow().clone();
        for (kind, keys) in [("root", published.trust.x509.keys()), ("JWT key", published.trust.jwt.keys())] {
            let signs = keys.iter().filter(|key| matches!(key.phase, Phase::Active { .. }));
            for key in signs.filter(|key| ends_soon(key, unix_seconds(now))) {
                let id = &key.id;
                warnings.push(match &key.source {
                    None => format!(
                        "{kind} {id} still signs in the last quarter of its life: `weft identity tree` shows who it waits for"
                    ),
                    Some(source) => format!("{kind} {id} of {source} ends within 30 days: replace it there"),
                });
            }
        }
        for one in self.federation().unwrap_or_default() {
            if let Some(why) = one.error {
                let what = match one.sequence {
                    Some(_) => "goes on with the bundle of before",
                    None => "has no bundle, so nobody of it is trusted",
                };
                warnings.push(format!("trust domain {} {what}: {why}", one.trust_domain));
            }
        }
        warnings
    }

    /// To be called before the process ends.
    pub(crate) fn flush(&self) {
        if let Some(open) = self.open.get() {
            open.records.flush();
        }
    }

    /// Bans, with a reason, or lifts a ban: of a service or agent by its name, or of whom a [`Banned`] names.
    pub(crate) async fn ban(&self, who: &str, reason: Option<&str>) -> Result<TrustStatus, BanProblem> {
        let Open { bans, authority, records, .. } = self.open.get().ok_or(BanProblem::Starting)?;
        let banned = match who.parse::<Subject>() {
            Ok(subject) => Banned::Identity(SpiffeId::of(authority.trust_domain(), &subject)),
            Err(_) => who.parse().map_err(BanProblem::Refused)?,
        };
        if let Banned::Identity(id) = &banned
            && id.trust_domain() != *authority.trust_domain()
        {
            return Err(BanProblem::Refused(format!(
                "{id} is not of this mesh, whose trust domain is {}",
                authority.trust_domain()
            )));
        }
        let name = banned.to_string();
        let (done, event) = match reason {
            Some(reason) => (bans.ban(banned, reason, &authority.own_id(), SystemTime::now()).await, Event::Banned),
            None => (bans.lift(&banned).await, Event::Unbanned),
        };
        match done {
            Ok(()) => {
                records.write(Record::of(event, name).because(reason.unwrap_or_default()));
                Ok(status(authority, bans))
            }
            Err(error @ (BanError::TooMany | BanError::ControlPlane)) => Err(BanProblem::Refused(error.to_string())),
            Err(error @ BanError::Unknown(_)) => Err(BanProblem::Unknown(error.to_string())),
            Err(error @ BanError::Store(_)) => Err(BanProblem::Failed(error.to_string())),
        }
    }

    /// Begins to replace what signs of this kind, or, with the name of a root or key that is in wrong hands, that one.
    pub(crate) async fn rotate(
        &self,
        kind: Kind,
        reason: &str,
        compromised: Option<&str>,
    ) -> Result<TrustStatus, RotateError> {
        let Open { bans, authority, records, .. } = self.open.get().ok_or(RotateError::Starting)?;
        let begun = match compromised {
            Some(key) => authority.taint(kind_of(authority, key), key, reason).await,
            None => authority.rotate(kind, reason).await,
        };
        begun.map_err(|error| match error {
            AuthorityError::UnknownKey(error) => RotateError::Unknown(error.to_string()),
            other => RotateError::Failed(other.to_string()),
        })?;
        tracing::info!(reason, ?kind, compromised, "a rotation was asked for");
        let what = compromised.unwrap_or(if kind == Kind::Jwt { "JWT keys" } else { "roots" });
        records.write(Record::of(Event::Key, what).because(format!("a rotation was asked for: {reason}")));
        Ok(status(authority, bans))
    }
}

/// It should have been followed by another at half of its life.
fn ends_soon(key: &Key, now: u64) -> bool {
    let life = key.not_after.saturating_sub(key.not_before);
    if key.source.is_some() {
        return now + FROM_OUTSIDE.as_secs() > key.not_after;
    }
    now.saturating_sub(key.not_before) > life / 4 * 3
}

/// Whether it is a key for JWT-SVIDs that is called so; else it is taken for a root.
fn kind_of(authority: &Authority, id: &str) -> Kind {
    let is_it = authority.published().borrow().trust.jwt.keys().iter().any(|key| key.id == id);
    if is_it { Kind::Jwt } else { Kind::X509 }
}

fn status(authority: &Authority, bans: &BanList) -> TrustStatus {
    let published = authority.published().borrow().clone();
    let behind = authority.behind(SystemTime::now()).into_iter();
    TrustStatus {
        trust_domain: authority.trust_domain().to_string(),
        sequence: published.trust.sequence,
        roots: published.trust.x509.keys().iter().map(root_status).collect(),
        jwt_keys: published.trust.jwt.keys().iter().map(root_status).collect(),
        issuing: authority.issuing_ca().0,
        issuing_renewed_at: unix_seconds(authority.next_rotation()),
        upstream: authority.upstream().map(|(upstream, problem)| upstream_status(upstream, problem)),
        behind: behind.map(|(who, holds, until)| BehindStatus { who, holds, until }).collect(),
        bans: bans.published().borrow().iter().map(ban_status).collect(),
    }
}

fn upstream_status(upstream: &Upstream, problem: Option<UpstreamProblem>) -> UpstreamStatus {
    let (problem, since) = problem.map(|(problem, since)| (problem.to_string(), unix_seconds(since))).unzip();
    let request = match upstream {
        Upstream::Offline(offline) => offline.waiting(),
        Upstream::Files(_) | Upstream::Vault(_) => None,
    };
    UpstreamStatus { name: upstream.name(), problem, since, request }
}

fn ban_status((banned, ban): (&Banned, &Ban)) -> BanStatus {
    BanStatus { banned: banned.to_string(), reason: ban.reason.clone(), since: ban.since }
}

fn root_status(root: &Key) -> RootStatus {
    let (state, since, until) = match root.phase {
        Phase::Published { since, .. } => (RootState::Published, Some(since), None),
        Phase::Active { since } => (RootState::Active, Some(since), None),
        Phase::Retired { until } => (RootState::Retired, None, Some(until)),
    };
    RootStatus {
        id: root.id.clone(),
        state,
        since,
        until,
        not_before: root.not_before,
        not_after: root.not_after,
        tainted: root.tainted.clone(),
        source: root.source.clone(),
    }
}
