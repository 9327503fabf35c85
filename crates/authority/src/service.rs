//! The gRPC service `weft.v1.Identity`: checks who asks, then lets the authority sign.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use weft_identity::bans::Leaf;
use weft_identity::ca::Names;
use weft_identity::proto::identity_server::{Identity, IdentityServer};
use weft_identity::{Audience, Ban, Bans, Federated, JoinToken, MachineId, Withdrawal, machine, proto, wire};
use weft_model::{ServiceName, SpiffeId};
use weft_xds::ConnectPeer;

use crate::authority::{Authority, KeyProof};
use crate::bans::BanList;
use crate::holders;
use crate::join_tokens::{JoinTokens, TokenError};
use crate::machines::{MachineError, Machines};
use crate::records::{Event, Record, Records};

/// What the mesh grants a service that may have an identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Life of its SVIDs.
    pub ttl: Duration,
    /// How long its machines may be away and still come back by their keys.
    pub machine_life: Duration,
}

/// What the identity service must know of the mesh.
#[tonic::async_trait]
pub trait Registrar: Send + Sync + 'static {
    /// Whether the intent has this service. Asked at every issue, so a service that leaves the intent gets no renewal.
    fn admits(&self, service: &ServiceName) -> Option<Admission>;

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
struct Grantee<'a> {
    id: &'a SpiffeId,
    machine: Option<&'a str>,
    node_id: &'a str,
    now: SystemTime,
}

/// See the module.
pub struct IdentityService {
    authority: Arc<Authority>,
    tokens: JoinTokens,
    machines: Machines,
    bans: BanList,
    records: Records,
    federated: watch::Receiver<Arc<Federated>>,
    registrar: Arc<dyn Registrar>,
}

impl IdentityService {
    /// The service, ready to be added to a server whose connections are [`weft_identity::TlsIo`]. `federated` are the bundles of other trust
    /// domains, which every holder is told.
    pub fn server(
        authority: Arc<Authority>,
        tokens: JoinTokens,
        machines: Machines,
        bans: BanList,
        records: Records,
        federated: watch::Receiver<Arc<Federated>>,
        registrar: Arc<dyn Registrar>,
    ) -> IdentityServer<Self> {
        IdentityServer::new(Self { authority, tokens, machines, bans, records, federated, registrar })
    }

    /// Nothing is issued to whoever is banned, whatever they prove.
    fn not_banned(&self, id: &SpiffeId, machine: Option<&str>, serial: &str) -> Result<(), Status> {
        let leaf = Leaf { id: id.clone(), serial: serial.to_owned(), machine: machine.map(str::to_owned) };
        match self.bans.published().borrow().of(&leaf) {
            None => Ok(()),
            Some(Ban { reason, .. }) => {
                tracing::warn!(%id, machine, serial, reason, "an identity is refused: banned");
                Err(Status::permission_denied(format!("{id} is banned: {reason}")))
            }
        }
    }

    fn admit(&self, service: &ServiceName) -> Result<(SpiffeId, Admission), Status> {
        let id = SpiffeId::for_service(self.authority.trust_domain(), service);
        if id == self.authority.own_id() {
            return Err(Status::permission_denied(format!("{service} is the name of the control plane itself")));
        }
        let admission = self.registrar.admits(service).ok_or_else(|| {
            Status::permission_denied(format!(
                "there is no service {service} in the mesh's intent; add a `kind: Service` document for it, or check the name"
            ))
        })?;
        Ok((id, admission))
    }

    /// The service that a peer is, and what it is granted.
    fn admit_peer(&self, peer: &SpiffeId) -> Result<(ServiceName, Admission), Status> {
        let service = peer
            .service()
            .ok_or_else(|| Status::permission_denied(format!("{peer} names no service, so it gets nothing here")))?;
        let (id, admission) = self.admit(&service)?;
        if id != *peer {
            return Err(Status::permission_denied(format!("{peer} is not of this mesh")));
        }
        Ok((service, admission))
    }

