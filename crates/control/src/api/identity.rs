//! What the API says and does about identities.

use std::net::SocketAddr;
use std::time::SystemTime;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use weft_authority::trust::Kind;
use weft_model::Subject;
use weft_model::time::length;

use super::{Answer, Api, body, error, json};
use crate::identities::{BanProblem, RotateError};
use crate::metrics::IdentityCounts;
use crate::status::{BanRequest, CertificateStatus, InstallRequest, JoinTokenRequest, ProxyStatus, RotateRequest};

/// The most records of one answer, and how many there are in one by default.
const MOST_RECORDS: usize = 4_096;
const RECORDS: usize = 100;
/// The most workloads that are warned of one by one.
const NAMED: usize = 10;
/// A reason is a sentence or two.
const MAX_REASON: usize = 1000;

impl Api {
    /// What the mesh vouches with.
    pub(super) fn trust(&self) -> Answer {
        match self.identities.trust() {
            Some(trust) => json(StatusCode::OK, &trust),
            None => self.ready(),
        }
    }

    /// The bundle of this trust domain, a SPIFFE bundle document.
    pub(super) fn bundle(&self) -> Answer {
        match self.identities.bundle().and_then(|document| serde_json::from_str::<serde_json::Value>(&document).ok()) {
            Some(document) => json(StatusCode::OK, &document),
            None => self.ready(),
        }
    }

    /// The other trust domains, and how it is going with their bundles.
    pub(super) fn federation(&self) -> Answer {
        match self.identities.federation() {
            Some(federation) => json(StatusCode::OK, &federation),
            None => self.ready(),
        }
    }

    /// Every certificate that lives.
    pub(super) async fn certificates(&self) -> Answer {
        match self.identities.enrolled().await {
            Some(certificates) => json(StatusCode::OK, &certificates),
            None => self.ready(),
        }
    }

