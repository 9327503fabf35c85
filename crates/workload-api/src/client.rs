//! The other end of the API: a process that takes its own identity from whoever keeps it here, an agent of ours or of another SPIFFE
//! implementation.
//!
//! Each message is complete (Workload API s.4.3), so what is put in force is always made of the last ones of both streams. What is only
//! missing at present takes nothing away, nor does a message that lacks what it must have (s.4.5); `PERMISSION_DENIED` does (s.5.2, s.6.1).

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint as Http};
use tonic::{Code, Request, Status};
use weft_identity::certificate::split;
use weft_identity::{Federated, JwtBundle, LiveIdentity, Svid, SvidError, TrustBundle, schedule};
use weft_model::{ServiceName, SpiffeId, TrustDomain};

use crate::endpoint::Endpoint;
use crate::listen::Bytes;
use crate::proto;
use crate::proto::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use crate::service::SECURITY_HEADER;

/// Stands in for the life of a certificate: back-off goes up to 5 s.
const LIFE: Duration = Duration::from_secs(100);
/// More bytes in one message are refused: certificates of some hundred identities and trust domains.
const MAX_MESSAGE: usize = 4 << 20;

/// A client that sends the security header with each call (Workload Endpoint s.3).
pub type Client = SpiffeWorkloadApiClient<InterceptedService<Channel, fn(Request<()>) -> Result<Request<()>, Status>>>;

/// Connects to an endpoint.
///
/// # Errors
/// Nothing answers there.
pub async fn connect(endpoint: &Endpoint) -> Result<Client, tonic::transport::Error> {
    let dialled = endpoint.clone();
    let dial = tower::service_fn(move |_| dial(dialled.clone()));
    let channel = Http::from_static("http://localhost").connect_with_connector(dial).await?;
    let client = SpiffeWorkloadApiClient::with_interceptor(channel, header as fn(_) -> _);
    Ok(client.max_decoding_message_size(MAX_MESSAGE))
}

async fn dial(endpoint: Endpoint) -> io::Result<TokioIo<Box<dyn Bytes>>> {
    let bytes: Box<dyn Bytes> = match endpoint {
        Endpoint::Unix(path) => Box::new(UnixStream::connect(path).await?),
        Endpoint::Tcp(address) => Box::new(TcpStream::connect(address).await?),
    };
    Ok(TokioIo::new(bytes))
}

fn header(mut request: Request<()>) -> Result<Request<()>, Status> {
    request.metadata_mut().insert(SECURITY_HEADER, MetadataValue::from_static("true"));
    Ok(request)
}

/// Keeps an identity up to date until this is dropped.
#[derive(Debug)]
pub struct Provided(AbortHandle);

impl Drop for Provided {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Puts the identity of `service` into `live`, now and after each change, for as long as what is returned is kept. Waits until there is one,
/// however long that takes: somebody may yet say that this process has it.
///
/// # Errors
/// Waiting would not help: what answers there does not speak the Workload API.
pub async fn provide(endpoint: Endpoint, service: ServiceName, live: Arc<LiveIdentity>) -> Result<Provided, Status> {
    let (wanted, at) = (service.clone(), endpoint.to_string());
    let mut keeping = tokio::spawn(keep(endpoint, service, live.clone()));
    let provided = Provided(keeping.abort_handle());
    tokio::select! {
        () = live.ready() => Ok(provided),
        ended = &mut keeping => Err(ended.unwrap_or_else(|error| Status::internal(format!("{wanted} from {at}: {error}")))),
    }
}

/// Returns only when trying again is of no use (s.4.4, Workload API s.5.3).
async fn keep(endpoint: Endpoint, service: ServiceName, live: Arc<LiveIdentity>) -> Status {
    let mut failures = 0;
    loop {
        let mut kept = Kept { service: &service, live: &live, x509: None, jwt: HashMap::new(), came: false };
        let status = match connect(&endpoint).await {
            Ok(client) => kept.follow(client).await,
            Err(error) => Status::unavailable(cause(&error)),
        };
        failures = if kept.came { 1 } else { failures + 1 };
        match status.code() {
            Code::InvalidArgument | Code::Unimplemented if live.load().svid().is_none() => return status,
            Code::PermissionDenied => {
                if failures == 1 || live.load().svid().is_some() {
                    let why = status.message();
                    tracing::warn!(%endpoint, %service, why, "this process has no identity there; trying on");
                }
                live.take_away();
            }
            _ if failures == 1 => {
                let why = status.message();
                tracing::warn!(%endpoint, %service, why, "the Workload API says nothing for now; trying on");
            }
            _ => tracing::debug!(%endpoint, %status, failures, "still nothing from the Workload API"),
        }
        tokio::time::sleep(schedule::backoff(failures, LIFE, rand::random())).await;
    }
}

/// What the streams have said.
struct Kept<'a> {
    service: &'a ServiceName,
    live: &'a LiveIdentity,
    x509: Option<proto::X509svidResponse>,
    jwt: HashMap<TrustDomain, Vec<u8>>,
    came: bool,
}

