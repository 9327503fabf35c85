//! `weft status`: the mesh on one screen, or one commit's way through it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use weft_control::status::{
    ChangeState, ChangeStatus, FindingStatus, MeshStatus, PlainTextStatus, ProxyStatus, Waiting,
};

use super::server::seconds;
use crate::http::Api;
use crate::output::{Format, hinted, say, shown, span, table, unix_now};

/// A proxy that has not answered for this long is told of, in seconds.
const SILENT: u64 = 10;
/// Between two questions while waiting.
const POLL: Duration = Duration::from_millis(50);

/// Show the mesh, or how far a commit has come
///
/// For a commit: who runs it, who refuses it, who has not answered. Exit code 0 when the commit runs everywhere, 1 when it was refused, was overtaken by another or is not done.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A commit id, at least 4 digits
    commit: Option<String>,
    /// Wait until every connected proxy has answered. Who has not when the time is over is named
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
            let change =
                if args.wait { wait_and_tell(&api, commit, &args).await? } else { change(&api, commit).await? };
            match args.output {
                Format::Json => say(format_args!("{}\n", serde_json::to_string_pretty(&change)?)),
                Format::Text => say(describe(&change)),
            }
            Ok(if change.state == ChangeState::Done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

async fn change(api: &Api, commit: &str) -> Result<ChangeStatus> {
    api.get(&format!("/api/status/{commit}")).await
}

/// Waits; a program is told how far the commit has come also when the time is over.
async fn wait_and_tell(api: &Api, commit: &str, args: &Args) -> Result<ChangeStatus> {
    let waited = wait(api, commit, args.timeout).await;
    if waited.is_err()
        && args.output == Format::Json
        && let Ok(change) = change(api, commit).await
    {
        say(format_args!("{}\n", serde_json::to_string_pretty(&change)?));
    }
    waited
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
            let silent: Vec<String> = change.waiting.iter().map(silence).collect();
            let hint = format!("{}", shown(&silent.join("; ")));
            Err(hinted(format!("commit {commit} was not settled within {} s", bound.as_secs_f32()), hint))
        }
    }
}

