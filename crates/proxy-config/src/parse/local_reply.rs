//! `local_reply_config`: what a refusal made by the proxy says.
//!
//! Our proxy always answers with a problem document (RFC 9457) that tells layer and cause, which is what Weft's control
//! plane teaches Envoy with this field. So nothing is taken from it, but anything else that it could ask for is
//! refused.

use std::mem::take;

use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
use envoy_types::pb::envoy::config::core::v3::{
    HeaderValueOption, SubstitutionFormatString, substitution_format_string::Format,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::LocalReplyConfig;
use envoy_types::pb::google::protobuf::value::Kind;

use weft_proxy_http::headers::X_WEFT_UNTOUCHED;

use super::strict::{Path, Refused, uint32};

/// The body that stands already.
const AS_GIVEN: &str = "%LOCAL_REPLY_BODY%";
const PROBLEM: &str = "application/problem+json";
/// The beginning of the `type` of every problem of this mesh.
const KIND: &str = "urn:weft:problem:";
/// The members that our problem documents have too.
const MEMBERS: [&str; 8] = ["type", "title", "status", "detail", "flag", "layer", "cause", "request_id"];

/// Requires that every body is a problem document of this mesh, or the body that stands already.
pub(crate) fn check(given: Option<LocalReplyConfig>, at: &Path<'_>) -> Result<(), Refused> {
    let Some(mut given) = given else { return Ok(()) };
    let at_mappers = at.field("mappers");
    for (index, mut mapper) in take(&mut given.mappers).into_iter().enumerate() {
        let at = &at_mappers.index(index);
        mapper.filter = None; // which problem stands for what
        if uint32(mapper.status_code.take()).is_some_and(|status| status != 502) {
            return Err(at.field("status_code").refuse("only 502, for what the app broke, is supported by this proxy"));
        }
        if let Some(body) = mapper.body_format_override.take() {
            format(body, &at.field("body_format_override"))?;
        }
        let added = take(&mut mapper.headers_to_add);
        if added.iter().any(|option| !is_ours(option)) {
            return Err(at
                .field("headers_to_add")
                .refuse("this proxy adds x-weft-untouched only, and where it is true"));
        }
        at.rest(&mapper)?;
    }
    if let Some(body) = given.body_format.take() {
        format(body, &at.field("body_format"))?;
    }
    at.rest(&given)
}

fn is_ours(option: &HeaderValueOption) -> bool {
    option.header.as_ref().is_some_and(|header| header.key == X_WEFT_UNTOUCHED.as_str() && header.value == "true")
}

#[allow(deprecated)] // text_format is what Envoy still calls it
fn format(mut given: SubstitutionFormatString, at: &Path<'_>) -> Result<(), Refused> {
    let content_type = take(&mut given.content_type);
    let ours = match given.format.take() {
        Some(Format::TextFormat(text)) => text == AS_GIVEN,
        Some(Format::TextFormatSource(source)) => {
            source.watched_directory.is_none() && source.specifier == Some(Specifier::InlineString(AS_GIVEN.to_owned()))
        }
        Some(Format::JsonFormat(json)) => {
            let kind = json.fields.get("type").and_then(|value| value.kind.as_ref());
            content_type == PROBLEM
                && matches!(kind, Some(Kind::StringValue(kind)) if kind.starts_with(KIND))
                && json.fields.keys().all(|member| MEMBERS.contains(&&**member))
        }
        _ => false,
    };
    if !ours {
        return Err(at.refuse("this proxy answers with its own problem documents only"));
    }
    at.rest(&given)
}
