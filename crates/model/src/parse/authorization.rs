//! `Service.authorization`: who decides about calls of a service, and what happens when nobody can be asked.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::fields::{Field, Shape};
use super::report::Report;
use crate::code;
use crate::intent::{Authorization, DecidedBy};

const AUTHORIZATION: Shape =
    Shape { what: "`authorization`", fields: &["by", "timeout", "failOpen"], later: &["server", "withRequestBody"] };

/// Less than any network takes, and more than any caller waits.
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(10);

pub(super) fn read(field: Field<'_>, report: &mut Report) -> Authorization {
    let mut authorization = Authorization::default();
    let Some(fields) = AUTHORIZATION.read(field.node, report) else { return authorization };
    let words = [("sidecar", DecidedBy::Sidecar), ("server", DecidedBy::Server)];
    let by = fields.optional("by").map(|field| field.choice(&words, &[], report));
    authorization.by = by.unwrap_or(Some(DecidedBy::Sidecar)).unwrap_or(DecidedBy::Server); // already told, so nothing else is said
    for key in ["timeout", "failOpen"] {
        if let (DecidedBy::Sidecar, Some(field)) = (authorization.by, fields.optional(key)) {
            let message = format!("`{key}` is about a server that is asked, and the sidecars decide by themselves");
            let hint = format!("remove `{key}`, or write `by: server` to have the control plane asked");
            report.error(code::BAD_VALUE, field.key_span, message, hint);
        }
    }
    if let Some((field, timeout)) = fields.optional("timeout").and_then(|it| Some((it, it.duration(report)?))) {
        if TIMEOUT.contains(&timeout) {
            authorization.timeout = timeout;
        } else {
            let hint = "each call waits for the answer; a second is much";
            report.error(code::DURATION, field.span(), "`timeout` must be from 10ms to 10s", hint);
        }
    }
    if let Some(field) = fields.optional("failOpen") {
        authorization.fail_open = field.choice(&[("true", true), ("false", false)], &[], report).unwrap_or_default();
        if authorization.fail_open && authorization.by == DecidedBy::Server {
            let message = "while the control plane cannot be asked, every call to this service is allowed, whatever the policies say";
            let hint = "remove `failOpen`, unless a call that nobody decided on does less harm than one that fails";
            report.warning(code::FAIL_OPEN, field.key_span, message, hint);
        }
    }
    authorization
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;
    use crate::finding::Severity;
    use crate::source::SourceFile;

    fn read(authorization: &str) -> (Option<Authorization>, Vec<(&'static str, Severity, String)>) {
        let text = format!(
            "kind: Mesh\nname: acme\ntrustDomain: acme.internal\n---\nkind: Service\nname: board\nnamespace: prod\nport: 80\n\
             protocol: http\nauthorization: {authorization}\n"
        );
        let (intent, findings) = parse(&[SourceFile::new("mesh.yaml", text.as_bytes())]);
        let authorization = intent.and_then(|intent| Some(intent.services.into_values().next()?.authorization));
        (authorization, findings.into_iter().map(|f| (f.code, f.severity, f.message)).collect())
    }

    #[test]
    fn sidecars_decide_unless_it_is_said_otherwise_and_nothing_fails_open_by_itself() {
        let default = (Some(Authorization::default()), Vec::new());
        assert_eq!(default.0.as_ref().map(|it| (it.by, it.fail_open)), Some((DecidedBy::Sidecar, false)));
        assert_eq!(read("{}"), default);
        assert_eq!(read("{by: sidecar}"), default);
        let timeout = Duration::from_millis(300);
        let server = Authorization { by: DecidedBy::Server, timeout, fail_open: false };
        assert_eq!(read("{by: server, timeout: 300ms, failOpen: false}"), (Some(server), Vec::new()));
    }

    #[test]
    fn failing_open_is_warned_of() {
        let (authorization, findings) = read("{by: server, failOpen: true}");
        assert!(authorization.expect("a warning only").fail_open);
        let [(code, severity, message)] = &findings[..] else { panic!("{findings:?}") };
        assert_eq!((*code, *severity), ("WEFT0215", Severity::Warning));
        assert!(message.contains("every call to this service is allowed"), "{message}");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (wrong, code) in [
            ("{failOpen: true}", "WEFT0111"),
            ("{by: sidecar, timeout: 1s}", "WEFT0111"),
            ("{by: mesh, failOpen: false}", "WEFT0111"),
            ("{by: server, failOpen: yes}", "WEFT0111"),
            ("{by: server, timeout: 1m}", "WEFT0112"),
            ("{by: server, timeout: 0s}", "WEFT0112"),
            ("{by: server, withRequestBody: {}}", "WEFT0107"),
            ("{by: server, failopen: true}", "WEFT0106"),
            ("server", "WEFT0109"),
        ] {
            let (intent, findings) = read(wrong);
            assert_eq!((intent, findings.len(), findings[0].0), (None, 1, code), "{wrong}: {findings:?}");
        }
    }
}
