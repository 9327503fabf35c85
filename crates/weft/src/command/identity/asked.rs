//! `weft identity ask`: what the process that runs it is to an agent, or to a sidecar's Workload API.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use tonic::Code;
use weft_control::status::unix_seconds;
use weft_identity::certificate;
use weft_workload_api::proto::{X509svid, X509svidRequest};
use weft_workload_api::{Endpoint, client};

use crate::output::{Format, hinted, say, span};

/// How long an agent may take, which may have to ask the control plane first.
const BOUND: Duration = Duration::from_secs(15);

/// Arguments of `weft identity ask`.
#[derive(Debug, clap::Args)]
pub(crate) struct AskArgs {
    /// Where a SPIFFE Workload API is served: a path, unix:///PATH or tcp://127.0.0.1:PORT
    #[arg(long, value_name = "PATH", env = "SPIFFE_ENDPOINT_SOCKET")]
    socket: Endpoint,
    /// How it is printed
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(super) async fn ask(args: AskArgs) -> Result<()> {
    let asked = tokio::time::timeout(BOUND, identities(&args.socket)).await;
    let identities = asked.with_context(|| format!("{} does not answer", args.socket))??;
    match args.output {
        Format::Json => {
            let shown: Vec<_> =
                identities.iter().map(|(id, ends)| serde_json::json!({"id": id, "expires_at": ends})).collect();
            say(format_args!("{:#}\n", serde_json::Value::from(shown)));
        }
        Format::Text => {
            let now = unix_seconds(SystemTime::now());
            identities.iter().for_each(|(id, ends)| say(format_args!("{id} for {}\n", span(ends.saturating_sub(now)))));
        }
    }
    Ok(())
}

/// Each SPIFFE ID with the end of its certificate, in seconds since 1970.
async fn identities(endpoint: &Endpoint) -> Result<Vec<(String, u64)>> {
    let client = client::connect(endpoint).await.with_context(|| format!("nothing answers at {endpoint}"));
    let refused = |status: tonic::Status| match status.code() {
        Code::PermissionDenied => hinted(
            format!("this process has no identity: {}", status.message()),
            "`attest` of a service says which processes have it",
        ),
        _ => anyhow::anyhow!("{}", status.message().to_owned()),
    };
    let mut stream = client?.fetch_x509svid(X509svidRequest {}).await.map_err(refused)?.into_inner();
    let answer = stream.message().await.map_err(refused)?.context("the stream ended without an answer")?;
    let described = |svid: X509svid| {
        let ends = certificate::end_of_first(&svid.x509_svid)?;
        Ok((svid.spiffe_id, unix_seconds(ends)))
    };
    answer.svids.into_iter().map(described).collect()
}
