//! A real Envoy: found, started with our bootstrap, stopped at the end of the test.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::{Address, Http2ProtocolOptions, Pipe, address};
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::explicit_http_config::ProtocolConfig;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions,
};
use envoy_types::util::pack_any;
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use weft_compile::bootstrap::{Bootstrap, envoy};
use weft_compile::{AGENT_CLUSTER, CompiledMesh, EndpointSet, Proxy, compile};
use weft_model::SpiffeId;

use super::agent::Agent;
use super::pki::Ca;
use super::{client, text};

/// `WEFT_ENVOY`, or the one that `make test` installs. Without either the reason is printed and the test has nothing to do.
pub fn find() -> Option<PathBuf> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/envoy");
    let path = std::env::var_os("WEFT_ENVOY").map_or(installed, PathBuf::from);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: no Envoy at {} (set WEFT_ENVOY, or run `make test`, which installs one)", path.display());
    None
}

/// What Envoy says to a configuration without running it.
pub fn validate(envoy: &Path, config: &Path) -> Output {
    Command::new(envoy).args(["--mode", "validate", "--log-level", "warn", "-c"]).arg(config).output().unwrap()
}

/// One sidecar: an Envoy and the stub of its agent.
pub struct Sidecar {
    pub proxy: Proxy,
    pub agent: Agent,
    pub admin: SocketAddr,
    pub access_log: PathBuf,
    pub log: PathBuf,
    process: Child,
    runtime: Mutex<Option<Runtime>>,
    _folder: tempfile::TempDir,
}

impl Sidecar {
    /// Starts it and waits until it has its listeners.
    pub async fn start(binary: &Path, ca: &Ca, mesh: &CompiledMesh, endpoints: &EndpointSet, proxy: Proxy) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let access_log = folder.path().join("access.log");
        let proxy = Proxy { access_log: access_log.to_str().unwrap().to_owned(), ..proxy };
        let svid = ca.issue(SpiffeId::for_service(&mesh.intent().mesh.trust_domain, &proxy.service).as_str());
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let agent = Agent::start(folder.path(), compile(mesh, endpoints, &proxy), svid, &runtime);
        let admin = super::free();
        let config = envoy(&Bootstrap {
            node_id: format!("{}~test", proxy.service),
            service: proxy.service.clone(),
            metadata: json!({"weft": {"service": proxy.service, "labels": {"version": "v1"}, "ready": true}}),
            agent: agent.socket.clone(),
            admin,
        });
        let path = folder.path().join("envoy.json");
        std::fs::write(&path, config.unwrap()).unwrap();
        let log = folder.path().join("envoy.log");
        let process = Command::new(binary)
            .args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning", "-c"])
            .arg(path)
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let sidecar =
            Self { proxy, agent, admin, access_log, log, process, runtime: Mutex::new(Some(runtime)), _folder: folder };
        sidecar.wait_until_ready().await;
        sidecar
    }

    /// Nobody answers on the agent's socket any more.
    pub fn kill_agent(&self) {
        if let Some(runtime) = self.runtime.lock().unwrap().take() {
            runtime.shutdown_background();
        }
    }

    async fn wait_until_ready(&self) {
        find_within(Duration::from_secs(30), || async {
            let ready = client::get(self.admin, "x", "/ready").await.is_ok_and(|answer| answer.status == 200);
            (ready && tokio::net::TcpStream::connect(self.proxy.ingress).await.is_ok()).then_some(())
        })
        .await
        .unwrap_or_else(|| panic!("not ready: {:?}\n{}", self.agent.refusals(), text(&self.log)));
    }

    /// The lines of the access log so far, as far as Envoy has been made to write them.
    pub async fn access_log_so_far(&self) -> Vec<Value> {
        client::request(self.admin, "x", "POST", "/reopen_logs", &[]).await.unwrap();
        let text = text(&self.access_log);
        // The last line may not be whole yet.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The lines in which `key` is `value`, once there are so many.
    pub async fn access_lines(&self, key: &str, value: &str, at_least: usize) -> Vec<Value> {
        let look = || async {
            let lines: Vec<_> = self.access_log_so_far().await.into_iter().filter(|line| line[key] == value).collect();
            (lines.len() >= at_least).then_some(lines)
        };
        let lines = find_within(Duration::from_secs(20), look).await;
        lines.unwrap_or_else(|| panic!("{at_least} lines with {key}={value} expected: {}", text(&self.access_log)))
    }

    /// The line of a request, by its path.
    pub async fn access_line(&self, path: &str) -> Value {
        self.access_lines("path", path, 1).await.remove(0)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.kill_agent();
    }
}

/// Looks again and again, at most so long.
pub async fn find_within<T, F: Future<Output = Option<T>>>(bound: Duration, mut look: impl FnMut() -> F) -> Option<T> {
    let end = Instant::now() + bound;
    loop {
        match look().await {
            None if Instant::now() < end => tokio::time::sleep(Duration::from_millis(20)).await,
            found => return found,
        }
    }
}

/// The agent's cluster of our bootstrap, as a message.
pub fn agent_cluster(socket: &Path) -> Cluster {
    let http2 = ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default());
    let explicit = UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig { protocol_config: Some(http2) });
    let options = HttpProtocolOptions { upstream_protocol_options: Some(explicit), ..Default::default() };
    let pipe = Pipe { path: socket.to_str().unwrap().to_owned(), ..Default::default() };
    let address = Some(Address { address: Some(address::Address::Pipe(pipe)) });
    let endpoint = HostIdentifier::Endpoint(Endpoint { address, ..Default::default() });
    let endpoint = LbEndpoint { host_identifier: Some(endpoint), ..Default::default() };
    Cluster {
        name: AGENT_CLUSTER.to_owned(),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: AGENT_CLUSTER.to_owned(),
            endpoints: vec![LocalityLbEndpoints { lb_endpoints: vec![endpoint], ..Default::default() }],
            ..Default::default()
        }),
        typed_extension_protocol_options: [(
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions".to_owned(),
            pack_any(options),
        )]
        .into(),
        ..Default::default()
    }
}
