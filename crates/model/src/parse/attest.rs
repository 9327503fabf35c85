//! `Service.attest`: which processes agents give the identity of a service to.

use std::sync::Arc;

use super::fields::{Field, Fields, Shape, short};
use super::report::Report;
use super::yaml::Value;
use crate::attest::{Attest, Selectors};
use crate::code;
use crate::subject::AgentName;

const ATTEST: Shape = Shape {
    what: "an entry of `attest`",
    fields: &["agent", "uid", "gid", "user", "group", "path", "sha256", "systemdUnit", "cgroup", "containerId"],
    later: &["supplementaryGid", "image", "labels", "kubernetes", "environment"],
};

/// The highest number of a user or group; the one above means none (chown(2)).
const MAX_ID: u64 = u32::MAX as u64 - 1;
/// Of paths, as Linux has it.
const MAX_PATH: usize = 4095;

/// What is wrong with a text, and what to write.
type Problem = Option<(String, String)>;

pub(super) fn read(field: Field<'_>, report: &mut Report) -> Vec<Attest> {
    let mut entries: Vec<Attest> = Vec::new();
    for item in field.items(report).into_iter().flatten() {
        let before = report.len();
        let Some(fields) = ATTEST.read(item.node, report) else { continue };
        let entry = Attest { agents: agents(&fields, report), selectors: selectors(&fields, report) };
        if report.len() > before {
            continue;
        }
        if entry.selectors.is_empty() {
            let message = "this entry holds of every process: it asks nothing of one";
            let hint = "say by what a process is told, like `uid: 1001` or `path: /usr/bin/web`";
            report.error(code::BAD_VALUE, item.span(), message, hint);
        } else if entries.contains(&entry) {
            report.error(code::REPEATED, item.span(), "this entry stands here a second time", "keep one");
        } else {
            entries.push(entry);
        }
    }
    entries
}

/// `agent: m1` or `agent: [m1, m2]`.
fn agents(fields: &Fields<'_>, report: &mut Report) -> Vec<AgentName> {
    let Some(field) = fields.optional("agent") else { return Vec::new() };
    let named: Vec<Field<'_>> = match &field.node.value {
        Value::List(items) if items.is_empty() => {
            let hint = "name one at least, or leave `agent` out: then any will do";
            report.error(code::BAD_VALUE, field.span(), "no agent is named", hint);
            return Vec::new();
        }
        Value::List(_) => field.items(report).into_iter().flatten().collect(),
        _ => vec![field],
    };
    named.iter().filter_map(|field| field.dns_label(report)?.parse().ok()).collect()
}

fn selectors(fields: &Fields<'_>, report: &mut Report) -> Selectors {
    let mut number = |key| {
        let number = fields.optional(key)?.number(0, MAX_ID, report)?;
        u32::try_from(number).ok()
    };
    let (uid, gid) = (number("uid"), number("gid"));
    let mut text = |key, problem: fn(&str) -> Problem| -> Option<Arc<str>> {
        let field = fields.optional(key)?;
        let text = field.text(report)?;
        match problem(text) {
            None => Some(text.into()),
            Some((problem, hint)) => {
                let message = format!("`{key}` cannot be `{}`: {problem}", short(text));
                report.error(code::BAD_VALUE, field.span(), message, hint);
                None
            }
        }
    };
    Selectors {
        uid,
        gid,
        user: text("user", |name| account("uid", name)),
        group: text("group", |name| account("gid", name)),
        path: text("path", path),
        sha256: text("sha256", digest),
        systemd_unit: text("systemdUnit", unit),
        cgroup: text("cgroup", cgroup),
        container_id: text("containerId", digest),
    }
}

fn says(problem: &str, hint: impl Into<String>) -> Problem {
    Some((problem.to_owned(), hint.into()))
}

fn account(number: &str, name: &str) -> Problem {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'$');
    if !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()) {
        return says("a name has a letter", format!("write `{number}: {name}`"));
    }
    if name.is_empty() || name.len() > 256 || name.starts_with('-') || !name.bytes().all(legal) {
        return says("no account is called so", "use letters, digits, `.`, `_` and `-`, as in /etc/passwd");
    }
    None
}

fn path(path: &str) -> Problem {
    if !path.starts_with('/') {
        return says("it is not absolute", "write the whole path, like /usr/bin/web");
    }
    if path.len() > MAX_PATH || path.chars().any(char::is_control) {
        return says("no file has such a path", "write the path of the executable, like /usr/bin/web");
    }
    if path[1..].split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return says("the kernel never says it so", "leave out `.`, `..` and double slashes, and a slash at the end");
    }
    None
}

/// SHA-256 and ids of containers look alike.
fn digest(text: &str) -> Problem {
    let hex = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if let Some(rest) = text.strip_prefix("sha256:").filter(|rest| hex(rest)) {
        return says("it has a prefix", format!("write {}", rest.to_ascii_lowercase()));
    }
    if !hex(text) {
        return says(
            "it is not 64 hexadecimal digits",
            "copy it whole, as `sha256sum` or `docker ps --no-trunc` prints it",
        );
    }
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        return says("it has upper-case letters", format!("write {}", text.to_ascii_lowercase()));
    }
    None
}

fn unit(unit: &str) -> Problem {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
    if unit.len() > 255 || unit.starts_with('.') || !unit.bytes().all(legal) {
        return says("no unit is called so", "write the name that `systemctl` shows, like web.service");
    }
    if !unit.ends_with(".service") && !unit.ends_with(".scope") {
        return says("only services and scopes have processes", format!("write {unit}.service"));
    }
    None
}