async fn mesh(api: &Api, format: Format) -> Result<ExitCode> {
    let status: MeshStatus = api.get("/api/status").await?;
    let proxies: Vec<ProxyStatus> = api.get("/api/proxies").await?;
    if format == Format::Json {
        let mut value = serde_json::to_value(&status)?;
        value["proxy_list"] = serde_json::to_value(&proxies)?;
        say(format_args!("{value:#}\n"));
        return Ok(ExitCode::SUCCESS);
    }
    match &status.serving {
        Some(change) => {
            say(format_args!("mesh {} ({}), up {}\n", status.mesh, status.trust_domain, span(status.uptime_seconds)));
            say(describe(change));
        }
        None if status.mesh.is_empty() => say(format_args!("no commit has passed the check yet\n")),
        None => say(format_args!("the control plane of mesh {} is still starting\n", status.mesh)),
    }
    if let Some(broken) = &status.break_glass {
        let left = span(broken.until.saturating_sub(unix_now()));
        let (operator, reason) = (shown(&broken.operator), shown(&broken.reason));
        say(format_args!("break-glass is on for {left} more, by {operator}: {reason}\n"));
    }
    if let Some(error) = &status.git_error {
        say(format_args!("the repository cannot be read: {error}\n"));
    }
    for warning in &status.warnings {
        say(format_args!("WARNING: {}\n", shown(warning)));
    }
    if let Some(refused) = &status.refused {
        say(format_args!(
            "\nthe newest commit {} \"{}\" is refused:\n",
            short(&refused.commit),
            shown(&refused.subject)
        ));
        say(findings(&refused.findings));
    }
    if !status.services.is_empty() {
        let rows: Vec<_> = status.services.iter().map(service_row).collect();
        say(format_args!("\n{}", table(&["SERVICE", "PROTOCOL", "PORT", "ENDPOINTS"], &rows)));
    }
    for service in &status.services {
        if let Some(plain_text) = &service.plain_text {
            say(format_args!("\n{}", plain_text_of(&service.name, plain_text)));
        }
    }
    if !proxies.is_empty() {
        let rows: Vec<_> = proxies.iter().map(proxy_row).collect();
        say(format_args!("\n{}", table(&["PROXY", "STATE", "COMMIT", "DATA PLANE", "CERTIFICATE", "INGRESS"], &rows)));
    }
    for proxy in &proxies {
        if let Some(cause) = &proxy.cause {
            say(lost_identity(proxy, cause));
        }
        if let Some(since) = proxy.unanswered.iter().map(|one| one.since).min().filter(|since| ago(*since) >= SILENT) {
            let (node, unanswered) = (proxy.node.clone(), proxy.unanswered.clone());
            say(format_args!("{}\n", shown(&silence(&Waiting { node, since, unanswered }))));
        }
        for refusal in &proxy.refusals {
            say(format_args!(
                "{} refuses {} [{}]: {}\n",
                shown(&proxy.node),
                refusal.kind,
                shown(&refusal.resources.join(", ")),
                shown(&refusal.reason)
            ));
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

/// A service that nobody has called in plain text for so long can be made strict, as far as that shows it: a day has all that comes daily.
const QUIET: u64 = 24 * 3_600;

/// Who still calls a permissive service in plain text, and whether it can be made strict.
fn plain_text_of(service: &str, told: &PlainTextStatus) -> String {
    let (watched, quiet) = (span(ago(told.since)), span(told.quiet_seconds));
    let mut text = match told.callers.len() {
        0 => format!("{service} takes plain text, and nobody has called it so for {quiet}, since it is watched\n"),
        1 => format!("{service} takes plain text; 1 caller in {watched}, nobody for {quiet}\n"),
        n => format!("{service} takes plain text; {n} callers in {watched}, nobody for {quiet}\n"),
    };
    if told.quiet_seconds >= QUIET {
        text += "    hint: remove `mtls: permissive` if all who call less often are in the mesh\n";
    }
    if !told.callers.is_empty() {
        let row = |caller: &weft_control::status::PlainTextCallerStatus| {
            let agent = if caller.user_agent.is_empty() { "-" } else { &*caller.user_agent };
            vec![
                caller.address.clone(),
                format!("{} ago", span(ago(caller.last_seen))),
                caller.allowed.to_string(),
                caller.denied.to_string(),
                shown(&caller.asked).into_owned(),
                shown(agent).into_owned(),
            ]
        };
        let rows: Vec<_> = told.callers.iter().map(row).collect();
        text += &table(&["FROM", "LAST", "ALLOWED", "DENIED", "ASKED LAST", "USER AGENT"], &rows);
    }
    if told.forgotten > 0 || told.missed > 0 {
        text += &format!(
            "    and {} further callers, {} further calls, of which nothing is known\n",
            told.forgotten, told.missed
        );
    }
    text
}

fn proxy_row(proxy: &ProxyStatus) -> Vec<String> {
    let certificate = proxy.certificate_expires.map_or("-".to_owned(), |at| match at.checked_sub(unix_now()) {
        Some(left) => format!("{} left", span(left)),
        None => format!("EXPIRED {} ago", span(ago(at))),
    });
    let ingress = match &proxy.ingress {
        Some(address) if proxy.ready => address.clone(),
        Some(address) => format!("{address} (app does not listen)"),
        None => "-".to_owned(),
    };
    let state = match proxy.connected {
        true => proxy.state.clone(),
        false => format!("{} for {}", proxy.state, span(ago(proxy.since))),
    };
    let commit = if proxy.commit.is_empty() { "-".to_owned() } else { short(&proxy.commit).to_owned() };
    let data_plane = if proxy.data_plane.is_empty() { "-".to_owned() } else { proxy.data_plane.clone() };
    vec![proxy.node.clone(), state, commit, data_plane, certificate, ingress]
}

/// What became of a sidecar that can no longer prove who it is, and what brings it back.
fn lost_identity(proxy: &ProxyStatus, cause: &str) -> String {
    let (node, service) = (shown(&proxy.node), shown(&proxy.service));
    let since = span(proxy.certificate_expires.map_or(0, ago));
    format!(
        "{node}: {cause}: its certificate expired {since} ago and was not renewed, so it makes and takes no new connection\n    \
         hint: start the sidecar again: it comes back by the key of its machine. One that was away for longer than \
         `Mesh.identity.machineLife` needs a join token: `weft identity join-token --service {service}`\n"
    )
}

/// What a proxy owes, in one line.
fn silence(waiting: &Waiting) -> String {
    let (node, long) = (&waiting.node, span(ago(waiting.since)));
    match &waiting.unanswered[..] {
        [] => format!("{node} has taken nothing for {long}"),
        some => {
            let kinds: Vec<&str> = some.iter().map(|one| one.kind.as_str()).collect();
            format!("{node} has neither accepted nor refused {} for {long}", kinds.join(", "))
        }
    }
}

/// Seconds since then.
fn ago(then: u64) -> u64 {
    unix_now().saturating_sub(then)
}

/// One commit in a few lines.
pub(crate) fn describe(change: &ChangeStatus) -> String {
    let answered = change.acknowledged.len();
    let asked = answered + change.refused.len() + change.pending.len();
    let state = match change.state {
        ChangeState::Done if asked == 0 => "is in force; no proxy is connected".to_owned(),
        ChangeState::Done => format!("runs on {}", all(asked)),
        ChangeState::Rolling => format!("runs on {answered} of {}", proxies(asked)),
        ChangeState::Degraded => format!("runs on {answered} of {}; some refuse a part of it", proxies(asked)),
        ChangeState::Refused => "was refused; nothing of it is applied".to_owned(),
        ChangeState::Superseded => "was overtaken by a later commit".to_owned(),
    };
    let converged = change.converged_ms.map(|ms| format!(", converged in {ms:.1} ms")).unwrap_or_default();
    let mut text = format!("commit {} \"{}\" {state}{converged}\n", short(&change.commit), shown(&change.subject));
    for waiting in &change.waiting {
        text += &format!("  pending: {}\n", shown(&silence(waiting)));
    }
    if !change.refused.is_empty() {
        text += &format!("  refused by: {}\n", shown(&change.refused.join(", ")));
    }
    text + &findings(&change.findings)
}

fn all(count: usize) -> String {
    if count == 1 { proxies(1) } else { format!("all {}", proxies(count)) }
}

fn proxies(count: usize) -> String {
    if count == 1 { "1 proxy".to_owned() } else { format!("{count} proxies") }
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
