//! `weft identity federation` and `weft identity bundle`: whom this trust domain trusts beside itself, and what others need to trust it.

use anyhow::Result;
use serde_json::Value;
use weft_control::status::FederationStatus;

use crate::http::Api;
use crate::output::{Format, say, shown, span, table, unix_now};

/// Arguments of `weft identity federation`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The control plane's API
    #[arg(long, value_name = "HOST:PORT", env = "WEFT_API", default_value = "127.0.0.1:7000")]
    server: String,
    /// How it is printed
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Arguments of `weft identity bundle`.
#[derive(Debug, clap::Args)]
pub(crate) struct BundleArgs {
    /// The control plane's API
    #[arg(long, value_name = "HOST:PORT", env = "WEFT_API", default_value = "127.0.0.1:7000")]
    server: String,
}

pub(super) async fn show(args: Args) -> Result<()> {
    let all: Vec<FederationStatus> = Api::new(args.server).get("/api/identity/federation").await?;
    match args.output {
        Format::Json => say(format_args!("{}\n", serde_json::to_string_pretty(&all)?)),
        Format::Text if all.is_empty() => {
            say("no other trust domain is federated: `kind: TrustDomain` documents name them\n")
        }
        Format::Text => say(text(&all, unix_now())),
    }
    Ok(())
}

pub(super) async fn bundle(args: BundleArgs) -> Result<()> {
    let document: Value = Api::new(args.server).get("/api/identity/bundle").await?;
    say(format_args!("{document}\n"));
    Ok(())
}

fn text(all: &[FederationStatus], now: u64) -> String {
    let ago = |at: u64| format!("{} ago", span(now.saturating_sub(at)));
    let row = |one: &FederationStatus| {
        vec![
            one.trust_domain.clone(),
            one.sequence.map_or_else(|| "none".to_owned(), |sequence| sequence.to_string()),
            one.roots.to_string(),
            one.jwt_keys.to_string(),
            one.fetched_at.map_or_else(|| "not yet".to_owned(), ago),
            one.error.as_deref().map_or_else(String::new, |why| format!("FAILS: {}", shown(why))),
        ]
    };
    table(&["TRUST DOMAIN", "BUNDLE", "ROOTS", "JWT KEYS", "FETCHED", ""], &all.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_and_what_is_missing_is_said() {
        let good = FederationStatus {
            trust_domain: "east.test".to_owned(),
            sequence: Some(4),
            roots: 2,
            jwt_keys: 1,
            fetched_at: Some(40),
            next_at: Some(100),
            fetches: 3,
            failures: 0,
            failing_since: None,
            error: None,
        };
        let bad = FederationStatus {
            trust_domain: "west.test".to_owned(),
            sequence: None,
            fetched_at: None,
            error: Some("no answer within 10 s".to_owned()),
            ..good.clone()
        };
        let text = text(&[good, bad], 100);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[1].starts_with("east.test     4       2") && lines[1].contains("60 s ago"), "{text}");
        assert!(lines[2].contains("none") && lines[2].ends_with("FAILS: no answer within 10 s"), "{text}");
    }
}
