//! The gRPC service `weft.v1.Identity`: checks who asks, then lets the authority sign.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use weft_identity::proto::identity_server::{Identity, IdentityServer};
use weft_identity::{Bans, Federated, MachineId, machine, proto, wire};
use weft_model::{SpiffeId, Subject};
use weft_xds::ConnectPeer;

use crate::agents;
use crate::authority::{Authority, KeyProof};
use crate::bans::BanList;
use crate::holders;
use crate::issuer::{Grantee, Issuer, Registrar, cut, living, peer, refuse_machine, shown};
use crate::machines::Machines;
use crate::proofs::{Asker, Proofs};
use crate::records::{Event, Record, Records};

/// See the module.
pub struct IdentityService {
    issuer: Arc<Issuer>,
    proofs: Proofs,
    records: Records,
    federated: watch::Receiver<Arc<Federated>>,
}

impl IdentityService {
    /// The service, ready to be added to a server whose connections are [`weft_identity::TlsIo`]. `federated` are the bundles of other trust
    /// domains, which every holder is told.
    pub fn server(
        authority: Arc<Authority>,
        proofs: Proofs,
        machines: Machines,
        bans: BanList,
        records: Records,
        federated: watch::Receiver<Arc<Federated>>,
        registrar: Arc<dyn Registrar>,
    ) -> IdentityServer<Self> {
        let issuer = Arc::new(Issuer { authority, machines, bans, registrar });
        IdentityServer::new(Self { issuer, proofs, records, federated })
    }

    async fn attested(
        &self,
        request: Request<proto::AttestRequest>,
        record: &mut Record,
    ) -> Result<Response<proto::SvidResponse>, Status> {
        let binding = request.extensions().get::<ConnectPeer>().and_then(|peer| peer.binding);
        let request = request.into_inner();
        let subject: Subject = request.service.parse().map_err(|error| Status::invalid_argument(format!("{error}")))?;
        record.who = SpiffeId::of(self.issuer.authority.trust_domain(), &subject).to_string();
        record.node = cut(&request.node_id);
        let key = KeyProof::check(&request.csr).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let machine = proved_machine(&request, binding.as_ref(), &subject)?;
        record.machine.clone_from(&machine);
        let (id, admission) = self.issuer.admit(&subject)?;
        self.issuer.not_banned(&id, machine.as_deref(), "")?;
        let now = SystemTime::now();
        if Proofs::is_in(&request)? {
            let (admission, binding) = (&admission, binding.as_ref());
            let asker =
                Asker { subject: &subject, id: &id, admission, key: &key, machine: machine.as_ref(), binding, now };
            record.reason = self.proofs.take(&self.issuer, &request, &asker).await?;
        } else {
            let nothing = "send a join token or another proof, or the key of a machine that was enrolled with one";
            let machine = machine.as_ref().ok_or_else(|| Status::invalid_argument(nothing))?;
            self.issuer.machines.returns(machine, &subject, admission.machine_life, now).await.map_err(|error| {
                tracing::warn!(%subject, machine, %error, "attestation refused");
                refuse_machine(error)
            })?;
            tracing::info!(%id, machine, "came back by the key of its machine");
            "by the key of its machine".clone_into(&mut record.reason);
        }
        let to = Grantee { id: &id, machine: machine.as_deref(), node_id: &request.node_id, now };
        self.issuer.issue(&key, &to, admission.ttl, &admission.dns_names, record).map(Response::new)
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
        let (subject, admission) = self.issuer.admit_peer(&peer)?;
        let id = peer;
        self.issuer.not_banned(&id, machine.as_deref(), &serial)?;
        self.issuer.seen(machine.as_deref(), &subject, admission.machine_life, "a renewal is").await?;
        let to = Grantee { id: &id, machine: machine.as_deref(), node_id: &request.node_id, now: SystemTime::now() };
        let answer = self.issuer.issue(&key, &to, admission.ttl, &admission.dns_names, record)?;
        tracing::debug!(%id, ttl_seconds = answer.ttl_seconds, "renewed");
        Ok(Response::new(answer))
    }