    /// Issues, and takes note of who has what, before anybody can use it.
    fn issue(
        &self,
        key: &KeyProof,
        to: &Grantee<'_>,
        ttl: Duration,
        record: &mut Record,
    ) -> Result<Response<proto::SvidResponse>, Status> {
        let Grantee { id, machine, node_id, now } = *to;
        self.authority.may_issue().map_err(|error| {
            tracing::warn!(%id, %error, "nothing is issued");
            Status::unavailable(error.to_string())
        })?;
        loop {
            let issued = self.authority.issue(key, id, machine, ttl, &Names::default(), now).map_err(|error| {
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
                return Ok(Response::new(proto::SvidResponse {
                    chain: issued.chain.iter().map(|certificate| certificate.to_vec()).collect(),
                    bundle: Some(wire::bundle_to_proto(&bundle)),
                    ttl_seconds: issued.ttl.as_secs(),
                }));
            }
        }
    }

    /// Redeems a join token, which comes back, and enrols the machine that came with it.
    async fn join(
        &self,
        token: &str,
        service: &ServiceName,
        key: &KeyProof,
        machine: Option<&MachineId>,
        now: SystemTime,
    ) -> Result<JoinToken, Status> {
        let token: JoinToken = token.parse().map_err(|error| refuse_token(TokenError::Malformed(error)))?;
        if let Some(machine) = machine {
            self.machines.may_enrol(machine, service).await.map_err(refuse_machine)?;
        }
        self.tokens.redeem(&token, service, &key.hash(), now).await.map_err(|error| {
            tracing::warn!(%service, %error, ?token, "attestation refused");
            refuse_token(error)
        })?;
        if let Some(machine) = machine {
            self.machines.enrol(machine, service, now).await.map_err(refuse_machine)?;
        }
        tracing::info!(%service, machine, ?token, "attested by join token");
        Ok(token)
    }

    async fn attested(
        &self,
        request: Request<proto::AttestRequest>,
        record: &mut Record,
    ) -> Result<Response<proto::SvidResponse>, Status> {
        let binding = request.extensions().get::<ConnectPeer>().and_then(|peer| peer.binding);
        let request = request.into_inner();
        let service: ServiceName =
            request.service.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        record.who = SpiffeId::for_service(self.authority.trust_domain(), &service).to_string();
        record.node = cut(&request.node_id);
        let key = KeyProof::check(&request.csr).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let machine = proved_machine(&request, binding.as_ref(), &service)?;
        record.machine.clone_from(&machine);
        let (id, admission) = self.admit(&service)?;
        self.not_banned(&id, machine.as_deref(), "")?;
        let now = SystemTime::now();
        // Last, because it uses a token up.
        if request.join_token.is_empty() {
            let nothing = "send a join token, or the key of a machine that was enrolled with one";
            let machine = machine.as_ref().ok_or_else(|| Status::invalid_argument(nothing))?;
            self.machines.returns(machine, &service, admission.machine_life, now).await.map_err(|error| {
                tracing::warn!(%service, machine, %error, "attestation refused");
                refuse_machine(error)
            })?;
            tracing::info!(%id, machine, "came back by the key of its machine");
            "by the key of its machine".clone_into(&mut record.reason);
        } else {
            let token = self.join(&request.join_token, &service, &key, machine.as_ref(), now).await?;
            record.reason = format!("by join token {}", token.id());
        }
        let to = Grantee { id: &id, machine: machine.as_deref(), node_id: &request.node_id, now };
        self.issue(&key, &to, admission.ttl, record)
    }

    async fn renewed(
        &self,
        request: Request<proto::RenewRequest>,
        record: &mut Record,
    ) -> Result<Response<proto::SvidResponse>, Status> {
        let peer = peer(&request)?;
        let ConnectPeer { machine, serial, .. } =
            request.extensions().get::<ConnectPeer>().cloned().unwrap_or_default();
        let request = request.into_inner();
        record.node = cut(&request.node_id);
        let key = KeyProof::check(&request.csr).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (service, admission) = self.admit_peer(&peer)?;
        let id = peer;
        self.not_banned(&id, machine.as_deref(), &serial)?;
        let now = SystemTime::now();
        if let Some(machine) = &machine {
            self.machines.seen(machine, &service, admission.machine_life, now).await.map_err(|error| {
                tracing::warn!(%service, machine, %error, "renewal refused");
                refuse_machine(error)
            })?;
        }
        let to = Grantee { id: &id, machine: machine.as_deref(), node_id: &request.node_id, now };
        let answer = self.issue(&key, &to, admission.ttl, record)?;
        tracing::debug!(%id, ttl_seconds = answer.get_ref().ttl_seconds, "renewed");
        Ok(answer)
    }

    async fn jwt_issued(
        &self,
        request: Request<proto::IssueJwtRequest>,
        record: &mut Record,
    ) -> Result<Response<proto::IssueJwtResponse>, Status> {
        let peer = peer(&request)?;
        let ConnectPeer { machine, expires: ends, serial, .. } =
            request.extensions().get::<ConnectPeer>().cloned().unwrap_or_default();
        let now = SystemTime::now();
        if ends.is_none_or(|ends| ends < now) {
            return Err(Status::unauthenticated("the certificate of this connection has expired; connect anew"));
        }
        let audience = Audience::new(request.into_inner().audience);
        let audience = audience.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (service, admission) = self.admit_peer(&peer)?;
        self.not_banned(&peer, machine.as_deref(), &serial)?;
        if let Some(machine) = &machine {
            self.machines.seen(machine, &service, admission.machine_life, now).await.map_err(|error| {
                tracing::warn!(%service, machine, %error, "no JWT-SVID was issued");
                refuse_machine(error)
            })?;
        }
        let issued = self.authority.issue_jwt(&peer, &audience, now).map_err(|error| {
            tracing::warn!(id = %peer, %error, "no JWT-SVID was issued");
            Status::unavailable(error.to_string())
        })?;
        tracing::debug!(id = %peer, audience = ?audience.values(), kid = issued.kid, "issued a JWT-SVID");
        let expires = issued.expires.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        record.expires = Some(expires);
        record.reason = format!("for {}, signed by {}", audience.values().join(", "), issued.kid);
        Ok(Response::new(proto::IssueJwtResponse { token: issued.token, expires }))
    }
}

#[tonic::async_trait]
impl Identity for IdentityService {
    async fn attest(&self, request: Request<proto::AttestRequest>) -> Result<Response<proto::SvidResponse>, Status> {
        let mut record = Record::of(Event::Attested, cut(&request.get_ref().service));
        let answer = self.attested(request, &mut record).await;
        self.records.write(record.ended(&answer));
        answer
    }