    /// What became of somebody, or of all: `?who=prod/web&limit=20`.
    pub(super) fn records(&self, query: &str) -> Answer {
        let (mut who, mut limit) = (None, RECORDS);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*name, value.parse()) {
                ("who", _) => who = Some(value.into_owned()),
                ("limit", Ok(most @ 1..=MOST_RECORDS)) => limit = most,
                _ => {
                    let text = format!("`{name}={value}` cannot be asked for");
                    let hint = "who is a service, agent:NAME, a SPIFFE ID, serial:HEX, machine:NAME or the id of a key; limit is 1 to 4096";
                    return error(StatusCode::BAD_REQUEST, &text, hint);
                }
            }
        }
        match self.identities.records(who.as_deref(), limit) {
            Some(records) => json(StatusCode::OK, &records),
            None => self.ready(),
        }
    }

    /// What a scrape shows of identities.
    pub(super) fn identity_metrics(&self) -> String {
        let (Some((events, lost)), Some(living)) = (self.identities.recorded(), self.identities.certificates()) else {
            return String::new();
        };
        let counts = IdentityCounts {
            events: events.into_iter().map(|(event, count)| (event.name(), count)).collect(),
            lost,
            living: living.len(),
            late: living.iter().filter(|one| one.late).count(),
            first_end: living.iter().map(|one| one.expires_at).min().unwrap_or(0),
        };
        counts.render() + &crate::metrics::federation(&self.identities.federation().unwrap_or_default())
    }

    /// A token with which a workload becomes a service, or a machine's agent itself.
    pub(super) async fn join_token(&self, peer: SocketAddr, request: Request<Incoming>) -> Answer {
        if let Some(answer) = self.refused(peer, &request, "join tokens are made", "weft identity join-token") {
            return answer;
        }
        let wanted: JoinTokenRequest = match body(request, r#"send {"service": "prod/board", "ttl": "10m"}"#).await {
            Ok(wanted) => wanted,
            Err(answer) => return answer,
        };
        let subject: Subject = match wanted.service.parse() {
            Ok(subject) => subject,
            Err(problem) => return error(StatusCode::BAD_REQUEST, &format!("{problem}"), ""),
        };
        let Some(ttl) = length(&wanted.ttl).ok().filter(|ttl| (1..=86_400).contains(&ttl.as_secs())) else {
            let text = format!("`{}` is not a duration from 1s to 24h", wanted.ttl);
            return error(StatusCode::BAD_REQUEST, &text, "write it like 90s, 10m or 1h");
        };
        if !self.hub.state().open {
            return self.ready();
        }
        let known = {
            let state = self.hub.state();
            match &subject {
                Subject::Service(service) => {
                    state.mesh.as_ref().is_some_and(|mesh| mesh.intent().services.contains_key(service))
                }
                Subject::Agent(_) => true,
            }
        };
        if !known {
            let text = format!("the serving commit has no service {subject}");
            return error(StatusCode::NOT_FOUND, &text, "commit a Service document for it first");
        }
        match self.identities.join_token(&subject, ttl).await {
            Ok(token) => json(StatusCode::CREATED, &token),
            Err(problem) => {
                tracing::error!(%subject, problem, "no join token was made");
                error(StatusCode::INTERNAL_SERVER_ERROR, &problem, "see the server's log")
            }
        }
    }

    /// Another root or key for JWT-SVIDs, by plan or because one was stolen.
    pub(super) async fn rotate(&self, peer: SocketAddr, request: Request<Incoming>) -> Answer {
        if let Some(answer) = self.refused(peer, &request, "keys are rotated", "weft identity rotate") {
            return answer;
        }
        let wanted: RotateRequest = match body(request, r#"send {"reason": "a drill"}"#).await {
            Ok(wanted) => wanted,
            Err(answer) => return answer,
        };
        let reason = match reason(&wanted.reason) {
            Ok(reason) => reason,
            Err(answer) => return *answer,
        };
        let kind = if wanted.jwt { Kind::Jwt } else { Kind::X509 };
        match self.identities.rotate(kind, reason, wanted.compromised.as_deref()).await {
            Ok(trust) => json(StatusCode::ACCEPTED, &trust),
            Err(RotateError::Starting) => self.ready(),
            Err(RotateError::Unknown(problem)) => error(StatusCode::NOT_FOUND, &problem, ""),
            Err(RotateError::Failed(problem)) => {
                tracing::error!(problem, "no rotation was begun");
                error(StatusCode::INTERNAL_SERVER_ERROR, &problem, "see the server's log")
            }
        }
    }

    /// What a root that is kept apart has signed.
    pub(super) async fn install(&self, peer: SocketAddr, request: Request<Incoming>) -> Answer {
        if let Some(answer) = self.refused(peer, &request, "issuing CAs are installed", "weft identity root install") {
            return answer;
        }
        let wanted: InstallRequest = match body(request, r#"send {"chain": "-----BEGIN CERTIFICATE-----…"}"#).await {
            Ok(wanted) => wanted,
            Err(answer) => return answer,
        };
        let Some(offline) = self.identities.offline() else {
            let hint = "start `weft server` with --offline-root, if its root is to be kept apart";
            return error(StatusCode::CONFLICT, "no root that is kept apart signs for this control plane", hint);
        };
        match offline.install(&wanted.chain, SystemTime::now()) {
            Ok(()) => json(StatusCode::OK, &serde_json::json!({})),
            Err(problem) => {
                error(StatusCode::BAD_REQUEST, &problem, "`weft identity tree` shows the request that waits")
            }
        }
    }

    /// Somebody is banned, or no longer.
    pub(super) async fn ban(&self, peer: SocketAddr, request: Request<Incoming>, lift: bool) -> Answer {
        let (what, command) = if lift {
            ("bans are lifted", "weft identity unban")
        } else {
            ("identities are banned", "weft identity ban")
        };
        if let Some(answer) = self.refused(peer, &request, what, command) {
            return answer;
        }
        let wanted: BanRequest = match body(request, r#"send {"who": "prod/web", "reason": "stolen"}"#).await {
            Ok(wanted) => wanted,
            Err(answer) => return answer,
        };
        let reason = match (lift, reason(&wanted.reason)) {
            (true, _) => None,
            (false, Ok(reason)) => Some(reason),
            (false, Err(answer)) => return *answer,
        };
        match self.identities.ban(&wanted.who, reason).await {
            Ok(trust) => json(StatusCode::OK, &trust),
            Err(BanProblem::Starting) => self.ready(),
            Err(BanProblem::Refused(problem)) => {
                let hint = "name a service like prod/web, agent:NAME, a SPIFFE ID, serial:HEX or machine:NAME";
                error(StatusCode::BAD_REQUEST, &problem, hint)
            }
            Err(BanProblem::Unknown(problem)) => {
                error(StatusCode::NOT_FOUND, &problem, "weft identity tree shows who is")
            }
            Err(BanProblem::Failed(problem)) => {
                tracing::error!(problem, "a ban was not made or lifted");
                error(StatusCode::INTERNAL_SERVER_ERROR, &problem, "see the server's log")
            }
        }
    }
}