    async fn jwt_issued(
        &self,
        request: Request<proto::IssueJwtRequest>,
        record: &mut Record,
    ) -> Result<Response<proto::IssueJwtResponse>, Status> {
        let id = peer(&request)?;
        let ConnectPeer { machine, serial, .. } = living(&request)?;
        let (subject, admission) = self.issuer.admit_peer(&id)?;
        self.issuer.not_banned(&id, machine.as_deref(), &serial)?;
        self.issuer.seen(machine.as_deref(), &subject, admission.machine_life, "a JWT-SVID is").await?;
        self.issuer.issue_jwt(&id, request.into_inner().audience, record).map(Response::new)
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
        let peer = request.extensions().get::<ConnectPeer>().cloned().unwrap_or_default();
        let mut said = request.into_inner();
        let first = said.message().await?;
        let first = first.ok_or_else(|| Status::invalid_argument("say first which bundle you hold"))?;
        let holder = Held { own: holders::key(&id, &first.node_id, &peer.serial), through: agents::holds_as(&peer) };
        holder.holds(&self.issuer.authority, first.sequence);
        let (sender, receiver) = mpsc::channel(1);
        let (bans, federated) = (self.issuer.bans.published(), self.federated.clone());
        tokio::spawn(tell_all(self.issuer.authority.clone(), bans, federated, holder, said, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn withdraw(
        &self,
        request: Request<proto::WithdrawRequest>,
    ) -> Result<Response<proto::WithdrawResponse>, Status> {
        let peer = peer(&request)?;
        let done = self.issuer.registrar.withdraw(&peer, &request.into_inner().node_id).await?;
        Ok(Response::new(proto::WithdrawResponse { acknowledged: done.acknowledged, waiting: done.waiting }))
    }

    type AssignmentsStream = ReceiverStream<Result<proto::Assigned, Status>>;

    async fn assignments(
        &self,
        request: Request<proto::AssignmentsRequest>,
    ) -> Result<Response<Self::AssignmentsStream>, Status> {
        let agent = agents::agent(&self.issuer, &request).await?;
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(agents::tell(self.issuer.clone(), agent, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn issue_for(
        &self,
        request: Request<proto::IssueForRequest>,
    ) -> Result<Response<proto::IssueForResponse>, Status> {
        let (record, answer) = agents::issue_for(&self.issuer, request).await;
        self.records.write(record.ended(&answer));
        answer.map(Response::new)
    }

    async fn report_plain_text(
        &self,
        request: Request<proto::PlainTextReport>,
    ) -> Result<Response<proto::PlainTextReportResponse>, Status> {
        let peer = peer(&request)?;
        self.issuer.registrar.plain_text(&peer, request.into_inner())?;
        Ok(Response::new(proto::PlainTextReportResponse {}))
    }
}

/// What somebody who follows holds: a certificate of its own, and, if it is an agent, those that it got for others.
struct Held {
    own: String,
    through: Option<String>,
}

impl Held {
    /// It says which bundle is in force with it, and so with those who live by it.
    fn holds(&self, authority: &Authority, sequence: u64) {
        authority.holds(&self.own, sequence);
        if let Some(node) = &self.through {
            authority.holds_through(node, sequence);
        }
    }
}

/// Tells one holder what the mesh vouches with, at once and after each change, and takes note of what it says to hold; until either end
/// goes.
async fn tell_all(
    authority: Arc<Authority>,
    mut bans: watch::Receiver<Arc<Bans>>,
    mut federated: watch::Receiver<Arc<Federated>>,
    holder: Held,
    mut said: Streaming<proto::Held>,
    sender: mpsc::Sender<Result<proto::Trust, Status>>,
) {
    let mut published = authority.published();
    loop {
        let bundle = published.borrow_and_update().bundle.clone();
        let renew = authority.must_renew(&holder.own);
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
                    Ok(Some(held)) => holder.holds(&authority, held.sequence),
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

/// The machine whose key has signed for this request on this connection, if one has.
fn proved_machine(
    request: &proto::AttestRequest,
    binding: Option<&[u8; 32]>,
    subject: &Subject,
) -> Result<Option<MachineId>, Status> {
    let Some(machine) = &request.machine else { return Ok(None) };
    let binding = binding.ok_or_else(|| Status::invalid_argument("a machine proves itself over TLS"))?;
    let proved = machine::verify(machine, binding, subject, &request.csr);
    proved.map(Some).map_err(|error| Status::unauthenticated(error.to_string()))
}