    async fn renew(&self, request: Request<proto::RenewRequest>) -> Result<Response<proto::SvidResponse>, Status> {
        let mut record = shown(Event::Renewed, &request);
        let answer = self.renewed(request, &mut record).await;
        self.records.write(record.ended(&answer));
        answer
    }

    async fn issue_jwt(
        &self,
        request: Request<proto::IssueJwtRequest>,
    ) -> Result<Response<proto::IssueJwtResponse>, Status> {
        let mut record = shown(Event::JwtIssued, &request);
        let answer = self.jwt_issued(request, &mut record).await;
        self.records.write(record.ended(&answer));
        answer
    }

    type FollowStream = ReceiverStream<Result<proto::Trust, Status>>;

    async fn follow(&self, request: Request<Streaming<proto::Held>>) -> Result<Response<Self::FollowStream>, Status> {
        let id = peer(&request)?;
        let serial = request.extensions().get::<ConnectPeer>().map(|peer| peer.serial.clone()).unwrap_or_default();
        let mut said = request.into_inner();
        let first = said.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("say first which bundle you hold"))?;
        let holder = holders::key(&id, &first.node_id, &serial);
        self.authority.holds(&holder, first.sequence);
        let (sender, receiver) = mpsc::channel(1);
        let (bans, federated) = (self.bans.published(), self.federated.clone());
        tokio::spawn(tell_all(self.authority.clone(), bans, federated, holder, said, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn withdraw(
        &self,
        request: Request<proto::WithdrawRequest>,
    ) -> Result<Response<proto::WithdrawResponse>, Status> {
        let peer = peer(&request)?;
        let done = self.registrar.withdraw(&peer, &request.into_inner().node_id).await?;
        Ok(Response::new(proto::WithdrawResponse { acknowledged: done.acknowledged, waiting: done.waiting }))
    }

    async fn report_plain_text(
        &self,
        request: Request<proto::PlainTextReport>,
    ) -> Result<Response<proto::PlainTextReportResponse>, Status> {
        let peer = peer(&request)?;
        self.registrar.plain_text(&peer, request.into_inner())?;
        Ok(Response::new(proto::PlainTextReportResponse {}))
    }
}

/// Tells one holder what the mesh vouches with, at once and after each change, and takes note of what it says to hold; until either end
/// goes.
async fn tell_all(
    authority: Arc<Authority>,
    mut bans: watch::Receiver<Arc<Bans>>,
    mut federated: watch::Receiver<Arc<Federated>>,
    holder: String,
    mut said: Streaming<proto::Held>,
    sender: mpsc::Sender<Result<proto::Trust, Status>>,
) {
    let mut published = authority.published();
    loop {
        let bundle = published.borrow_and_update().bundle.clone();
        let renew = authority.must_renew(&holder);
        let bans_now = wire::bans_to_proto(&bans.borrow_and_update());
        let federation = Some(wire::federated_to_proto(&federated.borrow_and_update()));
        let bundle = Some(wire::bundle_to_proto(&bundle));
        let news = proto::Trust { bundle, renew, bans: Some(bans_now), federation };
        if sender.send(Ok(news)).await.is_err() {
            return;
        }
        loop {
            tokio::select! {
                held = said.message() => match held {
                    Ok(Some(held)) => authority.holds(&holder, held.sequence),
                    Ok(None) | Err(_) => return,
                },
                changed = published.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                changed = bans.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                changed = federated.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                () = sender.closed() => return,
            }
        }
    }
}

/// Who is at the other end, as the TLS acceptor has verified.
fn peer<T>(request: &Request<T>) -> Result<SpiffeId, Status> {
    request.extensions().get::<ConnectPeer>().and_then(|peer| peer.id.clone()).ok_or_else(|| {
        Status::unauthenticated("this call needs a client certificate of the mesh; attest with a join token first")
    })
}

/// What is about to happen to whoever has shown the certificate of this connection.
fn shown<T>(event: Event, request: &Request<T>) -> Record {
    let peer = request.extensions().get::<ConnectPeer>().cloned().unwrap_or_default();
    let who = peer.id.map_or_else(|| "somebody without a certificate".to_owned(), |id| id.to_string());
    Record { machine: peer.machine, serial: peer.serial, ..Record::of(event, who) }
}

/// What a stranger says, as far as it is recorded.
fn cut(said: &str) -> String {
    said.chars().take(256).collect()
}

/// The machine whose key has signed for this request on this connection, if one has.
fn proved_machine(
    request: &proto::AttestRequest,
    binding: Option<&[u8; 32]>,
    service: &ServiceName,
) -> Result<Option<MachineId>, Status> {
    let Some(machine) = &request.machine else { return Ok(None) };
    let binding = binding.ok_or_else(|| Status::invalid_argument("a machine proves itself over TLS"))?;
    let proved = machine::verify(machine, binding, service, &request.csr);
    proved.map(Some).map_err(|error| Status::unauthenticated(error.to_string()))
}

fn refuse_machine(error: MachineError) -> Status {
    match error {
        MachineError::Unknown(_) | MachineError::Away { .. } => Status::unauthenticated(error.to_string()),
        MachineError::OtherService { .. } => Status::permission_denied(error.to_string()),
        MachineError::Store(_) => Status::unavailable(error.to_string()),
    }
}

fn refuse_token(error: TokenError) -> Status {
    match error {
        TokenError::Malformed(_) => Status::invalid_argument(error.to_string()),
        TokenError::Store(_) => Status::unavailable(error.to_string()),
        _ => Status::unauthenticated(error.to_string()),
    }
}
