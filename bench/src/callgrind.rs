//! Instructions, counted by valgrind's callgrind, where the processor counts none for us. It runs a program some fifty times slower, so its
//! proxies are a pair of their own, started under it, and nothing about them is timed.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::tool;

/// Whether valgrind can be used here.
///
/// # Errors
/// When it cannot, with what to do.
pub(crate) fn ready() -> Result<()> {
    for program in ["valgrind", "vgdb"] {
        tool::output(Command::new(program).arg("--help"))?;
    }
    Ok(())
}

/// The program and arguments to start a proxy under. Nothing is counted before [`begin`].
pub(crate) fn under(folder: &Path) -> Vec<String> {
    let out = folder.join("callgrind.%p").display().to_string();
    vec![
        "valgrind".to_owned(),
        "--tool=callgrind".to_owned(),
        "--instr-atstart=no".to_owned(),
        format!("--callgrind-out-file={out}"),
        // The Envoy of a Python environment is a script that replaces itself by the program.
        "--trace-children=yes".to_owned(),
        // Threads take turns; without this one of them can starve the others.
        "--fair-sched=try".to_owned(),
        "-q".to_owned(),
    ]
}

/// Counts from now on.
///
/// # Errors
/// When valgrind does not answer.
pub(crate) fn begin(pids: &[u32]) -> Result<()> {
    pids.iter().try_for_each(|pid| tell(*pid, &["instrumentation", "on"]))
}

/// What all threads of `pids` have done since [`begin`], or since this was called last.
///
/// # Errors
/// When valgrind does not answer, or writes nothing.
pub(crate) fn counted(folder: &Path, pids: &[u32]) -> Result<u64> {
    pids.iter().map(|pid| dump(folder, *pid)).sum()
}

/// Has a profile written, which sets the counts back, and reads its sum.
fn dump(folder: &Path, pid: u32) -> Result<u64> {
    let ours = format!("callgrind.{pid}.");
    let profiles = || -> Result<Vec<_>> {
        let names = fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        Ok(names.collect::<Result<Vec<_>>>()?.into_iter().filter(|name| name.starts_with(&ours)).collect())
    };
    tell(pid, &["dump"])?;
    let written = profiles()?;
    ensure!(written.len() == 1, "callgrind of process {pid} wrote {} profiles instead of one", written.len());
    let path = folder.join(&written[0]);
    let total = total(&fs::read_to_string(&path)?).with_context(|| format!("no total in {}", path.display()))?;
    fs::remove_file(path)?;
    Ok(total)
}

/// A command for the valgrind of a process; returns when it is done.
fn tell(pid: u32, command: &[&str]) -> Result<()> {
    let output = tool::output(Command::new("vgdb").arg(format!("--pid={pid}")).args(command))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "vgdb {}: {}", command.join(" "), said.trim());
    Ok(())
}

/// From the last line of a profile, `totals: 1234`. There is one event only, so it has one number.
fn total(profile: &str) -> Option<u64> {
    profile.lines().rev().find_map(|line| line.strip_prefix("totals: "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_ends_with_its_total() {
        let profile = "# callgrind format\nversion: 1\npid: 7\ndesc: Trigger: dump\nevents: Ir\nsummary: 14\n\n\
                       fn=(1) main\n16 4\n\ntotals: 14040686\n";
        assert_eq!(total(profile), Some(14_040_686));
        assert_eq!(total("events: Ir Dr\ntotals: 1 2\n"), None);
        assert_eq!(total("# callgrind format\n"), None);
    }
}
