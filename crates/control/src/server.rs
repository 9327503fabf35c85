//! The control plane's processes wired together: what is opened in which order, and what runs side by side.
//!
//! The API and Git come first, so that a first commit that is bad can be seen and mended; identities and xDS follow once there is a
//! commit that says which trust domain this is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpListener;
use tokio::sync::watch;
use weft_attestation::Nodes;
use weft_authority::{
    Authority, AuthorityError, BanList, IdentityService, JoinTokens, Lives, Machines, Proofs, Records,
};
use weft_decision_log::{DecisionLog, PlainText};
use weft_federation::{Certificate, Endpoint, Keeper, WebRoots};
use weft_identity::{ClientAuth, LiveIdentity, Names, serve_tls, tls};
use weft_store::{EtcdAddress, EtcdFiles, Store, StoreError};
use weft_upstream::{Upstream, UpstreamConfig};
use weft_xds::{AdsServer, server_builder};

use crate::MeshDirectory;
use crate::admin::{self, AdminToken};
use crate::api::Api;
use crate::change;
use crate::engines::Engines;
use crate::git::{GitConfig, GitError, GitSource, Observed};
use crate::glass::Glass;
use crate::hub::Hub;
use crate::identities::{Identities, Open};
use crate::issued::Issued;
use crate::own_name::OwnName;
use crate::registrar::MeshRegistrar;
use crate::registry::Registry;
use crate::saved::Saved;
use crate::shared::Shared;

/// What this server's issuing CA is kept under, in a store that it shares with nobody.
const OWN_NAME: &str = "self";
/// Life of the control plane's own certificate; it renews itself.
const OWN_TTL: Duration = Duration::from_secs(24 * 3600);
/// Between attempts to open a repository that was there at the last run.
const REOPEN: Duration = Duration::from_secs(5);

/// Calls in plain text that are taken note of at once.
const TOGETHER: usize = 256;

/// What a control plane is started with.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where the intent is.
    pub git: GitConfig,
    /// Keys, tokens, the last good commit, the endpoints.
    pub state: PathBuf,
    /// The etcd that has keys and tokens instead, which several servers share.
    pub etcd: Option<Etcd>,
    /// xDS and identity.
    pub xds: SocketAddr,
    /// API and dashboard.
    pub http: SocketAddr,
    /// How long an endpoint outlives its sidecar's stream.
    pub grace: Duration,
    /// Names by which clients that check names call the xDS port, besides `localhost` and its own address.
    pub names: Vec<String>,
    /// Where other trust domains fetch the bundle of this one, if they may.
    pub bundle: Option<BundleEndpoint>,
    /// The CA outside that signs the issuing CA; without one, the roots are the mesh's own.
    pub upstream: Option<UpstreamConfig>,
    /// PEM file of the CAs by which `https_web` endpoints of other trust domains are judged, instead of the system's.
    pub federation_ca: Option<PathBuf>,
}

/// Where the bundle is published.
#[derive(Clone, Debug)]
pub struct BundleEndpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// PEM files of certificate chain and key: `https_web`. Without, it is `https_spiffe` by the control plane's own SVID.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// When others are to look again. A root or key is published for three times as long before it signs.
    pub refresh_hint: Duration,
}

/// A store that several servers share.
#[derive(Clone, Debug)]
pub struct Etcd {
    /// Where it is.
    pub address: EtcdAddress,
    /// TLS to it.
    pub files: EtcdFiles,
    /// The key that all of them seal with; by default `root.key` in the state folder.
    pub key: Option<PathBuf>,
}

