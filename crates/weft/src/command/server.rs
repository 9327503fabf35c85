//! `weft server`: the control plane and the authorization server in one process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpListener;
use weft_authz::ExtAuthz;
use weft_control::git::{GitConfig, GitError, safe};
use weft_control::{BundleEndpoint, ControlError, ControlPlane, Etcd, ServerConfig, Serving};
use weft_decision_log::{DecisionLog, Source};
use weft_identity::{ClientAuth, serve_tls, tls};
use weft_model::SpiffeId;
use weft_store::{EtcdAddress, EtcdFiles};

use crate::address::address;
use crate::command::upstream::UpstreamArgs;
use crate::decisions::DecisionArgs;
use crate::output::hinted;
use weft_process::signal::Stop;

/// Run the control plane
///
/// Follows a Git repository of intent and serves configuration (xDS), identities, authorization for Envoy, an API and a dashboard.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Git repository of the intent: a path, file:// or https://. A private one needs https://USER:TOKEN@… or a Git credential helper
    #[arg(long, alias = "git", value_name = "URL", env = "WEFT_REPO", hide_env_values = true, default_value = ".")]
    repo: String,
    /// Certificates (PEM) of the authority of an https:// repository, instead of the system's [default: Git's http.sslCAInfo]
    #[arg(long, value_name = "FILE", env = "WEFT_REPO_CA")]
    repo_ca: Option<PathBuf>,
    /// Branch to follow [default: the repository's HEAD]
    #[arg(long)]
    branch: Option<String>,
    /// Folder of the intent within the repository [default: the folder that --repo names]
    #[arg(long, value_name = "FOLDER")]
    path: Option<String>,
    /// Seconds between two looks at the repository [default: 0.5 for a local one, 10 for a remote one]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    poll: Option<Duration>,
    /// Folder for keys, tokens and what must survive a restart; made with mode 0700
    #[arg(long, alias = "state", value_name = "FOLDER", env = "WEFT_SERVER_STATE", default_value = "weft-server")]
    state_dir: PathBuf,
    #[command(flatten)]
    store: StoreArgs,
    /// Where sidecars get configuration and certificates (TLS 1.3)
    #[arg(long, value_name = "ADDRESS", value_parser = address, default_value = "0.0.0.0:15010")]
    xds: SocketAddr,
    /// Where Envoys that are not fed by an agent ask for authorization (ext_authz v3 over mutual TLS)
    #[arg(long, value_name = "ADDRESS", value_parser = address, default_value = "0.0.0.0:15011")]
    authz: SocketAddr,
    /// Where API, dashboard and metrics are. Join tokens are made only for callers on this machine that have the admin token in the state folder
    #[arg(long, alias = "api", value_name = "ADDRESS", value_parser = address, default_value = "127.0.0.1:7000")]
    http: SocketAddr,
    /// Further names or addresses in the control plane's certificate, for clients that check names
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    upstream: UpstreamArgs,
    #[command(flatten)]
    federation: FederationArgs,
    /// Seconds that an endpoint outlives its sidecar's connection
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "30")]
    grace: Duration,
    #[command(flatten)]
    decisions: DecisionArgs,
}

/// Where keys, join tokens, bans and endpoints are.
#[derive(Debug, clap::Args)]
struct StoreArgs {
    /// Keep keys, join tokens, bans and endpoints in an etcd, which several servers share: etcd://HOST:PORT,HOST:PORT,HOST:PORT, or etcds:// for TLS, with /FOLDER at the end if several
    /// meshes share it [default: a file in the state folder]
    #[arg(long, value_name = "URL", env = "WEFT_STORE")]
    store: Option<EtcdAddress>,
    /// The key that all servers of the mesh seal with; the first one makes it [default: root.key in the state folder]
    #[arg(long, value_name = "FILE", env = "WEFT_STORE_KEY", requires = "store")]
    store_key: Option<PathBuf>,
    /// Certificates (PEM) of the authority of an etcds:// store
    #[arg(long, value_name = "FILE", env = "WEFT_STORE_CA", requires = "store")]
    store_ca: Option<PathBuf>,
    /// This server's certificate (PEM) for etcd, where that demands one
    #[arg(long, value_name = "FILE", env = "WEFT_STORE_CERT", requires_all = ["store", "store_cert_key"])]
    store_cert: Option<PathBuf>,
    /// The key of --store-cert (PEM)
    #[arg(long, value_name = "FILE", env = "WEFT_STORE_CERT_KEY", requires = "store_cert")]
    store_cert_key: Option<PathBuf>,
}

/// Trust across trust domains.
#[derive(Debug, clap::Args)]
struct FederationArgs {
    /// Publish the trust bundle for other trust domains there, over HTTPS, to anybody. It proves itself by the control plane's own SVID (profile https_spiffe) unless
    /// --bundle-endpoint-cert is given [default: nowhere]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    bundle_endpoint: Option<SocketAddr>,
    /// Certificate chain (PEM) of the bundle endpoint, by which it proves itself as websites do (profile https_web); read again when it changes
    #[arg(long, value_name = "FILE", requires_all = ["bundle_endpoint", "bundle_endpoint_key"])]
    bundle_endpoint_cert: Option<PathBuf>,
    /// The key of --bundle-endpoint-cert (PEM)
    #[arg(long, value_name = "FILE", requires = "bundle_endpoint_cert")]
    bundle_endpoint_key: Option<PathBuf>,
    /// Seconds after which other trust domains are to look at the bundle again. A new root is published for three times as long before it signs
    #[arg(long, value_name = "SECONDS", value_parser = hint, default_value = "300", requires = "bundle_endpoint")]
    bundle_refresh_hint: Duration,
    /// Certificates (PEM) of the authorities of other trust domains' https_web endpoints, instead of the system's
    #[arg(long, value_name = "FILE")]
    federation_ca: Option<PathBuf>,
}

