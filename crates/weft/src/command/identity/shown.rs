//! `weft identity list`, `show` and `log`: who has which certificate, and what became of whom.

use anyhow::Result;
use weft_control::status::{CertificateStatus, IdentityEvent, IdentityRecord, TrustStatus};
use weft_model::ServiceName;

use crate::http::Api;
use crate::output::{Format, hinted, say, shown, span, table, unix_now};

/// Records that `weft identity show` prints.
const LAST: usize = 20;

#[derive(Debug, clap::Args)]
struct From {
    /// The control plane's API
    #[arg(long, value_name = "HOST:PORT", env = "WEFT_API", default_value = "127.0.0.1:7000")]
    server: String,
    /// How it is printed
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Arguments of `weft identity list`.
#[derive(Debug, clap::Args)]
pub(crate) struct ListArgs {
    /// Only those of this service, like prod/web, or of this SPIFFE ID
    who: Option<String>,
    #[command(flatten)]
    from: From,
}

/// Arguments of `weft identity show`.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// A service like prod/web, a SPIFFE ID, serial:HEX, or machine:NAME
    who: String,
    #[command(flatten)]
    from: From,
}

/// Arguments of `weft identity log`.
#[derive(Debug, clap::Args)]
pub(crate) struct LogArgs {
    /// Only what is about a service like prod/web, a SPIFFE ID, serial:HEX, machine:NAME, or the id of a root or key
    who: Option<String>,
    /// The most records, the youngest
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=4096))]
    limit: u16,
    #[command(flatten)]
    from: From,
}

pub(super) async fn list(args: ListArgs) -> Result<()> {
    let api = Api::new(args.from.server);
    let mut all: Vec<CertificateStatus> = api.get("/api/identities").await?;
    if let Some(who) = &args.who {
        all.retain(|one| is_about(one, who));
    }
    print(&all, args.from.output, |all| certificates(all, unix_now()))
}

pub(super) async fn show(args: ShowArgs) -> Result<()> {
    let api = Api::new(args.from.server);
    let mut all: Vec<CertificateStatus> = api.get("/api/identities").await?;
    all.retain(|one| is_about(one, &args.who));
    let records: Vec<IdentityRecord> = api.get(&records_of(Some(&args.who), LAST)).await?;
    let trust: TrustStatus = api.get("/api/identity").await?;
    let domain = &trust.trust_domain;
    let banned = trust.bans.iter().filter(|ban| is_name(&ban.banned, &args.who, domain)).map(|ban| &*ban.reason).next();
    if all.is_empty() && records.is_empty() && banned.is_none() {
        let what = format!("nobody is known as {}", args.who);
        return Err(hinted(
            what,
            "`weft identity list` shows who has a certificate, `weft identity log` what became of others",
        ));
    }
    match args.from.output {
        Format::Json => {
            let value = serde_json::json!({"certificates": all, "records": records, "banned": banned});
            say(format_args!("{value:#}\n"));
        }
        Format::Text => {
            if let Some(reason) = banned {
                say(format_args!("{} is banned: {}\n", shown(&args.who), shown(reason)));
            }
            say(certificates(&all, unix_now()));
            say(format_args!("\n{}", log_of(&records)));
        }
    }
    Ok(())
}

pub(super) async fn log(args: LogArgs) -> Result<()> {
    let api = Api::new(args.from.server);
    let records: Vec<IdentityRecord> = api.get(&records_of(args.who.as_deref(), args.limit.into())).await?;
    print(&records, args.from.output, log_of)
}

fn print<T: serde::Serialize>(what: &[T], format: Format, text: impl FnOnce(&[T]) -> String) -> Result<()> {
    match format {
        Format::Json => say(format_args!("{}\n", serde_json::to_string_pretty(what)?)),
        Format::Text => say(text(what)),
    }
    Ok(())
}

fn records_of(who: Option<&str>, limit: usize) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(who.map(|who| ("who", who))).append_pair("limit", &limit.to_string());
    format!("/api/identity/records?{}", query.finish())
}

/// As the control plane reads what a record is about.
fn is_about(one: &CertificateStatus, who: &str) -> bool {
    is_name(&one.identity, who, domain_of(&one.identity))
        || who.strip_prefix("serial:").is_some_and(|serial| one.serial.eq_ignore_ascii_case(serial))
        || who.strip_prefix("machine:").is_some_and(|machine| one.machine.as_deref() == Some(machine))
}

/// Whether somebody who is called by a SPIFFE ID, or as a ban calls him, is meant.
fn is_name(name: &str, who: &str, domain: &str) -> bool {
    let service = who.parse::<ServiceName>().ok();
    let id = service.map(|service| format!("spiffe://{domain}/ns/{}/sa/{}", service.namespace(), service.name()));
    name == who || id.as_deref() == Some(name)
}

fn domain_of(identity: &str) -> &str {
    identity.strip_prefix("spiffe://").and_then(|rest| rest.split('/').next()).unwrap_or_default()
}

