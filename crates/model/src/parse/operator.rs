//! `kind: Operator`: a person who may be allowed to break the glass, and the keys by which that person is known.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use super::fields::{Shape, short};
use super::report::Report;
use super::yaml::Node;
use crate::code;
use crate::intent::{Operator, SshKey};

const OPERATOR: Shape =
    Shape { what: "an Operator", fields: &["kind", "name", "sshKeys"], later: &["roles", "groups", "email"] };

/// How a public key looks, for hints.
const LIKE: &str = "write the line of ~/.ssh/id_ed25519.pub: ssh-ed25519 AAAA… alice@laptop";

/// Reads the document. `None` if it has no legal name.
pub(super) fn read(root: &Node, report: &mut Report) -> Option<Operator> {
    let fields = OPERATOR.read(root, report)?;
    let name = fields.required("name", "alice", report).and_then(|name| name.dns_label(report));
    let mut ssh_keys = Vec::new();
    let keys = fields.required("sshKeys", "[ssh-ed25519 AAAA…]", report)?;
    keys.warn_if_empty("nobody is known as this operator", report);
    for item in keys.items(report).into_iter().flatten() {
        let Some(text) = item.text(report) else { continue };
        match key(text) {
            Ok(key) => ssh_keys.push(key),
            Err(why) => report.error(code::BAD_VALUE, item.span(), format!("`{}` {why}", short(text)), LIKE),
        }
    }
    Some(Operator { name: name?.into(), ssh_keys, span: root.span.clone() })
}

/// A line of an `authorized_keys` file without options: type, base64 of the wire form (RFC 4253 s.6.6, RFC 8709 s.4), comment.
fn key(text: &str) -> Result<SshKey, String> {
    let mut words = text.split_whitespace();
    let kind = words.next().unwrap_or_default();
    if kind != "ssh-ed25519" {
        let why = if kind.starts_with("ssh-") || kind.starts_with("ecdsa-") || kind.starts_with("sk-") {
            "is a key of another kind; keys of operators are of the kind ssh-ed25519"
        } else {
            "is no public key of SSH"
        };
        return Err(why.to_owned());
    }
    let blob = words.next().and_then(|blob| BASE64_STANDARD.decode(blob).ok()).ok_or("is cut off or damaged")?;
    // Two strings, each with its length in four bytes: the kind again, and the key.
    let prefix = b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20";
    let key = blob.strip_prefix(&prefix[..]).and_then(|key| <[u8; 32]>::try_from(key).ok());
    let key = key.ok_or("is cut off or damaged")?;
    let comment: Vec<&str> = words.collect();
    Ok(SshKey { ed25519: key, comment: Arc::from(comment.join(" ")) })
}