/// Why a control plane did not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The state folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The admin token can be neither read nor made.
    #[error("cannot use the admin token {}: {source}", file.display())]
    AdminToken {
        /// Where it is.
        file: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The state folder cannot be used.
    #[error("cannot use the state folder {}: {source}", folder.display())]
    State {
        /// Which.
        folder: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The repository cannot be read, and there is nothing saved to go on with.
    #[error(transparent)]
    Git(#[from] GitError),
    /// The certificate authority cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A port is taken or not ours.
    #[error("cannot listen on {address} for {purpose}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// For what.
        purpose: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// A file of certificates or of a key cannot be used.
    #[error("cannot use {} {}: {why}", purpose, file.display())]
    Certificates {
        /// What it is for.
        purpose: &'static str,
        /// Which.
        file: PathBuf,
        /// Why not.
        why: String,
    },
    /// There was no commit to serve when it was asked for.
    #[error("no commit has passed the check")]
    NoCommit,
}

/// A running control plane. Its tasks end with the process.
pub struct ControlPlane {
    config: ServerConfig,
    hub: Arc<Hub>,
    store: Store,
    /// What this server is told from others by.
    own_name: Option<OwnName>,
    identities: Arc<Identities>,
    glass: Arc<Glass>,
    http: SocketAddr,
    saved: Saved,
}

/// What is there once identities and xDS are served.
pub struct Serving {
    /// Where xDS and identity listen.
    pub xds: SocketAddr,
    /// The control plane's own identity, for further servers in this process.
    pub identity: Arc<LiveIdentity>,
}

impl ControlPlane {
    /// Opens the state, serves the API, takes up the last good commit, and follows Git.
    pub async fn start(config: ServerConfig) -> Result<Self, ControlError> {
        let started = Instant::now();
        let (store, own_name) = open_store(&config).await?;
        let admin = AdminToken::open(&config.state)
            .map_err(|source| ControlError::AdminToken { file: admin::path(&config.state), source })?;
        let http = listen(config.http, "the API and the dashboard").await?;
        let saved = Saved::new(&config.state);
        let hub = Hub::new(
            Registry::restore(saved.endpoints(), started),
            Issued::restore(saved.certificates()),
            config.grace,
        );
        if let Some(own) = &own_name {
            tokio::spawn(Shared::open(store.clone(), &own.name, hub.clone()).await?.run());
        }
        let upstream = config.upstream.clone().map(|config| Arc::new(Upstream::new(config)));
        let identities = Arc::new(Identities::under(upstream));

        let http_address = local_address(&http, config.http);
        let glass = Glass::restore(hub.clone(), saved.clone());
        let api = Api { hub: hub.clone(), identities: identities.clone(), admin, glass: glass.clone(), started };
        let api = Arc::new(api);
        tokio::spawn(api.serve(http));
        tokio::spawn(hub.clone().publish_forever());
        tokio::spawn(saved.clone().follow_endpoints(hub.clone()));
        tokio::spawn(saved.clone().follow_certificates(hub.clone()));

        let good = saved.commit();
        if let Some(good) = &good {
            tracing::info!(commit = good.commit, "taking up the last good commit");
            change::apply(&hub, &good.commit, &good.subject, good.files()).await;
        }
        match GitSource::watch(config.git.clone()) {
            Ok(observed) => drop(tokio::spawn(change::follow(hub.clone(), observed, saved.clone()))),
            Err(error) if good.is_none() => return Err(error.into()),
            Err(error) => drop(tokio::spawn(reopen(config.git.clone(), hub.clone(), saved.clone(), error))),
        }
        Ok(Self { config, hub, store, own_name, identities, glass, http: http_address, saved })
    }

    /// Where the API listens.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Waits until a commit is served.
    pub async fn first_commit(&self) {
        let mut progress = self.hub.progress();
        while self.hub.state().mesh.is_none() && progress.changed().await.is_ok() {}
    }

    /// Opens the certificate authority and serves identity and xDS. Needs a commit: see [`ControlPlane::first_commit`]. The API tells
    /// nobody before [`ControlPlane::open`].
    pub async fn serve(&self) -> Result<Serving, ControlError> {
        let mesh = self.hub.state().mesh.clone().ok_or(ControlError::NoCommit)?;
        let domain = mesh.intent().mesh.trust_domain.clone();
        let listener = listen(self.config.xds, "xDS and identity").await?;
        let xds = local_address(&listener, self.config.xds);
        let own = self.own_name.as_ref().map_or(OWN_NAME, |own| &own.name);
        // Others may miss two looks at the bundle before a call to them fails.
        let fetchers = self.config.bundle.as_ref().map_or(Duration::ZERO, |bundle| 3 * bundle.refresh_hint);
        let lives = Lives { fetchers, ..Lives::default() };
        let (upstream, now) = (self.identities.upstream().cloned(), SystemTime::now());
        let authority = Authority::open_under(upstream, self.store.clone(), domain, own, lives, now).await?;
        let authority = Arc::new(authority);
        let (identity, _renewal) = authority.start(self.names(xds), OWN_TTL)?;
        let tokens = JoinTokens::new(self.store.clone());
        let bans = BanList::open(self.store.clone()).await.map_err(ControlError::from)?;
        tokio::spawn(bans.clone().enforce(identity.clone()));
        if self.store.is_shared() {
            tokio::spawn(bans.clone().follow());
        }
        let records = Records::open(&self.config.state)
            .map_err(|source| ControlError::State { folder: self.config.state.clone(), source })?;
        tokio::spawn(records.clone().gather());
        tokio::spawn(records.clone().follow(authority.published()));
        let federation = self.federate(records.clone(), &authority)?;
        let machines = Machines::new(self.store.clone());
        self.identities.open(Open {
            tokens: tokens.clone(),
            machines: machines.clone(),
            bans: bans.clone(),
            authority: authority.clone(),
            records: records.clone(),
            federation: federation.clone(),
        });
        self.publish_bundle(&authority, &identity).await?;

        let config = tls::server_config(identity.clone(), ClientAuth::Optional, &[b"h2"]);
        let connections = serve_tls(listener, config, identity.clone());
        let ads = AdsServer::new(Arc::new(MeshDirectory(self.hub.clone())));
        let registrar = Arc::new(MeshRegistrar(self.hub.clone()));
        let proofs = Proofs { tokens, nodes: Nodes::new(self.store.clone()) };
        let server = server_builder()
            .add_service(ads.ads())
            .add_service(IdentityService::server(
                authority,
                proofs,
                machines,
                bans,
                records,
                federation.published(),
                registrar,
            ))
            .serve_with_incoming(connections);
        tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the xDS server ended");
            }
        });
        Ok(Serving { xds, identity })
    }

    /// Fetches and keeps the bundles of the trust domains that the serving commit names.
    fn federate(&self, records: Records, authority: &Arc<Authority>) -> Result<Arc<Keeper>, ControlError> {
        let roots = match &self.config.federation_ca {
            None => WebRoots::system(),
            Some(file) => WebRoots::file(file).map_err(|why| ControlError::Certificates {
                purpose: "the CAs of other trust domains' endpoints",
                file: file.clone(),
                why,
            })?,
        };
        let authority = authority.clone();
        let keeper = Keeper::new(self.store.clone(), roots, records, move || authority.bundle());
        let (hub, mut progress) = (self.hub.clone(), self.hub.progress());
        let wanted = move || hub.state().mesh.as_ref().map(|mesh| mesh.intent().trust_domains.clone());
        let (tell, told) = watch::channel(Arc::new(wanted().unwrap_or_default()));
        tokio::spawn(keeper.clone().run(told));
        tokio::spawn(async move {
            while progress.changed().await.is_ok() {
                let Some(now) = wanted() else { continue };
                tell.send_if_modified(|before| {
                    let changed = **before != now;
                    if changed {
                        *before = Arc::new(now);
                    }
                    changed
                });
            }
        });
        Ok(keeper)
    }

    /// Publishes the bundle of this trust domain, if it is to be.
    async fn publish_bundle(
        &self,
        authority: &Arc<Authority>,
        identity: &Arc<LiveIdentity>,
    ) -> Result<(), ControlError> {
        let Some(BundleEndpoint { address, certificate, refresh_hint }) = self.config.bundle.clone() else {
            return Ok(());
        };
        let listener = listen(address, "the trust bundle").await?;
        let address = local_address(&listener, address);
        let (profile, certificate, file) = match certificate {
            Some((chain, key)) => ("https_web", Certificate::Web { chain: chain.clone(), key }, chain),
            None => ("https_spiffe", Certificate::Spiffe(identity.clone()), PathBuf::new()),
        };
        let authority = authority.clone();
        let endpoint = Endpoint { bundle: Box::new(move || authority.bundle()), refresh_hint };
        endpoint.serve(listener, certificate).map_err(|error| ControlError::Certificates {
            purpose: "the certificate of the bundle endpoint",
            file,
            why: error.to_string(),
        })?;
        tracing::info!(%address, profile, "the trust bundle for other trust domains");
        Ok(())
    }

    /// From now on the API says that this control plane serves: to be called when everything listens that a client can ask.
    pub fn open(&self) {
        self.hub.state().open = true;
    }

    /// Writes the state of this moment for the next start: to be called before the process ends.
    pub fn save(&self) {
        self.identities.flush();
        if let Err(error) = self.saved.save(&self.hub) {
            tracing::warn!(%error, "endpoints and certificates' ends were not saved; the next start begins with older ones");
        }
    }

    /// From now on decisions about break-glass are logged.
    pub fn log_decisions(&self, log: DecisionLog) {
        self.glass.log_to(log);
    }

    /// To be told of calls in plain text that are decided in this process.
    pub fn plain_text(&self) -> PlainText {
        let (told, mut heard) = PlainText::new();
        let hub = self.hub.clone();
        tokio::spawn(async move {
            let mut calls = Vec::with_capacity(TOGETHER);
            while heard.recv_many(&mut calls, TOGETHER).await > 0 {
                let watched = &mut hub.state().plain_text;
                calls.drain(..).for_each(|call| watched.note(call));
            }
        });
        told
    }

    /// Policy engines of the serving commit, for an authorization server.
    pub fn engines(&self) -> Engines {
        Engines::new(self.hub.clone())
    }

    fn names(&self, xds: SocketAddr) -> Names {
        let mut names = Names::default();
        names.dns.push("localhost".to_owned());
        names.ips.extend([IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]);
        if !xds.ip().is_unspecified() && !names.ips.contains(&xds.ip()) {
            names.ips.push(xds.ip());
        }
        for name in &self.config.names {
            match name.parse() {
                Ok(ip) => names.ips.push(ip),
                Err(_) => names.dns.push(name.clone()),
            }
        }
        names
    }
}

