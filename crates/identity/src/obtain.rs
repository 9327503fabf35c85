//! How a workload gets an identity from the control plane: by a join token or what its machine has from elsewhere, or by the one that it has. What comes is checked here.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, UnixTime};
use tonic::transport::Channel;
use tonic::{Code, Status};
use weft_model::{ServiceName, SpiffeId, Subject, TrustDomain};

use crate::ca::{CaError, KeyRequest};
use crate::connect::{
    ConnectError, connect, connect_by_bundle, connect_pinned, connect_rooted, each, is_pinned, root_cause,
};
use crate::fault::PeerError;
use crate::join_token::JoinToken;
use crate::live::LiveIdentity;
use crate::machine::MachineKey;
use crate::peer::{self, Role};
use crate::proof::{NodeProof, Proof, ProofError};
use crate::proto;
use crate::proto::identity_client::IdentityClient;
use crate::svid::{Svid, SvidError, TrustBundle};
use crate::wire::bundle_from_proto;

/// How long the control plane may take to answer one call.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Neither a saved identity nor a proof.
    #[error(
        "{subject} has no saved identity in {} and no join token; make one and give it with --join-token, or prove by what this machine has: \
         --attest-cert or --attest-jwt", .folder.display()
    )]
    NoJoinToken {
        /// Who starts.
        subject: Subject,
        /// Where its identity would be saved.
        folder: PathBuf,
    },
    /// The control plane cannot be reached; trying again may help.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The control plane said no.
    #[error("the control plane refused {subject}: {why}")]
    Refused {
        /// For whom.
        subject: Subject,
        /// Its own words.
        why: String,
    },
    /// The control plane cannot answer at present; trying again may help.
    #[error("the control plane did not issue an identity: {0}")]
    Unavailable(String),
    /// The control plane issued something else than was asked for.
    #[error("the control plane issued an identity that this workload cannot use: {0}")]
    Unusable(String),
    /// There is nothing left to prove by who this is.
    #[error("the identity has expired; start this workload again with a new join token")]
    Expired,
    /// What this machine is to prove by cannot be used.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// The key of this machine cannot be used.
    #[error("the key of this machine cannot be used: {0}")]
    Machine(io::Error),
    /// The key could not be made.
    #[error(transparent)]
    Key(#[from] CaError),
    /// The identity could not be saved.
    #[error("cannot save the identity to {}: {source}", .folder.display())]
    Save {
        /// Where.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl IdentityError {
    /// Whether the same attempt may succeed later.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::Unavailable(_))
    }

    pub(crate) fn from_status(subject: &Subject, status: &Status) -> Self {
        match status.code() {
            Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated | Code::Unimplemented => {
                Self::Refused { subject: subject.clone(), why: status.message().to_owned() }
            }
            _ => Self::Unavailable(match std::error::Error::source(status) {
                Some(source) => root_cause(source),
                None => status.message().to_owned(),
            }),
        }
    }
}

impl From<SvidError> for IdentityError {
    fn from(error: SvidError) -> Self {
        Self::Unusable(error.to_string())
    }
}

impl From<PeerError> for IdentityError {
    fn from(error: PeerError) -> Self {
        Self::Unusable(error.to_string())
    }
}

/// What a workload needs to get its identity.
#[derive(Clone, Debug)]
pub struct IdentityConfig {
    /// The control plane, `host:port`; of several, all of them with commas between, in the order in which they are tried.
    pub server: String,
    /// Which service this is, or which agent.
    pub subject: Subject,
    /// `Node.id` of this workload's xDS streams, so that the control plane can say whose certificate has run out. May be empty.
    pub node_id: String,
    /// For the first time, or when the saved identity has expired and the key of this machine is refused.
    pub proof: Option<Proof>,
    /// Where the identity is kept: a folder of this workload's own, made with mode 0700.
    pub state_dir: PathBuf,
}

