//! What every way to an identity has in common: whom the mesh admits, who is banned, and that what was issued is known of.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tonic::{Request, Status};
use weft_identity::bans::Leaf;
use weft_identity::ca::Names;
use weft_identity::{Assignment, Audience, Ban, Banned, MachineId, Withdrawal, proto, wire};
use weft_model::intent::NodeEntry;
use weft_model::{AgentName, SpiffeId, Subject};
use weft_xds::ConnectPeer;

use crate::authority::{Authority, KeyProof};
use crate::bans::BanList;
use crate::holders;
use crate::machines::{MachineError, Machines};
use crate::records::{Event, Record};

/// What the mesh grants somebody who may have an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Life of its SVIDs.
    pub ttl: Duration,
    /// How long its machines may be away and still come back by their keys.
    pub machine_life: Duration,
    /// DNS names in its SVIDs.
    pub dns_names: Vec<Arc<str>>,
}

/// What the identity service must know of the mesh.
#[tonic::async_trait]
pub trait Registrar: Send + Sync + 'static {
    /// Whether the intent has this service, or there is a mesh for this agent. Asked at every issue, so a service that leaves the intent
    /// gets no renewal.
    fn admits(&self, subject: &Subject) -> Option<Admission>;

    /// By which proofs, other than a join token, a machine becomes whom.
    fn nodes(&self) -> Arc<[NodeEntry]>;

    /// The services whose identities processes of this agent's machine may have, by name.
    fn assignments(&self, agent: &AgentName) -> Vec<Assignment>;

    /// Changes whenever assignments may have changed.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Takes the endpoint of `node_id` out of the mesh, if it is `peer`'s, and waits (bounded) for the subscribers.
    ///
    /// # Errors
    /// The status for the caller; `PERMISSION_DENIED` when the node is not the peer's.
    async fn withdraw(&self, peer: &SpiffeId, node_id: &str) -> Result<Withdrawal, Status>;

    /// Takes in who called `peer` in plain text.
    ///
    /// # Errors
    /// The status for the caller, who is no service of the mesh.
    fn plain_text(&self, peer: &SpiffeId, report: proto::PlainTextReport) -> Result<(), Status>;

    /// Takes note of a certificate that was issued to `node_id`, as the workload calls itself: anything, or nothing.
    fn issued(&self, id: &SpiffeId, node_id: &str, not_after: SystemTime);
}

/// Who gets a certificate, as what it calls itself, and when.
pub(crate) struct Grantee<'a> {
    pub(crate) id: &'a SpiffeId,
    pub(crate) machine: Option<&'a str>,
    pub(crate) node_id: &'a str,
    pub(crate) now: SystemTime,
}

/// See the module.
pub(crate) struct Issuer {
    pub(crate) authority: Arc<Authority>,
    pub(crate) machines: Machines,
    pub(crate) bans: BanList,
    pub(crate) registrar: Arc<dyn Registrar>,
}

impl Issuer {
    /// Nothing is issued to whoever is banned, whatever they prove.
    pub(crate) fn not_banned(&self, id: &SpiffeId, machine: Option<&str>, serial: &str) -> Result<(), Status> {
        let leaf = Leaf { id: id.clone(), serial: serial.to_owned(), machine: machine.map(str::to_owned) };
        match self.bans.published().borrow().of(&leaf) {
            None => Ok(()),
            Some(Ban { reason, .. }) => {
                tracing::warn!(%id, machine, serial, reason, "an identity is refused: banned");
                Err(Status::permission_denied(format!("{id} is banned: {reason}")))
            }
        }
    }

    /// Nor to whoever proves by the same as a machine that is banned: with another key it would be another machine, and is the same one.
    pub(crate) async fn node_not_banned(&self, id: &SpiffeId, node: &str) -> Result<(), Status> {
        let banned = self.banned_machines();
        let found =
            self.machines.enrolled_by(node, &banned).await.map_err(|error| Status::unavailable(error.to_string()))?;
        match found {
            None => Ok(()),
            Some(machine) => {
                tracing::warn!(%id, machine, "an identity is refused: the machine that came by the same proof is banned");
                let why = "comes by the same proof";
                Err(Status::permission_denied(format!("machine {machine} is banned, and whoever asks for {id} {why}")))
            }
        }
    }

    /// All machines that are banned.
    pub(crate) fn banned_machines(&self) -> Vec<MachineId> {
        let bans = self.bans.published().borrow().clone();
        let machine = |(banned, _): (&Banned, &Ban)| match banned {
            Banned::Machine(machine) => Some(machine.clone()),
            _ => None,
        };
        bans.iter().filter_map(machine).collect()
    }

    /// The identity of a service or an agent, and what it is granted.
    pub(crate) fn admit(&self, subject: &Subject) -> Result<(SpiffeId, Admission), Status> {
        let id = SpiffeId::of(self.authority.trust_domain(), subject);
        if id == self.authority.own_id() {
            return Err(Status::permission_denied(format!("{subject} is the name of the control plane itself")));
        }
        let admission = self.registrar.admits(subject).ok_or_else(|| {
            Status::permission_denied(format!(
                "there is no service {subject} in the mesh's intent; add a `kind: Service` document for it, or check the name"
            ))
        })?;
        Ok((id, admission))
    }

