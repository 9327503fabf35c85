//! The decision log on the command line, the same for a sidecar and for the authorization server.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use weft_decision_log::{Allowed, DecisionLog, Exporter, Settings, Source};
use weft_telemetry::lines::Rotation;

use crate::output::hinted;

/// Its name in a state folder.
pub(crate) const FILE: &str = "decisions.log";

#[derive(Debug, clap::Args)]
pub(crate) struct DecisionArgs {
    /// Where decisions are logged, a JSON line each; `none` logs none [default: decisions.log in the state folder]
    #[arg(long, value_name = "PATH")]
    decision_log: Option<PathBuf>,
    /// Which allowed calls are logged beside every denial: the first of those that are alike to the policies, all, none, or a share like 1%
    #[arg(long, value_name = "WHICH", default_value_t)]
    decision_log_allowed: Allowed,
    /// How long the decision log may become before it is put aside as decisions.log.1; four older ones are kept
    #[arg(long, value_name = "SIZE", value_parser = bytes, default_value = "32MiB")]
    decision_log_size: u64,
    /// Send decisions to this OpenTelemetry collector too (OTLP over gRPC, in clear), like http://127.0.0.1:4317
    #[arg(long, value_name = "URL", env = "WEFT_OTLP")]
    otlp: Option<String>,
}

/// What was opened.
#[derive(Default)]
pub(crate) struct Decisions {
    pub(crate) log: Option<DecisionLog>,
    exporter: Option<Exporter>,
}

impl DecisionArgs {
    /// Opens the log of whoever lives in the folder `state`.
    pub(crate) fn open(&self, state: &Path, source: Source) -> Result<Decisions> {
        let otlp = self.otlp.as_deref().filter(|url| !url.is_empty());
        let path = self.decision_log.clone().unwrap_or_else(|| state.join(FILE));
        if path.as_os_str() == "none" {
            return Ok(Decisions::default());
        }
        let start =
            |url| Exporter::start(url, source).map_err(|why| hinted(why, "--otlp takes the address of a collector"));
        let exporter = otlp.map(start).transpose()?;
        let rotation = Rotation { bytes: self.decision_log_size, ..Settings::default().rotation };
        let settings = Settings { allowed: self.decision_log_allowed, rotation };
        let log = DecisionLog::open(&path, settings, exporter.as_ref().map(Exporter::copy))
            .with_context(|| format!("opening the decision log {}", path.display()))?;
        Ok(Decisions { log: Some(log), exporter })
    }
}

impl Decisions {
    /// Writes out and sends what there is.
    pub(crate) async fn end(self) {
        if let Some(log) = &self.log {
            log.flush();
        }
        if let Some(exporter) = self.exporter {
            exporter.end().await;
        }
    }
}

/// `32MiB`, `500KiB`, `1GiB` or a number of bytes; at least 4 KiB.
fn bytes(text: &str) -> Result<u64, String> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1u64 << 30)];
    let unit = units.iter().find_map(|(name, size)| Some((text.strip_suffix(name)?, *size)));
    let (number, size) = unit.unwrap_or((text, 1));
    let bytes = number.trim().parse::<u64>().ok().and_then(|number| number.checked_mul(size));
    match bytes {
        Some(bytes @ 4096..) => Ok(bytes),
        Some(_) => Err("at least 4KiB".to_owned()),
        None => Err("write a size like 32MiB".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_written_with_their_unit() {
        use super::bytes;
        assert_eq!(bytes("32MiB"), Ok(32 << 20));
        assert_eq!(bytes("5 GiB"), Ok(5 << 30));
        assert_eq!(bytes("4096"), Ok(4096));
        for text in ["", "1", "3KiB", "x", "-1MiB", "32MB", "99999999999GiB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
