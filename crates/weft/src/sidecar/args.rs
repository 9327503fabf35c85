//! What `weft sidecar` is told on its command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use nix::unistd::User;
use weft_model::ServiceName;
use weft_workload_api::Endpoint;

use super::app_address::AppAddress;
use crate::address::address;
use crate::command::server::seconds;
use crate::decisions::DecisionArgs;
use crate::proof::ProofArgs;

/// Where a control plane serves ext_authz unless it is told otherwise.
const AUTHZ_PORT: u16 = 15011;

const SIGNALS: &str = "Signals:
  SIGTERM, SIGINT, SIGQUIT  withdraw, drain, stop the app; a second one, a second or more later, cuts that short
  SIGUSR1, SIGHUP           open the logs again (SIGHUP of a terminal that closes: stop)";

/// Run a sidecar beside an app
///
/// Takes the app's calls on --egress and calls for the app on --ingress. With `-- PROGRAM ARGS` it runs the app too: ready before
/// the app starts, gone after the app and all that it has started have ended, with the app's exit code (128 and the signal if it was killed).
#[derive(Debug, clap::Args)]
#[command(after_help = SIGNALS)]
pub(crate) struct Args {
    /// Which service this is
    #[arg(long, value_name = "NAMESPACE/NAME", env = "WEFT_SERVICE")]
    pub(crate) service: ServiceName,
    /// Where the app listens. A name may stand for several addresses, of both families: the one that answers is taken
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8080")]
    pub(crate) app: AppAddress,
    /// The control plane's xDS and identity port; of several servers all, with commas between, in the order in which they are tried
    #[arg(long, value_name = "HOST:PORT,…", env = "WEFT_SERVER", default_value = "127.0.0.1:15010")]
    pub(crate) server: String,
    /// The control plane's ext_authz, which is asked about calls of a service with `authorization: {by: server}` [default: port 15011 of the first --server]
    #[arg(long, value_name = "HOST:PORT", env = "WEFT_AUTHZ_SERVER")]
    pub(crate) authz_server: Option<AppAddress>,
    #[command(flatten)]
    pub(crate) proof: ProofArgs,
    /// Take the identity from the agent of this machine, or of another SPIFFE implementation, by the SPIFFE Workload API: a path, unix:///PATH or
    /// tcp://127.0.0.1:PORT [default: SPIFFE_ENDPOINT_SOCKET, if there is neither a join token nor a saved identity]
    #[arg(long, value_name = "PATH", conflicts_with = "workload_socket")]
    pub(crate) identity_socket: Option<Endpoint>,
    /// Where the app's calls are taken
    #[arg(long, value_name = "ADDRESS", value_parser = address, default_value = "127.0.0.1:15001")]
    pub(crate) egress: SocketAddr,
    /// Where calls of other sidecars are taken
    #[arg(long, value_name = "ADDRESS", value_parser = address, default_value = "0.0.0.0:15006")]
    pub(crate) ingress: SocketAddr,
    /// Where other sidecars reach the ingress [default: --ingress, or for 0.0.0.0 this machine's address towards the server]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) advertise: Option<SocketAddr>,
    /// Admin endpoint: configuration, clusters, certificate, drain, opening logs again
    #[arg(long, value_name = "ADDRESS", value_parser = address, default_value = "127.0.0.1:15000")]
    pub(crate) admin: SocketAddr,
    /// Health endpoint, /ready
    #[arg(long, value_name = "ADDRESS", value_parser = address, default_value = "0.0.0.0:15021")]
    pub(crate) health: SocketAddr,
    /// Prometheus endpoint, /stats/prometheus
    #[arg(long, alias = "metrics", value_name = "ADDRESS", value_parser = address, default_value = "0.0.0.0:15090")]
    pub(crate) prometheus: SocketAddr,
    /// Folder for the identity and the last good configuration [default: weft-sidecar/NAMESPACE-NAME]
    #[arg(long, alias = "state", value_name = "FOLDER", env = "WEFT_STATE")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Where the app gets its own identity by the SPIFFE Workload API: a path, unix:///PATH or tcp://127.0.0.1:PORT [default: nowhere]
    #[arg(long, value_name = "PATH")]
    pub(crate) workload_socket: Option<Endpoint>,
    /// Who may ask there: the user that the app runs as [default: the sidecar's own]
    #[arg(long, value_name = "USER", value_parser = user, requires = "workload_socket")]
    pub(crate) workload_user: Option<u32>,
    /// Labels of the endpoint, which subsets match; may be repeated or separated by commas
    #[arg(long, alias = "label", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
    /// Worker threads [default: one a core]
    #[arg(long, value_name = "COUNT")]
    pub(crate) workers: Option<usize>,
    /// Where the access log goes, a JSON line a request; opened again on SIGUSR1 and SIGHUP
    #[arg(long, value_name = "PATH", default_value = "/dev/stdout")]
    pub(crate) access_log: String,
    #[command(flatten)]
    pub(crate) decisions: DecisionArgs,
    /// Who moves the bytes
    #[arg(long, value_enum, default_value_t)]
    pub(crate) data_plane: DataPlane,
    /// The Envoy to run with --data-plane envoy [default: $WEFT_ENVOY, .venv/bin/envoy, or envoy in PATH]
    #[arg(long, value_name = "PATH")]
    pub(crate) envoy_bin: Option<PathBuf>,
    /// How long requests may go on after the sidecar was told to stop, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "10")]
    pub(crate) drain: Duration,
    /// The app to run: program and arguments
    #[arg(last = true, value_name = "PROGRAM")]
    pub(crate) command: Vec<String>,
}

/// Who moves the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DataPlane {
    /// Weft's own proxy, in this process
    #[default]
    Weft,
    /// Stock Envoy, as a child process
    Envoy,
}

impl Args {
    /// Where the control plane's ext_authz is.
    pub(crate) fn authz_server(&self) -> Option<AppAddress> {
        let given = self.authz_server.clone();
        given.or_else(|| format!("{}:{AUTHZ_PORT}", self.first_server().rsplit_once(':')?.0).parse().ok())
    }

    /// The control plane that is tried first.
    pub(crate) fn first_server(&self) -> &str {
        weft_identity::connect::each(&self.server).next().unwrap_or_default()
    }
}

/// The id of a user, by name or number.
fn user(text: &str) -> Result<u32, String> {
    if let Ok(uid) = text.parse() {
        return Ok(uid);
    }
    match User::from_name(text) {
        Ok(Some(user)) => Ok(user.uid.as_raw()),
        Ok(None) => Err("there is no user of that name here; write a name or a number".to_owned()),
        Err(error) => Err(format!("the users cannot be looked up: {error}; write the number")),
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE, like version=v1".to_owned()),
    }
}
