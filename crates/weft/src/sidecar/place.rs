//! Where a sidecar lives: its folder, its lasting name, the address by which others call it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::Rng;
use weft_control::node::AgentNode;

use super::args::{Args, DataPlane};
use crate::state;

/// A little more than a guard takes to kill what it guards.
const ALONE_BOUND: Duration = Duration::from_secs(6);

/// Prepared once, at the start.
#[derive(Debug)]
pub(crate) struct Place {
    /// Mode 0700.
    pub(crate) state: PathBuf,
    instance: String,
    advertise: Option<SocketAddr>,
    /// Held as long as this process lives, and by no child: files are opened close-on-exec.
    _lock: File,
}

impl Place {
    /// Makes the folder and chooses a name, or finds the one of the last run: a sidecar that comes back is the same endpoint.
    ///
    /// # Errors
    /// The folder cannot be used, or another sidecar lives in it: two would be one endpoint, and each would take the other's place.
    pub(crate) fn prepare(args: &Args) -> Result<Self> {
        let default = || Path::new("weft-sidecar").join(args.service.as_str().replace('/', "-"));
        let state = args.state_dir.clone().unwrap_or_else(default);
        let (state, lock) = state::take(&state, "sidecar")?;
        let instance = instance(&state).with_context(|| format!("naming this sidecar in {}", state.display()))?;
        Ok(Self { state, instance, advertise: args.advertise.or_else(|| reachable(args)), _lock: lock })
    }

    /// Locked by the guards of what this sidecar runs, until all of it has ended.
    pub(crate) fn guarded(&self) -> PathBuf {
        self.state.join("guarded")
    }

    /// Waits until everything has ended that an earlier sidecar of this folder ran: when that was killed it takes a moment, in which the
    /// ports are not free.
    pub(crate) async fn alone(&self) {
        let deadline = Instant::now() + ALONE_BOUND;
        while let Ok(file) = File::open(self.guarded())
            && let Err(TryLockError::WouldBlock) = file.try_lock()
        {
            if Instant::now() >= deadline {
                return tracing::warn!("something still runs that an earlier sidecar of this folder has started");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the control plane is told at first, with `app` for where the app is and `authz` for where its own ext_authz is.
    pub(crate) fn node(&self, args: &Args, app: SocketAddr, authz: Option<SocketAddr>) -> AgentNode {
        AgentNode {
            instance: self.instance.clone(),
            service: args.service.clone(),
            ready: false,
            ingress: args.ingress,
            advertise: self.advertise,
            egress: args.egress,
            app,
            authz,
            labels: args.labels.iter().map(|(key, value)| (key.as_str().into(), value.as_str().into())).collect(),
            access_log: args.access_log.clone(),
            data_plane: match args.data_plane {
                DataPlane::Weft => "weft".to_owned(),
                DataPlane::Envoy => "envoy".to_owned(),
            },
            certificate_expires: None,
        }
    }
}

fn instance(state: &Path) -> std::io::Result<String> {
    let path = state.join("instance");
    match std::fs::read_to_string(&path) {
        Ok(name) if is_name(name.trim()) => return Ok(name.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let letters = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut rng = rand::rng();
    let name: String = (0..6).map(|_| char::from(letters[rng.random_range(0..letters.len())])).collect();
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
    writeln!(file, "{name}")?;
    Ok(name)
}

fn is_name(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

/// Nobody can call 0.0.0.0: the address that this machine has towards the control plane is the best guess. No packet is sent.
fn reachable(args: &Args) -> Option<SocketAddr> {
    if !args.ingress.ip().is_unspecified() {
        return None;
    }
    let any = if args.ingress.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(args.first_server()).ok()?;
    Some(SocketAddr::new(socket.local_addr().ok()?.ip(), args.ingress.port()))
}
