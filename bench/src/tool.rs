//! Programs that count, which may be missing.

use std::process::{Command, Output, Stdio};

use anyhow::{Result, anyhow};

/// Runs a command to its end.
///
/// # Errors
/// When there is no such program, with what to do. How it ends is the caller's to judge.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).output().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => anyhow!("{name} is missing, `scripts/setup bench` installs it"),
        _ => anyhow!("{name} does not run: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_says_what_to_do() {
        let error = output(&mut Command::new("weft-bench-no-such-tool")).unwrap_err();
        assert_eq!(error.to_string(), "weft-bench-no-such-tool is missing, `scripts/setup bench` installs it");
    }
}