fn certificates(all: &[CertificateStatus], now: u64) -> String {
    if all.is_empty() {
        return "no certificate lives\n".to_owned();
    }
    let row = |one: &CertificateStatus| {
        let age = match one.issued_at {
            0 => String::new(),
            at => span(now.saturating_sub(at)),
        };
        let what = match &one.banned {
            Some(reason) => format!("BANNED: {reason}"),
            None if one.late => "LATE: it should have been renewed".to_owned(),
            None => String::new(),
        };
        let machine = one.machine.clone().unwrap_or_else(|| "-".to_owned());
        let left = span(one.expires_at.saturating_sub(now));
        let by = one.by.clone().unwrap_or_else(|| "-".to_owned());
        vec![one.identity.clone(), one.node.clone(), machine, by, one.serial.clone(), age, left, what]
    };
    let rows: Vec<Vec<String>> = all.iter().map(row).collect();
    table(&["IDENTITY", "NODE", "MACHINE", "BY", "SERIAL", "AGE", "EXPIRES", ""], &rows)
}

fn log_of(records: &[IdentityRecord]) -> String {
    if records.is_empty() {
        return "nothing is recorded\n".to_owned();
    }
    let row = |record: &IdentityRecord| {
        let event = match (record.event, record.asked) {
            (IdentityEvent::Refused, Some(asked)) => format!("REFUSED ({})", asked.name()),
            (event, _) => event.name().to_owned(),
        };
        let mut what = record.reason.clone();
        for (name, value) in [("machine", record.machine.as_deref().unwrap_or_default()), ("serial", &*record.serial)] {
            if !value.is_empty() {
                what = format!("{what}{}{name} {value}", if what.is_empty() { "" } else { ", " });
            }
        }
        if record.unrecorded > 0 {
            what = format!("{what} ({} refusals before it are not recorded)", record.unrecorded);
        }
        vec![record.time.clone(), event, record.who.clone(), what]
    };
    let rows: Vec<Vec<String>> = records.iter().map(row).collect();
    table(&["TIME", "EVENT", "WHO", ""], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> CertificateStatus {
        CertificateStatus {
            identity: "spiffe://acme.internal/ns/prod/sa/web".into(),
            node: "prod/web~a\u{7}".into(),
            machine: Some("cafe01".into()),
            by: Some("x509pop".into()),
            serial: "0A1B".into(),
            root: "aa".into(),
            bundle: 1,
            issued_at: 900,
            expires_at: 1_300,
            late: false,
            banned: None,
        }
    }

    #[test]
    fn a_list_says_whose_certificates_live_and_what_is_wrong() {
        let late = CertificateStatus { late: true, machine: None, by: None, issued_at: 0, ..certificate() };
        let banned = CertificateStatus { late: true, banned: Some("stolen".into()), ..certificate() };
        let told = "\
IDENTITY                               NODE             MACHINE  BY       SERIAL  AGE    EXPIRES
spiffe://acme.internal/ns/prod/sa/web  prod/web~a\\u{7}  cafe01   x509pop  0A1B    1 min  5 min
spiffe://acme.internal/ns/prod/sa/web  prod/web~a\\u{7}  -        -        0A1B           5 min    LATE: it should have been renewed
spiffe://acme.internal/ns/prod/sa/web  prod/web~a\\u{7}  cafe01   x509pop  0A1B    1 min  5 min    BANNED: stolen
";
        assert_eq!(certificates(&[certificate(), late, banned], 1_000), told);
        assert_eq!(certificates(&[], 1_000), "no certificate lives\n");
    }

    #[test]
    fn somebody_is_meant_by_name_id_serial_or_machine() {
        let one = certificate();
        for who in ["prod/web", "spiffe://acme.internal/ns/prod/sa/web", "serial:0a1b", "machine:cafe01"] {
            assert!(is_about(&one, who), "{who}");
        }
        for who in ["prod/we", "spiffe://other/ns/prod/sa/web", "serial:", "machine:cafe", "0A1B", ""] {
            assert!(!is_about(&one, who), "{who}");
        }
        assert_eq!(records_of(Some("serial:0a&b=1"), 5), "/api/identity/records?who=serial%3A0a%26b%3D1&limit=5");
    }

    #[test]
    fn a_log_says_what_was_refused_and_why() {
        let record = |event, asked, reason: &str| IdentityRecord {
            time: "2026-01-02T03:04:05.678Z".into(),
            asked,
            unrecorded: u64::from(asked.is_some()) * 7,
            machine: Some("cafe01".into()),
            ..IdentityRecord::of(event, "spiffe://acme.internal/ns/prod/sa/web").because(reason)
        };
        let records = [
            record(IdentityEvent::Attested, None, "by join token 0A"),
            record(IdentityEvent::Refused, Some(IdentityEvent::Renewed), "banned"),
        ];
        let told = "\
TIME                      EVENT              WHO
2026-01-02T03:04:05.678Z  attested           spiffe://acme.internal/ns/prod/sa/web  by join token 0A, machine cafe01
2026-01-02T03:04:05.678Z  REFUSED (renewed)  spiffe://acme.internal/ns/prod/sa/web  banned, machine cafe01 (7 refusals before it are not recorded)
";
        assert_eq!(log_of(&records), told);
        assert_eq!(log_of(&[]), "nothing is recorded\n");
    }
}