impl FederationArgs {
    fn bundle(&self) -> Option<BundleEndpoint> {
        Some(BundleEndpoint {
            address: self.bundle_endpoint?,
            certificate: self.bundle_endpoint_cert.clone().zip(self.bundle_endpoint_key.clone()),
            refresh_hint: self.bundle_refresh_hint,
        })
    }
}

fn hint(text: &str) -> Result<Duration, String> {
    let asked = seconds(text)?;
    if (10.0..=3600.0).contains(&asked.as_secs_f64()) {
        Ok(Duration::from_secs(asked.as_secs()))
    } else {
        Err("write a number of seconds from 10 to 3600".to_owned())
    }
}

impl StoreArgs {
    fn etcd(self) -> Option<Etcd> {
        let files = EtcdFiles { ca: self.store_ca, certificate: self.store_cert, key: self.store_cert_key };
        Some(Etcd { address: self.store?, files, key: self.store_key })
    }
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let mut stop = Stop::listen()?;
    let git = git_config(&args);

    tracing::info!(repository = safe(&git.url), folder = git.path, "starting");
    let config = ServerConfig {
        git,
        state: args.state_dir.clone(),
        etcd: args.store.etcd(),
        xds: args.xds,
        http: args.http,
        grace: args.grace,
        names: args.names,
        bundle: args.federation.bundle(),
        upstream: args.upstream.config(&args.state_dir)?,
        federation_ca: args.federation.federation_ca,
    };
    let control = ControlPlane::start(config).await.map_err(explain)?;
    tracing::info!(address = %control.http(), "API and dashboard");
    tokio::select! {
        () = control.first_commit() => {}
        () = stop.wait() => return Ok(()),
    }
    let serving = tokio::select! {
        serving = control.serve() => serving.map_err(explain)?,
        () = stop.wait() => return Ok(()), // a CA outside may take its time
    };
    tracing::info!(address = %serving.xds, "xDS and identity");
    let source = Source { namespace: "weft".to_owned(), name: "server".to_owned(), instance: args.authz.to_string() };
    let decisions = args.decisions.open(&args.state_dir, source)?;
    if let Some(log) = &decisions.log {
        control.log_decisions(log.clone());
    }
    authorize(args.authz, &control, &serving, decisions.log.clone()).await?;
    tracing::info!(address = %args.authz, "ext_authz");
    control.open();
    stop.wait().await;
    control.save();
    decisions.end().await;
    tracing::info!("stopping; sidecars go on with what they have");
    Ok(())
}

/// ext_authz for whoever has a certificate of the mesh.
async fn authorize(
    address: SocketAddr,
    control: &ControlPlane,
    serving: &Serving,
    decision_log: Option<DecisionLog>,
) -> Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listening on {address} for ext_authz"))?;
    let config = tls::server_config(serving.identity.clone(), ClientAuth::Required, &[b"h2"]);
    let connections = serve_tls(listener, config, serving.identity.clone());
    let (engines, commit) = (control.engines(), control.engines());
    let mut authz = ExtAuthz::new(move |callee: Option<&SpiffeId>| engines.engine(&callee?.service()?));
    let bans = serving.identity.bans();
    authz = authz.telling(control.plain_text());
    authz = authz.refusing(move |id| bans.borrow().of_identity(id).map(|ban| ban.reason.clone()));
    if let Some(log) = decision_log {
        authz = authz.logging(log, move || commit.commit());
    }
    let server = weft_xds::server_builder().add_service(authz.into_service());
    tokio::spawn(async move {
        if let Err(error) = server.serve_with_incoming(connections).await {
            tracing::error!(%error, "the authorization server ended");
        }
    });
    Ok(())
}

/// A path may be a folder within a repository.
fn git_config(args: &Args) -> GitConfig {
    let cache = args.state_dir.join("git");
    let mut config = match &args.path {
        Some(path) => GitConfig { path: path.clone(), ..GitConfig::new(args.repo.clone(), cache) },
        None => GitConfig::discover(Path::new(&args.repo), &cache)
            .unwrap_or_else(|| GitConfig::new(args.repo.clone(), cache)),
    };
    config.branch.clone_from(&args.branch);
    config.poll = args.poll;
    config.ca.clone_from(&args.repo_ca);
    config
}

fn explain(error: ControlError) -> anyhow::Error {
    let hint = match &error {
        ControlError::Git(GitError::Authority { .. }) => "--repo-ca takes a file of PEM certificates",
        ControlError::Git(GitError::Open { .. }) => {
            "name a Git repository with --repo; `git init` and a first commit make a folder one"
        }
        ControlError::Git(GitError::Mirror { .. }) => "mirrors are in the folder `git` of --state-dir",
        ControlError::Listen { .. } => {
            "is another control plane running? choose other addresses with --xds, --authz and --http"
        }
        _ => "",
    };
    hinted(error.to_string(), hint)
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 =
        text.trim_end_matches('s').parse().map_err(|_| "write a number of seconds, like 30".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}
