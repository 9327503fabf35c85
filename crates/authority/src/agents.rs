//! Agents of machines: what they are told that processes of theirs may be, and what they get for these.
//!
//! An agent says what a process is, and is believed: it stands where only the kernel stands above it. What it may ask for is bounded by the
//! intent, which names machines where that matters. All that it gets is on record with its own name and machine.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;
use tonic::{Request, Status};
use weft_identity::{Assignment, assigned, proto};
use weft_model::{AgentName, ServiceName, SpiffeId};
use weft_xds::ConnectPeer;

use crate::authority::KeyProof;
use crate::holders;
use crate::issuer::{Grantee, Issuer, cut, living, shown};
use crate::records::{Event, Record};

/// An agent at the other end of a connection.
pub(crate) struct Agent {
    name: AgentName,
    machine: String,
}

impl Agent {
    /// As which it holds certificates for others: two machines of one name are two.
    pub(crate) fn node(&self) -> String {
        node(&self.name, &self.machine)
    }
}

fn node(name: &AgentName, machine: &str) -> String {
    format!("agent:{name}~{machine}")
}

/// As which an agent with this certificate holds others' certificates; `None` if it is no agent's.
pub(crate) fn holds_as(peer: &ConnectPeer) -> Option<String> {
    Some(node(&peer.id.as_ref()?.agent()?, peer.machine.as_deref()?))
}

/// The agent that this connection is of, if it lives, is enrolled and not banned.
pub(crate) async fn agent<T>(issuer: &Issuer, request: &Request<T>) -> Result<Agent, Status> {
    let ConnectPeer { id, machine, serial, .. } = living(request)?;
    let id = id.ok_or_else(|| Status::unauthenticated("this call needs the certificate of an agent"))?;
    let (subject, admission) = issuer.admit_peer(&id)?;
    let (Some(name), Some(machine)) = (id.agent(), machine) else {
        return Err(Status::permission_denied(format!("{id} is no agent of a machine, and gets nothing for others")));
    };
    issuer.not_banned(&id, Some(&machine), &serial)?;
    issuer.seen(Some(&machine), &subject, admission.machine_life, "an identity for others is").await?;
    Ok(Agent { name, machine })
}

/// Tells an agent what it may ask for, at once and after each change, until either end goes.
pub(crate) async fn tell(issuer: Arc<Issuer>, agent: Agent, sender: mpsc::Sender<Result<proto::Assigned, Status>>) {
    let (mut changes, mut published) = (issuer.registrar.changes(), issuer.authority.published());
    let mut last = None;
    loop {
        changes.borrow_and_update();
        published.borrow_and_update();
        let all = issuer.registrar.assignments(&agent.name);
        let renew = tainted(&issuer, &agent, &all);
        let news = assigned::to_proto(&all, &renew);
        if last.as_ref() != Some(&news) {
            tracing::debug!(agent = %agent.name, services = all.len(), renew = renew.len(), "an agent is told whose identities it may ask for");
            last = Some(news.clone());
            if sender.send(Ok(news)).await.is_err() {
                return;
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            changed = published.changed() => if changed.is_err() { return },
            () = sender.closed() => return,
        }
    }
}

/// Those of which the agent holds a certificate under a key that is no longer trusted.
fn tainted(issuer: &Issuer, agent: &Agent, all: &[Assignment]) -> Vec<ServiceName> {
    let node = agent.node();
    let is_tainted = |service: &ServiceName| {
        let id = SpiffeId::for_service(issuer.authority.trust_domain(), service);
        issuer.authority.must_renew(&holders::key(&id, &node, ""))
    };
    all.iter().map(|assignment| &assignment.service).filter(|service| is_tainted(service)).cloned().collect()
}

/// Issues what an agent asks for. The record says for whom, and through whom.
pub(crate) async fn issue_for(
    issuer: &Issuer,
    request: Request<proto::IssueForRequest>,
) -> (Record, Result<proto::IssueForResponse, Status>) {
    let is_jwt = request.get_ref().csr.is_empty();
    let event = if is_jwt { Event::JwtIssued } else { Event::Attested };
    let peer = request.extensions().get::<ConnectPeer>().cloned().unwrap_or_default();
    let mut record = shown(event, &request);
    record.node = holds_as(&peer).unwrap_or(record.who);
    record.who = cut(&request.get_ref().service);
    let issued = issued_for(issuer, request, &mut record).await;
    (record, issued)
}

async fn issued_for(
    issuer: &Issuer,
    request: Request<proto::IssueForRequest>,
    record: &mut Record,
) -> Result<proto::IssueForResponse, Status> {
    let agent = agent(issuer, &request).await?;
    let proto::IssueForRequest { service, csr, audience, evidence } = request.into_inner();
    let service: ServiceName = service.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
    let id = SpiffeId::for_service(issuer.authority.trust_domain(), &service);
    record.who = id.to_string();
    let all = issuer.registrar.assignments(&agent.name);
    let Some(assignment) = all.into_iter().find(|assignment| assignment.service == service) else {
        let why = format!("no entry of `attest` of {service} holds on the machine of agent {}", agent.name);
        tracing::warn!(agent = %agent.name, %service, "an agent is refused what is not assigned to it");
        return Err(Status::permission_denied(why));
    };
    let (_, admission) = issuer.admit(&service.clone().into())?;
    issuer.not_banned(&id, None, "")?;
    if csr.is_empty() {
        let jwt = Some(issuer.issue_jwt(&id, audience, record)?);
        record.serial.clear(); // the agent's own
        return Ok(proto::IssueForResponse { svid: None, jwt });
    }
    let key = KeyProof::check(&csr).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let (node, now) = (agent.node(), SystemTime::now());
    if issuer.authority.holds_one(&holders::key(&id, &node, ""), now) {
        record.event = Event::Renewed;
    }
    // The machine stands in it: who is banned by that is cut off with all that it has got.
    let to = Grantee { id: &id, machine: Some(&agent.machine), node_id: &node, now };
    let svid = issuer.issue(&key, &to, assignment.svid_ttl.min(admission.ttl), &admission.dns_names, record)?;
    record.reason = format!("by agent {}, for {}", agent.name, cut(&evidence));
    tracing::debug!(agent = %agent.name, %id, ttl_seconds = svid.ttl_seconds, "issued through an agent");
    Ok(proto::IssueForResponse { svid: Some(svid), jwt: None })
}
