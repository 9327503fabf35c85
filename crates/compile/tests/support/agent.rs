//! The agent's Unix socket as an Envoy sees it: ADS (delta), SDS and ext_authz. Serves one snapshot and allows every call but
//! those under `/denied`, and TCP from `prod/board`. It fails at `/broken` and says nothing to `/silent`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::config::core::v3::{DataSource, HeaderValue, HeaderValueOption, data_source::Specifier};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, DeniedHttpResponse, check_response::HttpResponse,
};
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use envoy_types::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use envoy_types::pb::google::rpc;
use envoy_types::util::pack_any;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream, UnixListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use weft_xds::Snapshot;

use super::pki::Svid;

type Reply<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What an agent was asked and told.
#[derive(Default)]
pub struct Seen {
    pub refusals: Vec<String>,
    pub checks: Vec<CheckRequest>,
}

#[derive(Clone)]
pub struct Agent {
    snapshot: Arc<Snapshot>,
    svid: Arc<Svid>,
    seen: Arc<Mutex<Seen>>,
    pub socket: PathBuf,
}

impl Agent {
    /// Serves on the runtime: when that ends, the socket is dead.
    pub fn start(folder: &Path, snapshot: Snapshot, svid: Svid, runtime: &Runtime) -> Self {
        let agent = Self {
            snapshot: Arc::new(snapshot),
            svid: Arc::new(svid),
            seen: Arc::default(),
            socket: folder.join("agent.sock"),
        };
        let _inside = runtime.enter();
        let incoming = UnixListenerStream::new(UnixListener::bind(&agent.socket).unwrap());
        let server = tonic::transport::Server::builder()
            .add_service(AggregatedDiscoveryServiceServer::new(agent.clone()))
            .add_service(SecretDiscoveryServiceServer::new(agent.clone()))
            .add_service(AuthorizationServer::new(agent.clone()));
        runtime.spawn(server.serve_with_incoming(incoming));
        agent
    }

    /// The authorization service alone, on a port: a gRPC app like any other.
    pub async fn serve_authorization_at(address: SocketAddr) {
        let svid = Svid { certificate: String::new(), key: String::new(), bundle: String::new() };
        let app = Self { snapshot: Arc::default(), svid: Arc::new(svid), seen: Arc::default(), socket: PathBuf::new() };
        let incoming = TcpListenerStream::new(TcpListener::bind(address).await.unwrap());
        let server = tonic::transport::Server::builder().add_service(AuthorizationServer::new(app));
        tokio::spawn(server.serve_with_incoming(incoming));
    }

    pub fn refusals(&self) -> Vec<String> {
        self.seen.lock().unwrap().refusals.clone()
    }

    pub fn checks(&self) -> Vec<CheckRequest> {
        self.seen.lock().unwrap().checks.clone()
    }

    fn answer(&self, request: &DeltaDiscoveryRequest) -> Option<DeltaDiscoveryResponse> {
        if let Some(error) = &request.error_detail {
            self.seen.lock().unwrap().refusals.push(format!("{}: {}", request.type_url, error.message));
        }
        let names = &request.resource_names_subscribe;
        let first = request.response_nonce.is_empty();
        if !first && names.is_empty() {
            return None;
        }
        let all = self.snapshot.get(&request.type_url);
        let everything = (first && names.is_empty()) || names.iter().any(|name| name == "*");
        let wanted = all.values().filter(|one| everything || names.iter().any(|name| **name == *one.name));
        let resources = wanted.map(|one| Resource {
            name: one.name.to_string(),
            version: one.version.to_string(),
            resource: Some(one.any.clone()),
            ..Default::default()
        });
        let missing = names.iter().filter(|name| *name != "*" && !all.contains_key(name.as_str()));
        Some(DeltaDiscoveryResponse {
            resources: resources.collect(),
            removed_resources: missing.cloned().collect(),
            type_url: request.type_url.clone(),
            nonce: "1".to_owned(),
            ..Default::default()
        })
    }