/// An identity fresh from the control plane, checked.
#[derive(Debug)]
pub struct Obtained {
    /// Certificate and key.
    pub svid: Svid,
    /// What to verify peers by.
    pub bundle: TrustBundle,
    /// When it came.
    pub issued_at: SystemTime,
}

impl Obtained {
    /// As the identity from nothing: the bundle is what the join token's server says.
    pub(crate) fn publish(self, live: &LiveIdentity) -> SystemTime {
        live.set(self.svid, self.bundle);
        self.issued_at
    }

    /// As the next of the same identity: a newer bundle may have come meanwhile.
    pub(crate) fn succeed(self, live: &LiveIdentity) -> SystemTime {
        live.renew(self.svid, self.bundle);
        self.issued_at
    }
}

/// Exchanges a join token for an identity, once. `Identity::start` is this with patience, saving and renewal.
pub async fn attest(server: &str, service: &ServiceName, token: &JoinToken) -> Result<Obtained, IdentityError> {
    let subject = service.clone().into();
    let request = KeyRequest::new()?;
    of_any(server, |server| attest_at(server, &subject, "", token, None, &request)).await
}

/// Asks one control plane after the other, until one says yes or no.
pub(crate) async fn of_any<'a, T, F>(servers: &'a str, ask: impl Fn(&'a str) -> F) -> Result<T, IdentityError>
where
    F: Future<Output = Result<T, IdentityError>>,
{
    let mut errors = Vec::new();
    for server in each(servers) {
        match ask(server).await {
            Err(error) if error.is_passing() => errors.push(error),
            result => return result,
        }
    }
    match <[IdentityError; 1]>::try_from(errors) {
        Ok([error]) => Err(error),
        Err(errors) => {
            Err(IdentityError::Unavailable(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))
        }
    }
}

/// Exchanges a proof for an identity, as `node_id` and by a key that may have been sent before; the machine is enrolled with its key.
pub(crate) async fn attest_for(
    servers: &str,
    subject: &Subject,
    node_id: &str,
    proof: &Proof,
    machine: &MachineKey,
    request: &KeyRequest,
) -> Result<Obtained, IdentityError> {
    match proof {
        Proof::Token(token) => {
            of_any(servers, |server| attest_at(server, subject, node_id, token, Some(machine), request)).await
        }
        Proof::Node(proof) => {
            of_any(servers, |server| attest_node_at(server, subject, node_id, proof, machine, request)).await
        }
    }
}

async fn attest_node_at(
    server: &str,
    subject: &Subject,
    node_id: &str,
    proof: &NodeProof,
    machine: &MachineKey,
    request: &KeyRequest,
) -> Result<Obtained, IdentityError> {
    let (channel, binding, root) = connect_rooted(server, proof.roots()?).await?;
    let signed = machine.sign(&binding, subject, &request.csr).map_err(IdentityError::Machine)?;
    let mut question = question(subject, node_id, request, Some(signed));
    proof.add_to(&mut question, &binding, subject, machine)?;
    ask(channel, question, subject, request, root.trust_domain()).await
}

/// What is asked, without a proof.
fn question(
    subject: &Subject,
    node_id: &str,
    request: &KeyRequest,
    machine: Option<proto::Machine>,
) -> proto::AttestRequest {
    proto::AttestRequest {
        service: subject.to_string(),
        csr: request.csr.clone(),
        node_id: node_id.to_owned(),
        machine,
        ..Default::default()
    }
}

async fn attest_at(
    server: &str,
    subject: &Subject,
    node_id: &str,
    token: &JoinToken,
    machine: Option<&MachineKey>,
    request: &KeyRequest,
) -> Result<Obtained, IdentityError> {
    let (channel, binding, root) = connect_pinned(server, token).await?;
    let machine = machine.map(|machine| machine.sign(&binding, subject, &request.csr)).transpose();
    let question = question(subject, node_id, request, machine.map_err(IdentityError::Machine)?);
    let question = proto::AttestRequest { join_token: token.text(), ..question };
    let obtained = ask(channel, question, subject, request, root.trust_domain()).await?;
    if !obtained.bundle.roots().iter().any(|root| is_pinned(root, &token.pin())) {
        return Err(IdentityError::Unusable("its bundle lacks the root that the join token names".into()));
    }
    Ok(obtained)
}

/// Comes back by the machine's key, with nothing else than a bundle from before.
pub(crate) async fn come_back(
    config: &IdentityConfig,
    bundle: Arc<TrustBundle>,
    machine: &MachineKey,
    request: &KeyRequest,
) -> Result<Obtained, IdentityError> {
    of_any(&config.server, |server| come_back_to(server, config, bundle.clone(), machine, request)).await
}

async fn come_back_to(
    server: &str,
    config: &IdentityConfig,
    bundle: Arc<TrustBundle>,
    machine: &MachineKey,
    request: &KeyRequest,
) -> Result<Obtained, IdentityError> {
    let domain = bundle.trust_domain().clone();
    let (channel, binding) = connect_by_bundle(server, bundle).await?;
    let proof = machine.sign(&binding, &config.subject, &request.csr).map_err(IdentityError::Machine)?;
    let question = question(&config.subject, &config.node_id, request, Some(proof));
    ask(channel, question, &config.subject, request, &domain).await
}

async fn ask(
    channel: Channel,
    question: proto::AttestRequest,
    subject: &Subject,
    request: &KeyRequest,
    domain: &TrustDomain,
) -> Result<Obtained, IdentityError> {
    let mut call = tonic::Request::new(question);
    call.set_timeout(CALL_TIMEOUT);
    let answer = IdentityClient::new(channel).attest(call).await;
    let answer = answer.map_err(|status| IdentityError::from_status(subject, &status))?.into_inner();
    check(answer, request, &SpiffeId::of(domain, subject))
}

/// Exchanges the present identity for the next.
pub(crate) async fn renew(
    config: &IdentityConfig,
    live: &Arc<LiveIdentity>,
    id: &SpiffeId,
) -> Result<Obtained, IdentityError> {
    of_any(&config.server, |server| renew_at(server, config, live, id)).await
}

async fn renew_at(
    server: &str,
    config: &IdentityConfig,
    live: &Arc<LiveIdentity>,
    id: &SpiffeId,
) -> Result<Obtained, IdentityError> {
    let request = KeyRequest::new()?;
    let channel = connect(server, live).await?;
    let mut call =
        tonic::Request::new(proto::RenewRequest { csr: request.csr.clone(), node_id: config.node_id.clone() });
    call.set_timeout(CALL_TIMEOUT);
    let answer = IdentityClient::new(channel).renew(call).await;
    let answer = answer.map_err(|status| IdentityError::from_status(&config.subject, &status))?.into_inner();
    check(answer, &request, id)
}

/// A workload does not take what its peers would refuse: the answer must be for its key and its name, and verify.
pub(crate) fn check(
    answer: proto::SvidResponse,
    request: &KeyRequest,
    id: &SpiffeId,
) -> Result<Obtained, IdentityError> {
    let bundle = answer.bundle.ok_or_else(|| IdentityError::Unusable("it came without a bundle".into()))?;
    let bundle = bundle_from_proto(bundle).map_err(IdentityError::Unusable)?;
    let svid = Svid::from_der(answer.chain.into_iter().map(CertificateDer::from).collect(), &request.key)?;
    if svid.id() != id {
        return Err(IdentityError::Unusable(format!("it is for {}, not for {id}", svid.id())));
    }
    verify_own(&svid, &bundle)?;
    Ok(Obtained { svid, bundle, issued_at: SystemTime::now() })
}

/// A workload uses nothing that its peers would refuse.
pub(crate) fn verify_own(svid: &Svid, bundle: &TrustBundle) -> Result<(), PeerError> {
    let [leaf, rest @ ..] = svid.chain() else { return Err(PeerError::NoCertificate) };
    peer::verify(bundle, None, leaf, rest, UnixTime::now(), Role::Server)?;
    peer::verify(bundle, None, leaf, rest, UnixTime::now(), Role::Client).map(drop)
}