impl Kept<'_> {
    /// Until the stream of certificates ends; that of the keys for tokens may be missing.
    async fn follow(&mut self, mut client: Client) -> Status {
        let mut x509 = match client.fetch_x509svid(proto::X509svidRequest {}).await {
            Ok(stream) => stream.into_inner(),
            Err(status) => return status,
        };
        let (sender, mut keys) = mpsc::channel(1);
        let mut following = pin!(follow_keys(client, sender));
        loop {
            let put = tokio::select! {
                message = x509.message() => match message {
                    Ok(Some(message)) => is_whole(&message).and_then(|()| {
                        self.x509 = Some(message);
                        self.put()
                    }),
                    Ok(None) => return Status::unavailable("the stream ended"),
                    Err(status) => return status,
                },
                Some(message) = keys.recv() => {
                    let named = |(id, jwks): (String, Vec<u8>)| Some((domain(&id)?, jwks));
                    self.jwt = message.bundles.into_iter().filter_map(named).collect();
                    self.put()
                }
                never = &mut following => match never {},
            };
            if let Err(status) = put {
                return status;
            }
        }
    }

    /// Puts it in force, once the certificates are there.
    fn put(&mut self) -> Result<(), Status> {
        let Some(message) = &self.x509 else { return Ok(()) };
        let is_wanted = |svid: &&proto::X509svid| {
            svid.spiffe_id.parse::<SpiffeId>().is_ok_and(|id| id.service().as_ref() == Some(self.service))
        };
        let Some(svid) = message.svids.iter().find(is_wanted) else {
            let ids: Vec<_> = message.svids.iter().map(|svid| svid.spiffe_id.as_str()).collect();
            let why = format!("it is {}, and not {}", ids.join(", "), self.service);
            return Err(Status::permission_denied(why));
        };
        let (svid, bundle, federated) = self
            .read(svid, message)
            .map_err(|error| Status::data_loss(format!("what it has for {} is of no use: {error}", svid.spiffe_id)))?;
        let (id, serial) = (svid.id().clone(), svid.serial().to_owned());
        let before = self.live.load().svid().map(|svid| svid.serial().to_owned());
        self.live.provide(svid, bundle, federated);
        self.came = true;
        if before.as_ref() != Some(&serial) {
            tracing::info!(%id, serial, "an identity came from the Workload API");
        }
        Ok(())
    }

    fn read(
        &self,
        svid: &proto::X509svid,
        message: &proto::X509svidResponse,
    ) -> Result<(Svid, TrustBundle, Federated), SvidError> {
        let own = Svid::from_der(split(&svid.x509_svid)?, &svid.x509_svid_key)?;
        let bundle = self.bundle(own.id().trust_domain(), &svid.bundle)?;
        let others = message.federated_bundles.iter().filter_map(|(id, roots)| Some((domain(id)?, roots)));
        let others: Result<Vec<_>, _> = others.map(|(domain, roots)| self.bundle(domain, roots)).collect();
        Ok((own, bundle, Federated::new(others?)))
    }

    fn bundle(&self, domain: TrustDomain, roots: &[u8]) -> Result<TrustBundle, SvidError> {
        let keys = match self.jwt.get(&domain) {
            Some(jwks) => JwtBundle::read(domain.clone(), jwks)
                .map_err(|why| SvidError::Bundle(domain.clone(), why))?
                .keys()
                .to_vec(),
            None => Vec::new(),
        };
        TrustBundle::new(domain, split(roots)?)?.with_jwt_keys(keys)
    }
}

/// Gives each message with keys for tokens, and opens the stream again whenever it ends. Where there is none, there are no keys.
async fn follow_keys(mut client: Client, sender: mpsc::Sender<proto::JwtBundlesResponse>) -> Infallible {
    let mut failures = 0;
    loop {
        failures += 1;
        let ended = match client.fetch_jwt_bundles(proto::JwtBundlesRequest {}).await {
            Ok(stream) => {
                let mut stream = stream.into_inner();
                loop {
                    match stream.message().await {
                        // A mandatory field has its default: the message does not count (s.4.5).
                        Ok(Some(message)) if message.bundles.is_empty() => {
                            tracing::warn!("a message of keys for tokens without any bundle is passed over");
                        }
                        Ok(Some(message)) => {
                            failures = 0;
                            let _ = sender.send(message).await; // both ends go together
                        }
                        Ok(None) => break Status::unavailable("the stream ended"),
                        Err(status) => break status,
                    }
                }
            }
            Err(status) => status,
        };
        if matches!(ended.code(), Code::InvalidArgument | Code::Unimplemented) {
            tracing::info!(why = ended.message(), "no keys for tokens are had from there");
            return std::future::pending().await;
        }
        tokio::time::sleep(schedule::backoff(failures.max(1), LIFE, rand::random())).await;
    }
}

/// Whether a message has all that it must have.
fn is_whole(message: &proto::X509svidResponse) -> Result<(), Status> {
    let lacks = |what: &str| Err(Status::data_loss(format!("a message without {what} is dropped")));
    if message.svids.is_empty() {
        return lacks("svids");
    }
    for svid in &message.svids {
        let fields = [
            ("spiffe_id", svid.spiffe_id.is_empty()),
            ("x509_svid", svid.x509_svid.is_empty()),
            ("x509_svid_key", svid.x509_svid_key.is_empty()),
            ("bundle", svid.bundle.is_empty()),
        ];
        if let Some((field, _)) = fields.iter().find(|(_, is_empty)| *is_empty) {
            return lacks(field);
        }
    }
    Ok(())
}

/// A trust domain as the API names one: by its SPIFFE ID.
fn domain(id: &str) -> Option<TrustDomain> {
    id.strip_prefix("spiffe://").unwrap_or(id).parse().ok()
}

/// The innermost cause: the layers around it say nothing.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