/// Who is connected and should have renewed its certificate by now. Who is not has perhaps ended, and needs none.
pub(super) fn late(late: &[CertificateStatus], proxies: &[ProxyStatus], now: u64) -> Vec<String> {
    let is_there = |node: &str| proxies.iter().any(|proxy| proxy.connected && proxy.node == node);
    let late: Vec<&CertificateStatus> = late.iter().filter(|one| is_there(&one.node)).collect();
    let warning = |one: &&CertificateStatus| {
        let left = one.expires_at.saturating_sub(now);
        format!("{} has not renewed its certificate, which ends in {left} s: see its log", one.node)
    };
    let mut warnings: Vec<String> = late.iter().take(NAMED).map(warning).collect();
    if let Some(more @ 1..) = late.len().checked_sub(NAMED) {
        warnings.push(format!("{more} more have not renewed their certificates"));
    }
    warnings
}

/// One that is fit to be read by others.
fn reason(given: &str) -> Result<&str, Box<Answer>> {
    let reason = given.trim();
    if reason.is_empty() || reason.len() > MAX_REASON || reason.contains(char::is_control) {
        let hint = "say why, for those who read the log afterwards";
        return Err(Box::new(error(StatusCode::BAD_REQUEST, "a reason is one line of 1 to 1000 bytes", hint)));
    }
    Ok(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_late_and_still_there_is_warned_of() {
        let certificate = |node: String| CertificateStatus {
            identity: "spiffe://acme.internal/ns/prod/sa/web".into(),
            node,
            machine: None,
            by: None,
            serial: "0A".into(),
            root: "aa".into(),
            bundle: 1,
            issued_at: 0,
            expires_at: 130,
            late: true,
            banned: None,
        };
        let proxy = |node: &str, connected| ProxyStatus { node: node.into(), connected, ..ProxyStatus::default() };
        let two = [certificate("prod/web~1".into()), certificate("prod/web~2".into())];
        let proxies = [proxy("prod/web~1", true), proxy("prod/web~2", false)];
        let expected = "prod/web~1 has not renewed its certificate, which ends in 30 s: see its log";
        assert_eq!(late(&two, &proxies, 100), [expected]);
        let many: Vec<CertificateStatus> = (0..12).map(|n| certificate(format!("n{n}"))).collect();
        let proxies: Vec<ProxyStatus> = many.iter().map(|one| proxy(&one.node, true)).collect();
        let told = late(&many, &proxies, 100);
        assert_eq!((told.len(), &*told[10]), (11, "2 more have not renewed their certificates"));
        assert!(late(&[], &proxies, 100).is_empty());
    }
}