    fn secret(&self, name: &str) -> Option<Secret> {
        let inline = |pem: &str| {
            Some(DataSource { specifier: Some(Specifier::InlineString(pem.to_owned())), ..Default::default() })
        };
        let kind = match name {
            "default" => secret::Type::TlsCertificate(TlsCertificate {
                certificate_chain: inline(&self.svid.certificate),
                private_key: inline(&self.svid.key),
                ..Default::default()
            }),
            name if name == "ROOTCA" || name.starts_with("spiffe://") => {
                secret::Type::ValidationContext(CertificateValidationContext {
                    trusted_ca: inline(&self.svid.bundle),
                    ..Default::default()
                })
            }
            _ => return None,
        };
        Some(Secret { name: name.to_owned(), r#type: Some(kind) })
    }
}

/// Answers each request for which `answer` has something.
fn converse<Q: Send + 'static, A: Send + 'static>(
    request: Request<Streaming<Q>>,
    answer: impl Fn(&Q) -> Option<A> + Send + 'static,
) -> Response<Reply<A>> {
    let (replies, stream) = mpsc::channel(16);
    let mut requests = request.into_inner();
    tokio::spawn(async move {
        while let Some(Ok(request)) = requests.next().await {
            if let Some(reply) = answer(&request)
                && replies.send(Ok(reply)).await.is_err()
            {
                break;
            }
        }
    });
    Response::new(Box::pin(ReceiverStream::new(stream)))
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Agent {
    type StreamAggregatedResourcesStream = Reply<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Reply<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("delta only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let agent = self.clone();
        Ok(converse(request, move |request| agent.answer(request)))
    }
}

#[tonic::async_trait]
impl SecretDiscoveryService for Agent {
    type StreamSecretsStream = Reply<DiscoveryResponse>;
    type DeltaSecretsStream = Reply<DeltaDiscoveryResponse>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let agent = self.clone();
        Ok(converse(request, move |request: &DiscoveryRequest| {
            if let Some(error) = &request.error_detail {
                agent.seen.lock().unwrap().refusals.push(format!("SDS: {}", error.message));
            }
            request.response_nonce.is_empty().then(|| DiscoveryResponse {
                version_info: "1".to_owned(),
                nonce: "1".to_owned(),
                type_url: request.type_url.clone(),
                resources: request.resource_names.iter().filter_map(|name| agent.secret(name)).map(pack_any).collect(),
                ..Default::default()
            })
        }))
    }

    async fn delta_secrets(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented("state of the world only"))
    }

    async fn fetch_secrets(&self, _: Request<DiscoveryRequest>) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("streams only"))
    }
}

#[tonic::async_trait]
impl Authorization for Agent {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let request = request.into_inner();
        let about = request.attributes.clone().unwrap_or_default();
        match about.request.as_ref().and_then(|request| request.http.as_ref()).map(|http| &*http.path) {
            Some("/broken") => return Err(Status::internal("broken")),
            Some("/silent") => std::future::pending().await,
            _ => {}
        }
        let denied = match about.request.and_then(|request| request.http) {
            Some(http) => http.path.starts_with("/denied"),
            None => about.source.is_some_and(|source| source.principal.ends_with("/sa/board")),
        };
        let text = |value: &str| Value { kind: Some(Kind::StringValue(value.to_owned())) };
        let facts = [
            ("decision", if denied { "deny" } else { "allow" }),
            ("decision_id", "d1"),
            ("policy", "policies/x.cedar:3"),
        ];
        let fields = facts.into_iter().map(|(key, value)| (key.to_owned(), text(value))).collect();
        let header = HeaderValue {
            key: "content-type".to_owned(),
            value: "application/problem+json".to_owned(),
            ..Default::default()
        };
        let refusal = DeniedHttpResponse {
            status: Some(HttpStatus { code: 403 }),
            headers: vec![HeaderValueOption { header: Some(header), ..Default::default() }],
            body: r#"{"type":"urn:weft:problem:denied","status":403,"decision_id":"d1"}"#.to_owned(),
        };
        self.seen.lock().unwrap().checks.push(request);
        Ok(Response::new(CheckResponse {
            status: Some(rpc::Status { code: if denied { 7 } else { 0 }, ..Default::default() }),
            http_response: denied.then_some(HttpResponse::DeniedResponse(refusal)),
            dynamic_metadata: Some(Struct { fields }),
        }))
    }
}