/// In an etcd, this server also needs a name of its own.
async fn open_store(config: &ServerConfig) -> Result<(Store, Option<OwnName>), ControlError> {
    let Some(etcd) = &config.etcd else { return Ok((Store::open(&config.state)?, None)) };
    let failed = |source| ControlError::State { folder: config.state.clone(), source };
    let own = OwnName::open(&config.state).map_err(failed)?;
    let key = etcd.key.clone().unwrap_or_else(|| config.state.join("root.key"));
    let store = Store::connect(&etcd.address, &etcd.files, &key).await?;
    tracing::info!(
        server = own.name,
        members = etcd.address.members.join(","),
        folder = etcd.address.folder,
        "the store is in etcd"
    );
    Ok((store, Some(own)))
}

/// The repository was there once: serve what is saved and look for it again.
async fn reopen(git: GitConfig, hub: Arc<Hub>, saved: Saved, mut error: GitError) {
    loop {
        tracing::warn!(%error, "the repository cannot be opened; going on with the last good commit");
        hub.state().git_error = Some(error.to_string());
        tokio::time::sleep(REOPEN).await;
        let attempt = git.clone();
        let opened: Option<Result<watch::Receiver<Observed>, GitError>> =
            tokio::task::spawn_blocking(move || GitSource::watch(attempt)).await.ok();
        match opened {
            Some(Ok(observed)) => return change::follow(hub, observed, saved).await,
            Some(Err(again)) => error = again,
            None => return, // the runtime is shutting down
        }
    }
}

async fn listen(address: SocketAddr, purpose: &'static str) -> Result<TcpListener, ControlError> {
    TcpListener::bind(address).await.map_err(|source| ControlError::Listen { address, purpose, source })
}

fn local_address(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}