fn cgroup(pattern: &str) -> Problem {
    if !pattern.starts_with('/') {
        return says("it is not absolute", "write the path as /proc/PID/cgroup has it, like /system.slice/web.service");
    }
    if pattern.len() > MAX_PATH || pattern.chars().any(char::is_control) {
        return says("no control group has such a path", "write it as /proc/PID/cgroup has it");
    }
    if pattern.bytes().all(|b| matches!(b, b'/' | b'*')) {
        return says("every process is in it", "name a group, like /system.slice/web.service");
    }
    if pattern[1..].split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return says("the kernel never says it so", "leave out `.`, `..` and double slashes, and a slash at the end");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;
    use crate::source::SourceFile;

    const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn read(attest: &str) -> Result<Vec<Attest>, Vec<(&'static str, String, String)>> {
        let text = format!(
            "kind: Mesh\nname: acme\ntrustDomain: acme.internal\n---\nkind: Service\nname: web\nnamespace: prod\nport: 80\n\
             protocol: http\nattest: {attest}\n"
        );
        let (intent, findings) = parse(&[SourceFile::new("mesh.yaml", text.as_bytes())]);
        let attest = intent.and_then(|intent| Some(intent.services.into_values().next()?.attest));
        attest.ok_or_else(|| findings.into_iter().map(|f| (f.code, f.message, f.hint)).collect())
    }

    #[test]
    fn all_that_can_be_asked_of_a_process_is_read() {
        let all = format!(
            "[{{agent: [m1, m2], uid: 0, gid: 4294967294, user: web, group: _www, path: /usr/bin/web, sha256: {DIGEST}, \
             systemdUnit: web@1.service, cgroup: /system.slice/web*, containerId: {DIGEST}}}, {{agent: m3, uid: 7}}, {{uid: 8}}]"
        );
        let text = |text: &str| Some(Arc::from(text));
        let agent = |name: &str| name.parse::<AgentName>().expect("legal");
        let selectors = Selectors {
            uid: Some(0),
            gid: Some(u32::MAX - 1),
            user: text("web"),
            group: text("_www"),
            path: text("/usr/bin/web"),
            sha256: text(DIGEST),
            systemd_unit: text("web@1.service"),
            cgroup: text("/system.slice/web*"),
            container_id: text(DIGEST),
        };
        let uid = |uid| Selectors { uid: Some(uid), ..Selectors::default() };
        let read = read(&all).expect("it is good");
        let expected = [
            Attest { agents: vec![agent("m1"), agent("m2")], selectors },
            Attest { agents: vec![agent("m3")], selectors: uid(7) },
            Attest { agents: Vec::new(), selectors: uid(8) },
        ];
        assert_eq!(read, expected);
        let on = |name: &str| read.iter().map(|entry| entry.is_for(&agent(name))).collect::<Vec<_>>();
        assert_eq!(
            (on("m1"), on("m3"), on("m4")),
            (vec![true, false, true], vec![false, true, true], vec![false, false, true])
        );
    }

    #[test]
    fn what_is_wrong_is_told_with_what_to_write() {
        let upper = DIGEST.to_uppercase();
        for (wrong, code, hint) in [
            ("[{}]", "WEFT0111", "uid: 1001"),
            ("[{agent: m1}]", "WEFT0111", "uid: 1001"),
            ("[{uid: 7}, {uid: 7}]", "WEFT0115", "keep one"),
            ("{uid: 7}", "WEFT0109", "a list"),
            ("[{uid: web}]", "WEFT0111", "from 0 to 4294967294"),
            ("[{uid: 4294967295}]", "WEFT0111", "from 0 to 4294967294"),
            ("[{user: \"7\"}]", "WEFT0111", "write `uid: 7`"),
            ("[{group: a b}]", "WEFT0111", "/etc/passwd"),
            ("[{path: web}]", "WEFT0111", "whole path"),
            ("[{path: /usr/../bin/web}]", "WEFT0111", "leave out"),
            ("[{sha256: abc}]", "WEFT0111", "sha256sum"),
            (&format!("[{{sha256: \"sha256:{DIGEST}\"}}]"), "WEFT0111", DIGEST),
            (&format!("[{{containerId: {upper}}}]"), "WEFT0111", DIGEST),
            ("[{systemdUnit: web}]", "WEFT0111", "write web.service"),
            ("[{systemdUnit: a/b.service}]", "WEFT0111", "systemctl"),
            ("[{cgroup: /}]", "WEFT0111", "name a group"),
            ("[{cgroup: /*/*}]", "WEFT0111", "name a group"),
            ("[{cgroup: web}]", "WEFT0111", "/proc/PID/cgroup"),
            ("[{agent: M1, uid: 7}]", "WEFT0113", "write `m1`"),
            ("[{agent: [], uid: 7}]", "WEFT0111", "name one"),
            ("[{sha: x}]", "WEFT0106", "its fields are"),
            ("[{image: x}]", "WEFT0107", "remove it"),
        ] {
            let findings = read(wrong).expect_err(wrong);
            assert_eq!((findings.len(), findings[0].0), (1, code), "{wrong}: {findings:?}");
            assert!(findings[0].2.contains(hint), "{wrong}: {findings:?}");
        }
    }
}
