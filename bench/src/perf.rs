//! Instructions, counted by the processor itself (`perf stat`). Virtual machines often have no counters.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::tool;

/// User space only: what the kernel does for a process depends on the machine.
const EVENT: &str = "instructions:u";

/// Whether this machine counts instructions for us.
///
/// # Errors
/// When it does not, with why.
pub(crate) fn ready() -> Result<()> {
    let output = tool::output(Command::new("perf").args(["stat", "-x", ",", "-e", EVENT, "true"]))?;
    total(&String::from_utf8_lossy(&output.stderr)).map(|_| ())
}

/// The program and arguments that count what all threads of `pids` do while the command after them runs.
pub(crate) fn around(folder: &Path, pids: &[u32]) -> Vec<String> {
    let pids = pids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let report = folder.join("perf.csv").display().to_string();
    ["perf", "stat", "-x", ",", "-o", &report, "-e", EVENT, "-p", &pids, "--"].map(str::to_owned).into()
}

/// What was counted by the last command of [`around`].
///
/// # Errors
/// When nothing was.
pub(crate) fn counted(folder: &Path) -> Result<u64> {
    total(&std::fs::read_to_string(folder.join("perf.csv")).context("perf wrote nothing")?)
}

/// The sum of the lines of `perf stat -x ,`. A processor with two kinds of cores has a line for each.
fn total(report: &str) -> Result<u64> {
    let mut sum = None;
    for line in report.lines().filter(|line| line.contains("instructions")) {
        let value = line.split(',').next().unwrap_or_default();
        match value.parse::<u64>() {
            Ok(value) => sum = Some(sum.unwrap_or(0) + value),
            // One of the two kinds of cores may not have been used.
            Err(_) if value == "<not counted>" && line.contains('/') => {}
            Err(_) => bail!("perf says {value}: this machine has no counters for us"),
        }
    }
    sum.with_context(|| format!("perf counted nothing: {}", report.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_read() {
        let report = "# started on Mon Mar  2 10:00:00 2026\n\n182736451,,instructions:u,5003112231,100.00,,\n";
        assert_eq!(total(report).unwrap(), 182_736_451);
    }

    #[test]
    fn two_kinds_of_cores_are_summed() {
        let report = "100,,cpu_core/instructions:u/,7,90.00,,\n20,,cpu_atom/instructions:u/,1,10.00,,\n";
        assert_eq!(total(report).unwrap(), 120);
        let report = "100,,cpu_core/instructions:u/,7,100.00,,\n<not counted>,,cpu_atom/instructions:u/,0,0.00,,\n";
        assert_eq!(total(report).unwrap(), 100);
    }

    #[test]
    fn no_counters_are_a_reason_and_no_zero() {
        let error = total("<not supported>,,instructions:u,0,100.00,,\n").unwrap_err();
        assert_eq!(error.to_string(), "perf says <not supported>: this machine has no counters for us");
        let error = total("Error:\nNo permission to enable cycles event.\n").unwrap_err();
        assert!(error.to_string().starts_with("perf counted nothing: Error:"), "{error}");
    }
}
