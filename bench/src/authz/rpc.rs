//! What a check of ext_authz costs a server, beside a plain tonic server that answers OK without deciding: the CPU time of the server
//! alone, over a Unix socket, asked by the same client in turns.
//!
//! Every check is decided by evaluation: each comes from another address, which policies read, so none is remembered.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address, socket_address::PortSpecifier};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{
    HttpRequest, Peer, Request as Attributes, TlsSession,
};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::authorization_server::{Authorization, AuthorizationServer};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use weft_authz::ExtAuthz;
use weft_model::SpiffeId;
use weft_policy::Engine;
use weft_tests::process::Process;
use weft_tests::wait;

use super::mix;
use crate::meter;
use crate::spread::median;

/// Policies of the service that is asked about.
const POLICIES: usize = 1_000;
/// Connections, as of so many Envoys, and checks under way on each.
const CONNECTIONS: usize = 8;
const AT_ONCE: usize = 8;
/// Threads of a server.
const THREADS: usize = 2;

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Who {
    /// Weft's ext_authz.
    Weft,
    /// A server that answers OK without deciding.
    Plain,
}

/// Checks per second of CPU, the median of the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Checks {
    pub(crate) weft: f64,
    pub(crate) plain: f64,
}

impl Checks {
    /// What is left of a plain server's checks.
    pub(crate) fn ratio(&self) -> f64 {
        self.weft / self.plain
    }
}

/// Asks both in turns, so many checks each a round.
pub(crate) fn measure(rounds: usize, checks: usize) -> Result<Checks> {
    let folder = tempfile::Builder::new().prefix("weft-bench-").tempdir()?;
    let servers = [Who::Weft, Who::Plain].map(|who| (who, Server::start(folder.path(), who)));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let calls = Arc::new(mix::calls(POLICIES, 5_000));
    let mut asked = 0;
    let mut seen = [Vec::new(), Vec::new()];
    // The first round is for warming up.
    for round in 0..=rounds {
        for turn in 0..servers.len() {
            let at = (round + turn) % servers.len();
            let (who, server) = &servers[at];
            let before = meter::cpu(server.process.id())?;
            let allowed = runtime.block_on(ask(&server.socket, &calls, asked, checks))?;
            let used = meter::cpu(server.process.id())? - before;
            asked += checks;
            let expected = match who {
                Who::Weft => allowed > checks / 20 && allowed < checks,
                Who::Plain => allowed == checks,
            };
            ensure!(expected, "{who:?} allowed {allowed} of {checks} checks: that is not what is to be measured");
            if round > 0 {
                seen[at].push(checks as f64 / used.as_secs_f64());
            }
        }
    }
    Ok(Checks { weft: median(&seen[0]), plain: median(&seen[1]) })
}

struct Server {
    socket: PathBuf,
    process: Process,
}

impl Server {
    fn start(folder: &Path, who: Who) -> Self {
        let name = if who == Who::Weft { "weft" } else { "plain" };
        let socket = folder.join(format!("{name}.sock"));
        let program = std::env::current_exe().expect("a process knows its program");
        let args = ["authz-server", "--who", name, "--socket", &socket.display().to_string()].map(str::to_owned);
        let process = Process::start(folder, name, program, args, &[]);
        wait::until("the server to listen", wait::SOON, || std::os::unix::net::UnixStream::connect(&socket));
        Self { socket, process }
    }
}

/// Sends the checks; how many were allowed.
async fn ask(socket: &Path, calls: &Arc<Vec<mix::Call>>, from: usize, checks: usize) -> Result<usize> {
    let mut tasks = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let channel = connect(socket).await?;
        for lane in 0..AT_ONCE {
            let (mut client, calls) = (AuthorizationClient::new(channel.clone()), calls.clone());
            let first = connection * AT_ONCE + lane;
            tasks.spawn(async move {
                let mut allowed = 0;
                for number in (first..checks).step_by(CONNECTIONS * AT_ONCE) {
                    let response = client.check(check(&calls[number % calls.len()], from + number)).await?.into_inner();
                    allowed += usize::from(response.status.is_some_and(|status| status.code == 0));
                }
                Ok::<_, Status>(allowed)
            });
        }
    }
    let mut allowed = 0;
    while let Some(done) = tasks.join_next().await {
        allowed += done??;
    }
    Ok(allowed)
}

