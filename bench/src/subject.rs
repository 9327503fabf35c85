//! Who is measured: someone that answers on an address, and the processes whose cost counts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use weft_tests::process::Process;
use weft_tests::sidecar::DataPlane;

use crate::{envoy, weft};

/// The names, in the order of the table.
pub(crate) const NAMES: [&str; 4] = ["direct", "envoy", "baseline", "weft"];
/// Beside them, for `authz` alone: Weft's own configuration on a pair of Envoys, each of which asks its agent over ext_authz.
pub(crate) const ASKING: &str = "envoy + ext_authz";

/// What a reader calls them.
pub(crate) fn label(name: &str) -> &str {
    if name == "baseline" { "weft (baseline)" } else { name }
}

/// What the subjects are started from.
pub(crate) struct Setup {
    /// For files of any kind; outlives the subjects.
    pub(crate) folder: PathBuf,
    /// The app at the end of the chain.
    pub(crate) app: SocketAddr,
    /// The binary that is measured.
    pub(crate) weft: PathBuf,
    /// An older one to compare it with.
    pub(crate) baseline: Option<PathBuf>,
}

/// A running subject. It ends when it is dropped.
pub(crate) struct Subject {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// The host that requests name.
    pub(crate) host: &'static str,
    /// The proxies' process ids; none when nothing stands before the app.
    pub(crate) proxies: Vec<u32>,
    _running: Running,
}

/// Held for its end only.
enum Running {
    Nothing,
    Envoys { _both: Vec<Process> },
    Wefts { _pair: Box<weft::Wefts> },
}

impl Subject {
    /// Starts one of [`NAMES`], or [`ASKING`], and waits until calls pass. Its proxies run under the program and arguments of `under`, if any.
    ///
    /// # Errors
    /// When files cannot be written, or a binary to run is not there.
    pub(crate) fn start(name: &'static str, setup: &Setup, under: &[String]) -> Result<Self> {
        let (address, proxies, running) = match name {
            "direct" => (setup.app, Vec::new(), Running::Nothing),
            "envoy" => {
                let folder = fresh(&setup.folder, "envoy")?;
                let pair = envoy::start(&folder, setup.app, under)?;
                let proxies = pair.processes.iter().map(Process::id).collect();
                (pair.egress, proxies, Running::Envoys { _both: pair.processes })
            }
            ASKING => {
                let pair = weft::start(setup.app, &setup.weft, DataPlane::Envoy, under);
                (pair.egress(), pair.proxies(), Running::Wefts { _pair: Box::new(pair) })
            }
            _ => {
                let program = match name {
                    "baseline" => setup.baseline.as_ref().context("no --baseline was given")?,
                    _ => &setup.weft,
                };
                let pair = weft::start(setup.app, program, DataPlane::Weft, under);
                (pair.egress(), pair.proxies(), Running::Wefts { _pair: Box::new(pair) })
            }
        };
        Ok(Self { name, address, host: "app.bench", proxies, _running: running })
    }
}

/// A folder that nobody has used before.
fn fresh(parent: &Path, name: &str) -> Result<PathBuf> {
    Ok(tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(parent)?.keep())
}
