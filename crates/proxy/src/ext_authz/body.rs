//! The beginning of a request's body, for an ext_authz server that is to see it (`ExtAuthz.with_request_body`).
//!
//! It is held in memory until it is sent on, up to the bound that the configuration sets; what follows streams as ever.

use bytes::Bytes;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use http::header;
use weft_proxy_config::BodyShown;
use weft_proxy_http::{RequestBody, Until};
use weft_telemetry::Failure;

use crate::call::Call;
use crate::stop::Stop;

/// Tells the server whether it sees the body in part only.
pub(super) const PARTIAL: &str = "x-envoy-auth-partial-body";

/// What is shown.
#[derive(Debug)]
pub(super) struct Beginning {
    bytes: Bytes,
    is_partial: bool,
    as_bytes: bool,
}

/// Waits for as much of the body as is to be shown.
///
/// A client that asks for leave to send the body gets it here: the app, which could give it too, is not asked before the server is.
///
/// # Errors
/// The body is longer than may be shown, or the client broke it off.
pub(super) async fn beginning(call: &mut Call, how: BodyShown, body: &mut RequestBody) -> Result<Beginning, Stop> {
    let said = call.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if !how.in_part && said.is_some_and(|length| length > how.most as u64) {
        return Err(too_long(how.most));
    }
    call.interim.give_leave(&mut call.headers);
    let until = if how.in_part { Until::Have(how.most) } else { Until::EndOrMoreThan(how.most) };
    let ahead = body
        .read_ahead(until)
        .await
        .map_err(|error| Stop::new(body.progress().broken().unwrap_or(Failure::ClientGone), error.to_string()))?;
    // Envoy lets a body that ends in the very frame that makes it too long pass; whoever frames it so would choose what the server sees.
    if !how.in_part && ahead.bytes.len() > how.most {
        return Err(too_long(how.most));
    }
    let is_partial = !ahead.is_whole || ahead.bytes.len() > how.most;
    let bytes = ahead.bytes.slice(..ahead.bytes.len().min(how.most));
    Ok(Beginning { bytes, is_partial, as_bytes: how.as_bytes })
}

fn too_long(most: usize) -> Stop {
    let detail = format!("the authorization server is to see the whole body, and takes at most {most} bytes");
    Stop::new(Failure::BodyTooLarge, detail)
}

impl Beginning {
    pub(super) fn put(self, request: &mut HttpRequest) {
        request.headers.insert(PARTIAL.to_owned(), self.is_partial.to_string());
        if self.as_bytes {
            request.raw_body = self.bytes.into();
        } else {
            request.body = text(&self.bytes);
        }
    }
}

/// As Envoy makes text of bytes: each that is not UTF-8 becomes an exclamation mark.
fn text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '!'));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Envoy 1.40 sends for each.
    #[test]
    fn what_is_no_text_is_marked_byte_by_byte() {
        for (bytes, sent) in [
            (&b"plain"[..], "plain"),
            ("\u{20ac}".as_bytes(), "\u{20ac}"),
            (b"a\xff\xfeb\xc3(", "a!!b!("),
            (b"cut \xe2\x82", "cut !!"),
            (b"\xc0\xaf\xed\xa0\x80\0\xf0\x9f", "!!!!!\0!!"),
        ] {
            assert_eq!(text(bytes), sent);
        }
    }
}