    /// The service or agent that a peer is, and what it is granted.
    pub(crate) fn admit_peer(&self, peer: &SpiffeId) -> Result<(Subject, Admission), Status> {
        let subject = peer
            .subject()
            .ok_or_else(|| Status::permission_denied(format!("{peer} names no service, so it gets nothing here")))?;
        let (id, admission) = self.admit(&subject)?;
        if id != *peer {
            return Err(Status::permission_denied(format!("{peer} is not of this mesh")));
        }
        Ok((subject, admission))
    }

    /// The machine of a certificate is here, and it is the one that was enrolled for `subject`. `what` is refused otherwise.
    pub(crate) async fn seen(
        &self,
        machine: Option<&str>,
        subject: &Subject,
        life: Duration,
        what: &str,
    ) -> Result<(), Status> {
        let Some(machine) = machine else { return Ok(()) };
        self.machines.seen(&machine.to_owned(), subject, life, SystemTime::now()).await.map_err(|error| {
            tracing::warn!(%subject, machine, %error, "{what} refused");
            refuse_machine(error)
        })
    }

    /// Issues, and takes note of who has what, before anybody can use it.
    pub(crate) fn issue(
        &self,
        key: &KeyProof,
        to: &Grantee<'_>,
        ttl: Duration,
        dns_names: &[Arc<str>],
        record: &mut Record,
    ) -> Result<proto::SvidResponse, Status> {
        let names = Names { dns: dns_names.iter().map(ToString::to_string).collect(), ips: Vec::new() };
        let Grantee { id, machine, node_id, now } = *to;
        self.authority.may_issue().map_err(|error| {
            tracing::warn!(%id, %error, "nothing is issued");
            Status::unavailable(error.to_string())
        })?;
        loop {
            let issued = self.authority.issue(key, id, machine, ttl, &names, now).map_err(|error| {
                tracing::error!(%id, %error, "cannot issue");
                Status::internal(format!("cannot issue a certificate for {id}: {error}"))
            })?;
            let bundle = self.authority.bundle();
            let holder = holders::key(id, node_id, &issued.serial);
            if self.authority.hold(holder, &issued, machine, bundle.sequence(), now) {
                let end = now + issued.ttl;
                self.registrar.issued(id, node_id, end);
                record.serial.clone_from(&issued.serial);
                record.expires = Some(end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs());
                return Ok(proto::SvidResponse {
                    chain: issued.chain.iter().map(|certificate| certificate.to_vec()).collect(),
                    bundle: Some(wire::bundle_to_proto(&bundle)),
                    ttl_seconds: issued.ttl.as_secs(),
                });
            }
        }
    }

    /// Signs a JWT-SVID.
    pub(crate) fn issue_jwt(
        &self,
        id: &SpiffeId,
        audience: Vec<String>,
        record: &mut Record,
    ) -> Result<proto::IssueJwtResponse, Status> {
        let audience = Audience::new(audience).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let issued = self.authority.issue_jwt(id, &audience, SystemTime::now()).map_err(|error| {
            tracing::warn!(%id, %error, "no JWT-SVID was issued");
            Status::unavailable(error.to_string())
        })?;
        tracing::debug!(%id, audience = ?audience.values(), kid = issued.kid, "issued a JWT-SVID");
        let expires = issued.expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        record.expires = Some(expires);
        record.reason = format!("for {}, signed by {}", audience.values().join(", "), issued.kid);
        Ok(proto::IssueJwtResponse { token: issued.token, expires })
    }
}

/// Who is at the other end, as the TLS acceptor has verified.
pub(crate) fn peer<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
    request.extensions().get::<ConnectPeer>().and_then(|peer| peer.id.clone()).ok_or_else(|| {
        Status::unauthenticated("this call needs a client certificate of the mesh; attest with a join token first")
    })
}

/// All that the TLS acceptor knows of the other end, whose certificate lives.
pub(crate) fn living<T>(request: &Request<T>) -> Result<ConnectPeer, Status> {
    let peer = request.extensions().get::<ConnectPeer>().cloned().unwrap_or_default();
    if peer.expires.is_none_or(|ends| ends < SystemTime::now()) {
        return Err(Status::unauthenticated("the certificate of this connection has expired; connect anew"));
    }
    Ok(peer)
}

/// What is about to happen to whoever has shown the certificate of this connection.
pub(crate) fn shown<T>(event: Event, request: &Request<T>) -> Record {
    let peer = request.extensions().get::<ConnectPeer>().cloned().unwrap_or_default();
    let who = peer.id.map_or_else(|| "somebody without a certificate".to_owned(), |id| id.to_string());
    Record { machine: peer.machine, serial: peer.serial, ..Record::of(event, who) }
}

/// What a stranger says, as far as it is recorded.
pub(crate) fn cut(said: &str) -> String {
    said.chars().take(256).collect()
}

pub(crate) fn refuse_machine(error: MachineError) -> Status {
    match error {
        MachineError::Unknown(_) | MachineError::Away { .. } => Status::unauthenticated(error.to_string()),
        MachineError::OtherService { .. } => Status::permission_denied(error.to_string()),
        MachineError::Store(_) => Status::unavailable(error.to_string()),
    }
}
