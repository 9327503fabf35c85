//! What an ext_authz server has changed in a head (`envoy.config.core.v3.HeaderValueOption`).

use envoy_types::pb::envoy::config::core::v3::{HeaderValueOption, header_value_option::HeaderAppendAction as Action};
use envoy_types::pb::google::protobuf::BoolValue;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// They say where a message ends and whom it concerns; whoever changed them would make two messages of one.
const OF_FRAMING: [HeaderName; 6] = [
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::TE,
    header::UPGRADE,
    header::TRAILER,
];

/// A field, and what becomes of it.
#[derive(Clone, Debug)]
pub(crate) struct Mutation {
    pub(crate) name: HeaderName,
    value: HeaderValue,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Action(Action),
    /// Joined by `,` to what is there; nothing where nothing is. So an Envoy reads `append: true` for a request.
    Join,
}

/// What stands in the place of a field that begins with a colon.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pseudo<'a> {
    pub(crate) name: &'a str,
    pub(crate) value: &'a str,
}

/// Whose field is changed. Where nobody says how, a field of a request is overwritten (`OkHttpResponse.headers`: `append` is false if it is
/// not given), so that none which a caller made up stands beside the server's; one of an answer is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Request,
    Answer,
}

/// A change as it was sent: of a field, or of what HTTP/2 calls a pseudo-header.
pub(crate) fn read(given: &HeaderValueOption, of: Of) -> Result<Result<Mutation, Pseudo<'_>>, String> {
    let header = given.header.as_ref().ok_or("a change without a header")?;
    if header.key.starts_with(':') || header.key.eq_ignore_ascii_case("host") {
        return Ok(Err(Pseudo { name: &header.key, value: &header.value }));
    }
    let illegal = || format!("{:?} cannot stand in a head", header.key);
    let name = HeaderName::from_bytes(header.key.as_bytes()).map_err(|_| illegal())?;
    if OF_FRAMING.contains(&name) {
        return Err(format!("{name} says how this connection is used, and cannot be changed"));
    }
    let value = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
    let value = HeaderValue::from_bytes(value).map_err(|_| illegal())?;
    Ok(Ok(Mutation { name, value, how: how(given, of)? }))
}

/// The older `append` counts where it is given. An `append_action` that is 0 was not given.
#[allow(deprecated)]
fn how(given: &HeaderValueOption, of: Of) -> Result<How, String> {
    let action = match (given.append, given.append_action, of) {
        (Some(BoolValue { value: true }), _, Of::Request) => return Ok(How::Join),
        (Some(BoolValue { value: true }), _, Of::Answer) => Action::AppendIfExistsOrAdd,
        (Some(BoolValue { value: false }), ..) | (None, 0, Of::Request) => Action::OverwriteIfExistsOrAdd,
        (None, action, _) => Action::try_from(action).map_err(|_| format!("append_action {action} is unknown"))?,
    };
    Ok(How::Action(action))
}

impl Mutation {
    pub(crate) fn apply(self, headers: &mut HeaderMap) {
        let exists = headers.contains_key(&self.name);
        match self.how {
            How::Join => {
                let lines: Vec<&[u8]> = headers.get_all(&self.name).iter().map(HeaderValue::as_bytes).collect();
                let joined = [&lines[..], &[self.value.as_bytes()]].concat().join(&b","[..]);
                if let (true, Ok(joined)) = (exists, HeaderValue::from_bytes(&joined)) {
                    headers.insert(self.name, joined);
                }
            }
            How::Action(Action::AppendIfExistsOrAdd) => drop(headers.append(self.name, self.value)),
            How::Action(Action::AddIfAbsent) if exists => {}
            How::Action(Action::OverwriteIfExists) if !exists => {}
            How::Action(_) => drop(headers.insert(self.name, self.value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::HeaderValue as Sent;

    use super::*;

    fn change(key: &str, value: &str, action: i32, append: Option<bool>) -> HeaderValueOption {
        #[allow(deprecated)]
        HeaderValueOption {
            header: Some(Sent { key: key.into(), value: value.into(), ..Default::default() }),
            append: append.map(|value| BoolValue { value }),
            append_action: action,
            ..Default::default()
        }
    }

    #[test]
    fn each_action_does_what_envoy_says() {
        for (action, append, there, absent) in [
            (0, None, "new", "new"),
            (1, None, "old", "new"),
            (2, None, "new", "new"),
            (3, None, "new", ""),
            (2, Some(true), "old,new", ""),
            (0, Some(false), "new", "new"),
        ] {
            let after = |before: &[(&'static str, &'static str)]| {
                let mut headers: HeaderMap =
                    before.iter().map(|&(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect();
                read(&change("X-A", "new", action, append), Of::Request)
                    .expect("legal")
                    .expect("a field")
                    .apply(&mut headers);
                headers.get_all("x-a").iter().map(|v| v.to_str().expect("text")).collect::<Vec<_>>().join(",")
            };
            assert_eq!((&*after(&[("x-a", "old")]), &*after(&[])), (there, absent), "{action} {append:?}");
        }
    }

    #[test]
    fn a_field_of_an_answer_is_added_unless_it_is_said_otherwise() {
        let mut headers = HeaderMap::from_iter([(header::SET_COOKIE, HeaderValue::from_static("a=1"))]);
        read(&change("set-cookie", "b=2", 0, None), Of::Answer).expect("legal").expect("a field").apply(&mut headers);
        assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
    }

    #[test]
    fn what_would_break_a_message_is_refused() {
        for (key, value, action) in [
            ("content-length", "0", 0),
            ("Transfer-Encoding", "chunked", 0),
            ("connection", "x-a", 0),
            ("x a", "1", 0),
            ("", "1", 0),
            ("x-a", "1\r\nx-b: 2", 0),
            ("x-a", "1", 9),
        ] {
            read(&change(key, value, action, None), Of::Request).expect_err(key);
        }
        assert!(read(&HeaderValueOption::default(), Of::Request).is_err());
        let path = change(":path", "/x", 2, None);
        assert_eq!(
            read(&path, Of::Request).expect("legal").expect_err("not a field"),
            Pseudo { name: ":path", value: "/x" }
        );
    }
}
