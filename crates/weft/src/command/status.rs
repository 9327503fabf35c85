//! `weft status`: the mesh on one screen, or one commit's way through it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use weft_control::status::{ChangeState, ChangeStatus, FindingStatus, MeshStatus, ProxyStatus};

use super::server::seconds;
use crate::http::Api;
use crate::output::{Format, hinted, span, table, unix_now};

/// Between two questions while waiting.
const POLL: Duration = Duration::from_millis(50);

/// Show the mesh, or how far a commit has come
///
/// For a commit: who runs it, who refuses it, who has not answered. Exit code 0 when the commit runs everywhere, 1 when it was refused, was overtaken by another or is not done.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A commit id, at least 4 digits
    commit: Option<String>,
    /// Wait until every connected proxy has answered
    #[arg(long, requires = "commit")]
    wait: bool,
    /// How long to wait, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "60")]
    timeout: Duration,
    /// The control plane's API
    #[arg(long, value_name = "HOST:PORT", env = "WEFT_API", default_value = "127.0.0.1:7000")]
    server: String,
    /// How it is printed
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let api = Api::new(args.server.clone());
    match &args.commit {
        None => mesh(&api, args.output).await,
        Some(commit) => {
            let change = if args.wait { wait(&api, commit, args.timeout).await? } else { change(&api, commit).await? };
            match args.output {
                Format::Json => println!("{}", serde_json::to_string_pretty(&change)?),
                Format::Text => print!("{}", describe(&change)),
            }
            Ok(if change.state == ChangeState::Done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

async fn change(api: &Api, commit: &str) -> Result<ChangeStatus> {
    api.get(&format!("/api/status/{commit}")).await
}

/// Waits until the commit is done, refused or overtaken. A commit that was just made may not have been seen yet.
pub(crate) async fn wait(api: &Api, commit: &str, bound: Duration) -> Result<ChangeStatus> {
    let settled = async {
        loop {
            match change(api, commit).await {
                Ok(change) if change.state != ChangeState::Rolling => return change,
                _ => tokio::time::sleep(POLL).await,
            }
        }
    };
    match tokio::time::timeout(bound, settled).await {
        Ok(change) => Ok(change),
        Err(_) => {
            let change = change(api, commit).await?; // not seen, or not reachable: that is the error
            let hint = format!("still waiting for {}", change.pending.join(", "));
            Err(hinted(format!("commit {commit} was not settled within {} s", bound.as_secs()), hint))
        }
    }
}

async fn mesh(api: &Api, format: Format) -> Result<ExitCode> {
    let status: MeshStatus = api.get("/api/status").await?;
    let proxies: Vec<ProxyStatus> = api.get("/api/proxies").await?;
    if format == Format::Json {
        let mut value = serde_json::to_value(&status)?;
        value["proxy_list"] = serde_json::to_value(&proxies)?;
        println!("{value:#}");
        return Ok(ExitCode::SUCCESS);
    }
    match &status.serving {
        Some(change) => {
            println!("mesh {} ({}), up {}", status.mesh, status.trust_domain, span(status.uptime_seconds));
            print!("{}", describe(change));
        }
        None if status.mesh.is_empty() => println!("no commit has passed the check yet"),
        None => println!("the control plane of mesh {} is still starting", status.mesh),
    }
    if let Some(error) = &status.git_error {
        println!("the repository cannot be read: {error}");
    }
    if let Some(refused) = &status.refused {
        println!("\nthe newest commit {} \"{}\" is refused:", short(&refused.commit), refused.subject);
        print!("{}", findings(&refused.findings));
    }
    if !status.services.is_empty() {
        let rows: Vec<_> = status.services.iter().map(service_row).collect();
        print!("\n{}", table(&["SERVICE", "PROTOCOL", "PORT", "ENDPOINTS"], &rows));
    }
    if !proxies.is_empty() {
        let rows: Vec<_> = proxies.iter().map(proxy_row).collect();
        print!("\n{}", table(&["PROXY", "STATE", "COMMIT", "DATA PLANE", "CERTIFICATE", "INGRESS"], &rows));
    }
    for proxy in &proxies {
        for refusal in &proxy.refusals {
            println!("{} refuses {} [{}]: {}", proxy.node, refusal.kind, refusal.resources.join(", "), refusal.reason);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn service_row(service: &weft_control::status::ServiceStatus) -> Vec<String> {
    let endpoints = service.endpoints.iter().map(|endpoint| {
        let labels: Vec<String> = endpoint.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        if labels.is_empty() {
            endpoint.address.clone()
        } else {
            format!("{} ({})", endpoint.address, labels.join(", "))
        }
    });
    let endpoints = endpoints.collect::<Vec<_>>().join("  ");
    let endpoints = if endpoints.is_empty() { "none".to_owned() } else { endpoints };
    vec![service.name.clone(), service.protocol.clone(), service.port.to_string(), endpoints]
}

fn proxy_row(proxy: &ProxyStatus) -> Vec<String> {
    let certificate = proxy.certificate_expires.map_or("-".to_owned(), |at| match at.checked_sub(unix_now()) {
        Some(left) => format!("{} left", span(left)),
        None => "EXPIRED".to_owned(),
    });
    let ingress = match &proxy.ingress {
        Some(address) if proxy.ready => address.clone(),
        Some(address) => format!("{address} (not ready)"),
        None => "-".to_owned(),
    };
    let commit = if proxy.commit.is_empty() { "-".to_owned() } else { short(&proxy.commit).to_owned() };
    vec![proxy.node.clone(), proxy.state.clone(), commit, proxy.data_plane.clone(), certificate, ingress]
}

/// One commit in a few lines.
pub(crate) fn describe(change: &ChangeStatus) -> String {
    let answered = change.acknowledged.len();
    let asked = answered + change.refused.len() + change.pending.len();
    let state = match change.state {
        ChangeState::Done => format!("runs on all {asked} proxies"),
        ChangeState::Rolling => format!("runs on {answered} of {asked} proxies"),
        ChangeState::Degraded => format!("runs on {answered} of {asked} proxies; some refuse a part of it"),
        ChangeState::Refused => "was refused; nothing of it is applied".to_owned(),
        ChangeState::Superseded => "was overtaken by a later commit".to_owned(),
    };
    let converged = change.converged_ms.map(|ms| format!(", converged in {ms:.1} ms")).unwrap_or_default();
    let mut text = format!("commit {} \"{}\" {state}{converged}\n", short(&change.commit), change.subject);
    for (what, nodes) in [("pending", &change.pending), ("refused by", &change.refused)] {
        if !nodes.is_empty() {
            text += &format!("  {what}: {}\n", nodes.join(", "));
        }
    }
    text + &findings(&change.findings)
}

fn findings(list: &[FindingStatus]) -> String {
    let line = |finding: &FindingStatus| {
        let place = finding.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        format!("  {}: {place}{} [{}]\n    hint: {}\n", finding.severity, finding.message, finding.code, finding.hint)
    };
    list.iter().map(line).collect()
}

fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}
