//! Where a sidecar's identity comes from: the control plane, by a proof or by what was saved, or whoever keeps it on this machine and
//! serves the SPIFFE Workload API, which is `weft agent` or that of another SPIFFE implementation.

use std::ops::Deref;

use anyhow::Result;
use weft_identity::saved::Saved;
use weft_identity::{Identity, IdentityConfig, LiveIdentity};
use weft_workload_api::Endpoint;
use weft_workload_api::client::{Provided, provide};

use super::args::Args;
use super::place::Place;
use crate::output::hinted;

/// Where clients of SPIFFE look (Workload Endpoint s.4).
const VARIABLE: &str = "SPIFFE_ENDPOINT_SOCKET";

/// An identity, kept for as long as this is.
pub(crate) struct Identified {
    identity: Identity,
    _provided: Option<Provided>,
}

impl Deref for Identified {
    type Target = Identity;

    fn deref(&self) -> &Identity {
        &self.identity
    }
}

impl Identified {
    /// Waits until there is one.
    ///
    /// # Errors
    /// Waiting would not help; the text says what would.
    pub(crate) async fn start(args: &Args, place: &Place, node_id: String) -> Result<Self> {
        let proof = args.proof.proof()?;
        let socket = match (&args.identity_socket, &proof) {
            (Some(_), Some(_)) => {
                let what = "--identity-socket and a join token, certificate or JWT are two ways to an identity";
                return Err(hinted(what, "give one of them: with the socket, the agent of this machine has the other"));
            }
            (Some(socket), None) => Some(socket.clone()),
            (None, Some(_)) => None,
            (None, None) => by_environment(place)?,
        };
        let config = IdentityConfig {
            server: args.server.clone(),
            subject: args.service.clone().into(),
            node_id,
            proof,
            state_dir: place.state.clone(),
        };
        match socket {
            Some(socket) => Self::provided(args, config, socket).await,
            None => Self::own(args, config).await,
        }
    }

    async fn own(args: &Args, config: IdentityConfig) -> Result<Self> {
        let identity = Identity::start(config).await.map_err(|error| {
            let hint = args.proof.hint(&format!("--service {}", args.service));
            hinted(error.to_string(), hint + "; where an agent runs, give its socket with --identity-socket")
        })?;
        Ok(Self { identity, _provided: None })
    }

    async fn provided(args: &Args, config: IdentityConfig, socket: Endpoint) -> Result<Self> {
        tracing::info!(%socket, service = %args.service, "the identity is asked for at the Workload API of this machine");
        let live = LiveIdentity::empty();
        let identity = Identity::provided(config, live.clone());
        let provided = provide(socket.clone(), args.service.clone(), live).await.map_err(|status| {
            let what = format!("no identity for {} from {socket}: {}", args.service, status.message());
            hinted(what, "name the socket of a SPIFFE Workload API with --identity-socket")
        })?;
        Ok(Self { identity, _provided: Some(provided) })
    }
}

/// What the environment names, unless this folder has an identity that did not come from there.
fn by_environment(place: &Place) -> Result<Option<Endpoint>> {
    let Some(named) = std::env::var(VARIABLE).ok().filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    if matches!(Saved::load(&place.state), Ok(Some(_))) {
        tracing::info!(socket = named, "{VARIABLE} is not used: there is a saved identity, from the control plane");
        return Ok(None);
    }
    let parsed = Endpoint::from_uri(&named).map(Some);
    parsed.map_err(|error| hinted(format!("{VARIABLE}={named}: {error}"), "unset it, or give --identity-socket"))
}
