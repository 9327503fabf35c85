//! `weft agent`: one for a machine, and for all its processes that speak the SPIFFE Workload API or SDS.
//!
//! The socket stands first, since real clients look for it once, at their start; what an earlier run has left is served from it at once. Then
//! the agent gets its own identity, as long as that takes, and with it those of its processes.

mod health;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use weft_agent::Agent;
use weft_identity::{Identity, IdentityConfig};
use weft_model::AgentName;
use weft_process::descriptors;
use weft_process::signal::Stop;
use weft_workload_api::{Endpoint, Listener};

use crate::address::address;
use crate::output::hinted;
use crate::proof::ProofArgs;
use crate::state;

/// Run the agent of a machine
///
/// Finds out what each process is that asks it, and gives it the identity that `attest` of a service has for it, over the SPIFFE Workload API and
/// SDS. Run it as root: nobody else may look at the programs of other users.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which machine this is, as `attest` of a service names it
    #[arg(long, value_name = "NAME", env = "WEFT_AGENT")]
    name: AgentName,
    /// The control plane's xDS and identity port; of several servers all, with commas between, in the order in which they are tried
    #[arg(long, value_name = "HOST:PORT,…", env = "WEFT_SERVER", default_value = "127.0.0.1:15010")]
    server: String,
    #[command(flatten)]
    proof: ProofArgs,
    /// Where processes ask: the path of a Unix socket. Its folder must be one that others cannot write to
    #[arg(long, value_name = "PATH", default_value = "/run/weft/agent.sock")]
    socket: PathBuf,
    /// Folder for the agent's identity, and for those in use [default: weft-agent/NAME]
    #[arg(long, alias = "state", value_name = "FOLDER", env = "WEFT_STATE")]
    state_dir: Option<PathBuf>,
    /// Health and Prometheus endpoint: /live, /ready, /metrics
    #[arg(long, value_name = "ADDRESS", value_parser = address, default_value = "127.0.0.1:15022")]
    health: SocketAddr,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let mut stop = Stop::listen()?;
    if let Err(error) = descriptors::raise() {
        tracing::warn!(%error, "the number of open files stays limited as it was: many processes at once may be refused");
    }
    if !nix::unistd::Uid::effective().is_root() {
        tracing::warn!("this agent is not root: `path` and `sha256` hold of no program of another user");
    }
    let folder = args.state_dir.clone().unwrap_or_else(|| Path::new("weft-agent").join(args.name.as_str()));
    let (state, _lock) = state::take(&folder, "agent")?;
    let listener = Listener::open(&Endpoint::Unix(args.socket.clone())).await.map_err(|error| {
        hinted(
            format!("cannot serve the Workload API at {}: {error}", args.socket.display()),
            "give another place with --socket",
        )
    })?;
    let (endpoint, agent) = (listener.endpoint().clone(), Agent::open(args.name.clone(), &state));
    health::serve(args.health, agent.clone()).await?;
    let served = agent.clone();
    let mut serving = tokio::spawn(async move { served.serve(listener).await });
    tracing::info!(%endpoint, agent = %args.name, "processes may ask");

    let identity = tokio::select! {
        identity = identify(&args, state) => identity?,
        () = stop.wait() => return Ok(ExitCode::SUCCESS),
    };
    agent.begin(&identity);
    tokio::select! {
        () = stop.wait() => Ok(ExitCode::SUCCESS),
        ended = &mut serving => {
            let why = ended.map_err(|error| error.to_string()).and_then(|served| served.map_err(|error| error.to_string()));
            Err(hinted(format!("{endpoint} is closed: {}", why.err().unwrap_or_default()), "start the agent again"))
        }
    }
}

async fn identify(args: &Args, state_dir: PathBuf) -> Result<Identity> {
    let config = IdentityConfig {
        server: args.server.clone(),
        subject: args.name.clone().into(),
        node_id: format!("agent:{}", args.name),
        proof: args.proof.proof()?,
        state_dir,
    };
    Identity::start(config)
        .await
        .map_err(|error| hinted(error.to_string(), args.proof.hint(&format!("--agent {}", args.name))))
}
