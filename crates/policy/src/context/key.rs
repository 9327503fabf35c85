//! The part of a request that a decision depended on, as bytes: equal bytes, equal decision.

use std::net::IpAddr;

use super::{Attribute, Reads, minute};
use crate::request::CallRequest;

/// Appends what `reads` names of `request`, and of whether the glass is broken. Each text ends with a byte that no UTF-8 holds, and what is absent is another such byte.
pub(crate) fn write(key: &mut Vec<u8>, reads: &Reads, request: &CallRequest<'_>, broken: bool) {
    // What follows from the path and from the time goes in once.
    let (mut has_path, mut has_time) = (false, false);
    for attribute in reads.iter() {
        match attribute {
            Attribute::Grpc => {
                key.push(u8::from(request.grpc));
                path(key, &mut has_path, request);
            }
            of_path if of_path.is_of_path() => path(key, &mut has_path, request),
            of_time if of_time.is_of_time() => {
                if !std::mem::replace(&mut has_time, true) {
                    key.extend_from_slice(&minute(request.now).to_ne_bytes());
                }
            }
            Attribute::Method => text(key, request.method),
            Attribute::Host => text(key, request.host),
            Attribute::Protocol => text(key, request.protocol),
            Attribute::SourceIp => match request.source() {
                Some(IpAddr::V4(ip)) => {
                    key.push(4);
                    key.extend_from_slice(&ip.octets());
                }
                Some(IpAddr::V6(ip)) => {
                    key.push(6);
                    key.extend_from_slice(&ip.octets());
                }
                None => key.push(ABSENT),
            },
            Attribute::Header(name) => optional(key, request.headers.header(name).as_deref()),
            // Of all parameters at once: taking them apart costs as much as the memory saves.
            Attribute::Query(_) => optional(key, request.query),
            Attribute::Tls => key.push(u8::from(request.tls.is_some())),
            Attribute::ServerName => match request.tls {
                Some(tls) => optional(key, tls.server_name),
                None => key.extend_from_slice(&[ABSENT, ABSENT]),
            },
            Attribute::User => user(key, request),
            Attribute::BreakGlass => key.push(u8::from(broken)),
            // The same for all calls that one engine decides.
            Attribute::Port => {}
            Attribute::Path
            | Attribute::Depth
            | Attribute::First(_)
            | Attribute::Segment(_)
            | Attribute::Zone(_)
            | Attribute::Now => {}
        }
    }
}

const END: u8 = 0xff;
const ABSENT: u8 = 0xfe;

fn text(key: &mut Vec<u8>, text: &str) {
    key.extend_from_slice(text.as_bytes());
    key.push(END);
}

fn optional(key: &mut Vec<u8>, value: Option<&str>) {
    match value {
        Some(value) => text(key, value),
        None => key.push(ABSENT),
    }
}

fn path(key: &mut Vec<u8>, written: &mut bool, request: &CallRequest<'_>) {
    if !std::mem::replace(written, true) {
        text(key, request.path);
    }
}

fn user(key: &mut Vec<u8>, request: &CallRequest<'_>) {
    let Some(user) = request.user else { return key.push(ABSENT) };
    text(key, &user.subject);
    text(key, &user.issuer);
    for list in [&user.scopes, &user.groups] {
        key.extend_from_slice(&list.len().to_ne_bytes());
        list.iter().for_each(|item| text(key, item));
    }
    for (name, value) in &user.claims {
        text(key, name);
        text(key, value);
    }
    key.push(ABSENT);
}
