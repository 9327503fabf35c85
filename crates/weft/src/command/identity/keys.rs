//! `weft identity tree` and `weft identity rotate`: the keys that everybody's identity hangs from.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use weft_control::status::{
    BanStatus, BehindStatus, RootState, RootStatus, RotateRequest, TrustStatus, UpstreamStatus,
};
use weft_model::time::length;

use super::admin_token;
use crate::http::Api;
use crate::output::{Format, count, hinted, say, shown, span, table, unix_now};

/// Between two looks at how far a rotation is.
const LOOK: Duration = Duration::from_millis(100);
/// The most workloads that are named one by one.
const NAMED: usize = 10;

/// Arguments of `weft identity tree`.
#[derive(Debug, clap::Args)]
pub(crate) struct TreeArgs {
    /// The control plane's API
    #[arg(long, value_name = "HOST:PORT", env = "WEFT_API", default_value = "127.0.0.1:7000")]
    server: String,
    /// How it is printed
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Arguments of `weft identity rotate`.
#[derive(Debug, clap::Args)]
pub(crate) struct RotateArgs {
    /// Why, for those who read the log afterwards
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The root or JWT key that is in wrong hands, as `weft identity tree` names it: what it signed is replaced at once, then nobody trusts it
    #[arg(long, value_name = "ROOT")]
    compromised: Option<String>,
    /// Replace the key that signs JWT-SVIDs, and not the root
    #[arg(long, conflicts_with = "compromised")]
    jwt: bool,
    /// How long to wait until it is done; 0s to wait for nothing
    #[arg(long, default_value = "1m", value_parser = length)]
    wait: Duration,
    /// The control plane's API
    #[arg(long, value_name = "HOST:PORT", env = "WEFT_API", default_value = "127.0.0.1:7000")]
    server: String,
    /// The control plane's state folder, which has the admin token
    #[arg(long, alias = "state", value_name = "FOLDER", env = "WEFT_SERVER_STATE", default_value = "weft-server")]
    state_dir: PathBuf,
    /// How it is printed
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(super) async fn tree(args: TreeArgs) -> Result<()> {
    let trust: TrustStatus = Api::new(args.server).get("/api/identity").await?;
    print(&trust, args.output)
}

pub(super) async fn rotate(args: RotateArgs) -> Result<()> {
    let admin = admin_token(&args.state_dir)?;
    let bound = args.wait;
    let api = Api::new(args.server);
    let before: TrustStatus = api.get("/api/identity").await?;
    let wanted = RotateRequest { reason: args.reason, compromised: args.compromised, jwt: args.jwt };
    let mut trust: TrustStatus = api.post("/api/identity/rotate", &admin, &wanted).await?;
    let begun = Instant::now();
    while !is_done(&before, &trust, &wanted) {
        if begun.elapsed() >= bound {
            print(&trust, args.output)?;
            if bound.is_zero() {
                return Ok(());
            }
            let what = format!("it is under way, and not done within {}", span(bound.as_secs()));
            return Err(hinted(what, waiting_for(&trust)));
        }
        tokio::time::sleep(LOOK).await;
        trust = api.get("/api/identity").await?;
    }
    print(&trust, args.output)
}

/// A planned rotation is done when another root or key signs; that of a compromised one when nobody trusts it any more.
fn is_done(before: &TrustStatus, now: &TrustStatus, wanted: &RotateRequest) -> bool {
    let active = |trust: &TrustStatus| {
        let keys = if wanted.jwt { &trust.jwt_keys } else { &trust.roots };
        keys.iter().find(|key| key.state == RootState::Active).map(|key| key.id.clone())
    };
    match &wanted.compromised {
        Some(gone) => now.roots.iter().chain(&now.jwt_keys).all(|left| left.id != *gone),
        // A CA outside says itself which root it signs under.
        None if now.upstream.is_some() && !wanted.jwt => now.issuing != before.issuing,
        None => active(now) != active(before),
    }
}

fn waiting_for(trust: &TrustStatus) -> String {
    if trust.behind.is_empty() {
        let problem = trust.upstream.as_ref().and_then(|upstream| upstream.problem.clone());
        return problem.unwrap_or_else(|| {
            "`weft identity tree` shows how far it is; the server's log says what is in the way".to_owned()
        });
    }
    "it goes on by itself when those who are behind hold the new bundle, or their certificates end; `weft identity tree` shows them"
        .to_owned()
}

pub(super) fn print(trust: &TrustStatus, format: Format) -> Result<()> {
    match format {
        Format::Json => say(format_args!("{}\n", serde_json::to_string_pretty(trust)?)),
        Format::Text => say(text(trust, unix_now())),
    }
    Ok(())
}

fn text(trust: &TrustStatus, now: u64) -> String {
    let rows: Vec<Vec<String>> = trust.roots.iter().map(|root| row(root, now)).collect();
    let mut text = format!("trust domain {}, bundle {}\n", trust.trust_domain, trust.sequence);
    text += &table(&["ROOT", "STATE", "EXPIRES", ""], &rows);
    let rows: Vec<Vec<String>> = trust.jwt_keys.iter().map(|key| row(key, now)).collect();
    text += &table(&["JWT KEY", "STATE", "EXPIRES", ""], &rows);
    if !trust.roots.is_empty() {
        let issuing = span(trust.issuing_renewed_at.saturating_sub(now));
        text += &format!("the issuing CA {} is replaced in {issuing}\n", trust.issuing);
    }
    if let Some(upstream) = &trust.upstream {
        text += &upstream_lines(upstream, now);
    }
    if !trust.bans.is_empty() {
        let row = |ban: &BanStatus| {
            vec![shown(&ban.banned).into_owned(), span(now.saturating_sub(ban.since)), shown(&ban.reason).into_owned()]
        };
        text += &table(&["BANNED", "FOR", ""], &trust.bans.iter().map(row).collect::<Vec<_>>());
    }
    if !trust.behind.is_empty() {
        text += &format!("{} without this bundle yet:\n", count(trust.behind.len(), "workload"));
        trust.behind.iter().take(NAMED).for_each(|behind| text += &behind_line(behind, now));
        if let Some(more @ 1..) = trust.behind.len().checked_sub(NAMED) {
            text += &format!("  and {more} more\n");
        }
    }
    text
}

fn upstream_lines(upstream: &UpstreamStatus, now: u64) -> String {
    let mut text = format!("issuing CAs are signed by {}\n", shown(&upstream.name));
    if let Some(problem) = &upstream.problem {
        let since = upstream.since.map(|since| span(now.saturating_sub(since))).unwrap_or_default();
        text += &format!("  for {since}: {}\n", shown(problem));
    }
    text
}

fn row(root: &RootStatus, now: u64) -> Vec<String> {
    let ago = root.since.map(|since| span(now.saturating_sub(since))).unwrap_or_default();
    let (state, mut what) = match root.state {
        RootState::Published if root.source.is_some() => ("published", format!("for {ago}")),
        RootState::Published => ("published", format!("for {ago}; signs when everybody holds it")),
        RootState::Active => ("active", format!("signs since {ago}")),
        RootState::Retired => {
            let left = root.until.map(|until| span(until.saturating_sub(now))).unwrap_or_default();
            ("retired", format!("leaves the bundle in {left}"))
        }
    };
    if let Some(why) = &root.tainted {
        what = format!("COMPROMISED ({why}): being replaced");
    }
    if let Some(source) = &root.source {
        what += &format!("; of {}", shown(source));
    }
    vec![root.id.clone(), state.to_owned(), span(root.not_after.saturating_sub(now)), what]
}

fn behind_line(behind: &BehindStatus, now: u64) -> String {
    let left = span(behind.until.saturating_sub(now));
    format!("  {}  holds {}, certificate ends in {left}\n", shown(&behind.who), behind.holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(id: &str, state: RootState) -> RootStatus {
        let (since, until) = match state {
            RootState::Retired => (None, Some(1_100)),
            _ => (Some(990), None),
        };
        let (id, tainted, source) = (id.into(), None, None);
        RootStatus { id, state, since, until, not_before: 0, not_after: 1_000_000, tainted, source }
    }

    #[test]
    fn a_tree_says_who_signs_and_who_is_waited_for() {
        let trust = TrustStatus {
            trust_domain: "acme.internal".into(),
            sequence: 2,
            roots: vec![root("aa", RootState::Active), root("bb", RootState::Published)],
            jwt_keys: vec![root("cc", RootState::Active)],
            issuing: "dd".into(),
            issuing_renewed_at: 5_000,
            upstream: None,
            behind: vec![BehindStatus {
                who: "spiffe://acme.internal/ns/prod/sa/web prod/web~\u{7}".into(),
                holds: 1,
                until: 1_030,
            }],
            bans: vec![BanStatus { banned: "serial:0A".into(), reason: "stolen".into(), since: 990 }],
        };
        let told = "\
trust domain acme.internal, bundle 2
ROOT  STATE      EXPIRES
aa    active     11 d     signs since 10 s
bb    published  11 d     for 10 s; signs when everybody holds it
JWT KEY  STATE   EXPIRES
cc       active  11 d     signs since 10 s
the issuing CA dd is replaced in 66 min
BANNED     FOR
serial:0A  10 s  stolen
1 workload without this bundle yet:
  spiffe://acme.internal/ns/prod/sa/web prod/web~\\u{7}  holds 1, certificate ends in 30 s
";
        assert_eq!(text(&trust, 1_000), told);
        let name = "/etc/ca.pem".to_owned();
        let mut outside = root("ee", RootState::Active);
        outside.source = Some(name.clone());
        let (problem, since) = (Some("cannot use /etc/ca.key: gone".into()), Some(940));
        let upstream = Some(UpstreamStatus { name, problem, since, request: None });
        let (jwt_keys, behind, bans) = (Vec::new(), Vec::new(), Vec::new());
        let told = "\
trust domain acme.internal, bundle 2
ROOT  STATE   EXPIRES
ee    active  11 d     signs since 10 s; of /etc/ca.pem
JWT KEY  STATE  EXPIRES
the issuing CA dd is replaced in 66 min
issuing CAs are signed by /etc/ca.pem
  for 60 s: cannot use /etc/ca.key: gone
";
        let trust = TrustStatus { roots: vec![outside], jwt_keys, behind, bans, upstream, ..trust };
        assert_eq!(text(&trust, 1_000), told);
    }

    #[test]
    fn a_rotation_is_done_when_another_signs_or_the_stolen_one_is_gone() {
        let of = |roots: &[(&str, RootState)]| TrustStatus {
            roots: roots.iter().map(|(id, state)| root(id, *state)).collect(),
            ..TrustStatus::default()
        };
        let before = of(&[("aa", RootState::Active)]);
        let published = of(&[("aa", RootState::Active), ("bb", RootState::Published)]);
        let after = of(&[("aa", RootState::Retired), ("bb", RootState::Active)]);
        let end = of(&[("bb", RootState::Active)]);
        let wanted = |compromised: Option<&str>, jwt| RotateRequest {
            reason: String::new(),
            compromised: compromised.map(str::to_owned),
            jwt,
        };
        let planned = wanted(None, false);
        assert!(!is_done(&before, &before, &planned) && !is_done(&before, &published, &planned));
        assert!(is_done(&before, &after, &planned) && !is_done(&before, &after, &wanted(None, true)));
        let stolen = wanted(Some("aa"), false);
        assert!(!is_done(&before, &after, &stolen) && is_done(&before, &end, &stolen));
        let keys = |id: &str| TrustStatus { jwt_keys: vec![root(id, RootState::Active)], ..before.clone() };
        assert!(is_done(&keys("cc"), &keys("dd"), &wanted(None, true)));
        assert!(!is_done(&keys("cc"), &keys("cc"), &wanted(Some("cc"), false)));
        assert!(is_done(&keys("cc"), &keys("dd"), &wanted(Some("cc"), false)));
    }
}