async fn connect(socket: &Path) -> Result<Channel> {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Ok(Endpoint::from_static("http://authz").connect_with_connector(connector).await?)
}

/// A check as an ingress Envoy sends it.
fn check(call: &mix::Call, number: usize) -> CheckRequest {
    let request = call.request();
    let [_, net, ..] = match request.source_ip {
        Some(std::net::IpAddr::V4(ip)) => ip.octets(),
        _ => [0; 4],
    };
    let source = Ipv4Addr::new(10, net, (number >> 8) as u8, number as u8);
    let headers = [
        (":authority", request.host),
        (":method", request.method),
        (":path", request.path),
        (":scheme", "http"),
        ("accept", "application/json"),
        ("accept-encoding", "gzip, br"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"),
        ("user-agent", "shop-client/1.4 (linux)"),
        (
            "x-forwarded-client-cert",
            "By=spiffe://acme.internal/ns/shop/sa/api;Hash=4bf92f3577b34da6a3ce929d0e0e47364bf92f3577b34da6a3ce929d0e0e4736;URI=spiffe://acme.internal/ns/team1/sa/service1",
        ),
        ("x-forwarded-proto", "http"),
        ("x-request-id", "7d7f1d0c-4a55-4c1e-9a4e-3d5a3e6f8f11"),
    ];
    let http = HttpRequest {
        id: number.to_string(),
        method: request.method.to_owned(),
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        path: request.path.to_owned(),
        host: request.host.to_owned(),
        scheme: "http".to_owned(),
        size: -1,
        protocol: "HTTP/2".to_owned(),
        ..Default::default()
    };
    let caller = request.principal.as_str();
    let callee = weft_policy::testing::id(mix::callee());
    CheckRequest {
        attributes: Some(AttributeContext {
            source: peer(caller, source),
            destination: peer(callee.as_str(), Ipv4Addr::new(10, 0, 0, 7)),
            request: Some(Attributes { http: Some(http), ..Default::default() }),
            tls_session: Some(TlsSession { sni: "outbound_.8080_._.api.shop".to_owned() }),
            ..Default::default()
        }),
    }
}

fn peer(principal: &str, ip: Ipv4Addr) -> Option<Peer> {
    let socket = SocketAddress {
        address: ip.to_string(),
        port_specifier: Some(PortSpecifier::PortValue(40_000)),
        ..Default::default()
    };
    let address = Some(Address { address: Some(address::Address::SocketAddress(socket)) });
    Some(Peer { principal: principal.to_owned(), address, ..Default::default() })
}

/// Answers OK.
struct Plain;

#[tonic::async_trait]
impl Authorization for Plain {
    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let status = Some(envoy_types::pb::google::rpc::Status::default());
        Ok(Response::new(CheckResponse { status, ..Default::default() }))
    }
}

/// The other process: serves until it is killed.
pub(crate) fn serve(who: Who, socket: &Path) -> Result<()> {
    let runtime: Runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    runtime.block_on(async {
        let listener = UnixListener::bind(socket).with_context(|| format!("listening on {}", socket.display()))?;
        let connections = UnixListenerStream::new(listener);
        let mut builder = weft_xds::server_builder();
        match who {
            Who::Plain => builder.add_service(AuthorizationServer::new(Plain)).serve_with_incoming(connections).await?,
            Who::Weft => {
                let engine = Arc::new(Engine::new(&mix::bundle(&mix::intent(POLICIES)))?);
                let source = move |_: Option<&SpiffeId>| Some(engine.clone());
                builder.add_service(ExtAuthz::new(source).into_service()).serve_with_incoming(connections).await?;
            }
        }
        bail!("the server ended")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_comes_from_an_address_of_its_own_and_keeps_the_calls_network() {
        let calls = mix::calls(1_000, 2);
        let source = |number: usize| {
            let check = check(&calls[0], number);
            let peer = check.attributes.expect("attributes").source.expect("a source");
            let Some(address::Address::SocketAddress(socket)) = peer.address.and_then(|a| a.address) else { panic!() };
            socket.address.parse::<Ipv4Addr>().expect("an address").octets()
        };
        assert_ne!(source(1), source(257));
        assert_eq!(source(1)[..2], source(65_535)[..2]);
    }

    #[test]
    fn the_ratio_is_of_weft() {
        assert_eq!(Checks { weft: 30.0, plain: 40.0 }.ratio(), 0.75);
    }
}
