//! A call as policies see it: attributes of `context` are made when a policy asks for them, and borrow from the request.

use weft_policy_eval::{Attributes, Field, Kind, Lookup, Name, Value};

use crate::context::{self, MAX_FIRST, NAMES};
use crate::request::CallRequest;

/// Positions in [`NAMES`], by which names are known while policies are evaluated.
const METHOD: u32 = 0;
const PATH: u32 = 1;
const DEPTH: u32 = 2;
const HOST: u32 = 3;
const PROTOCOL: u32 = 4;
const SOURCE_IP: u32 = 5;
const FIRST: u32 = 6;
const END: u32 = NAMES.len() as u32;

/// The context of a call.
pub(crate) struct Call<'a>(pub(crate) &'a CallRequest<'a>);

impl Attributes for Call<'_> {
    fn get<'a>(&'a self, name: Name<'_>) -> Option<Value<'a>> {
        let request = self.0;
        Some(match name.number {
            METHOD => Value::Text(request.method),
            PATH => Value::Text(request.path),
            DEPTH => Value::Long(context::depth(request.path) as i64),
            HOST => Value::Text(request.host),
            PROTOCOL => Value::Text(request.protocol),
            SOURCE_IP => Value::Ip(request.source_ip?.into()),
            FIRST..END => Value::Text(context::first(request.path, (name.number - FIRST) as usize + 1)?),
            _ => return None,
        })
    }
}

/// What is certain of the context of every call, and by what policies can be looked up: as the schema has it.
pub(crate) fn field(path: &[&str]) -> Option<Field> {
    let [name] = path else { return None };
    let text = |always, lookup| Field { kind: Kind::Text, always, lookup };
    Some(match *name {
        "method" => text(true, Some(Lookup::Word)),
        "path" => text(true, Some(Lookup::Text)),
        "host" | "protocol" => text(true, None),
        "depth" => Field { kind: Kind::Long, always: true, lookup: None },
        "sourceIp" => Field { kind: Kind::Ip, always: false, lookup: None },
        name => segments(name).map(|_| text(false, Some(Lookup::Head)))?,
    })
}

/// The `n` of `first<n>`.
fn segments(name: &str) -> Option<usize> {
    let n = name.strip_prefix("first")?.parse().ok()?;
    (1..=MAX_FIRST).contains(&n).then_some(n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn each_attribute_is_what_its_name_says() {
        let id = testing::id("prod/web");
        let request = CallRequest {
            method: "GET",
            path: "/1/2/3/4/5/6/7/8/9",
            host: "h",
            protocol: "p",
            source_ip: "::1".parse().ok(),
            ..testing::request(&id)
        };
        let mut seen = Vec::new();
        for (number, name) in (0..).zip(NAMES) {
            let call = Call(&request);
            let value = call.get(Name { number, text: name });
            let field = field(&[name]).expect("in the schema");
            seen.push(match value {
                Some(Value::Text(text)) if field.kind == Kind::Text => format!("{name} {text}"),
                Some(Value::Long(long)) if field.kind == Kind::Long => format!("{name} {long}"),
                Some(Value::Ip(ip)) if field.kind == Kind::Ip => format!("{name} {ip:?}"),
                _ => panic!("{name} is of another kind"),
            });
            // What is said to be there always is there in a call that has nothing.
            let bare = CallRequest { method: "", path: "", host: "", protocol: "", source_ip: None, ..request };
            assert_eq!(Call(&bare).get(Name { number, text: name }).is_some(), field.always, "{name}");
        }
        let expected = ["method GET", "path /1/2/3/4/5/6/7/8/9", "depth 9", "host h", "protocol p"];
        assert_eq!(seen[..5], expected);
        assert!(seen[5].contains("::1"), "{}", seen[5]);
        assert_eq!(seen[6..], (1..9).map(|n| format!("first{n} {}", &request.path[..2 * n])).collect::<Vec<_>>());
        assert!(field(&["first9"]).is_none() && field(&["first1", "x"]).is_none() && field(&[]).is_none());
        assert!(Call(&request).get(Name { number: END, text: "other" }).is_none());
    }
}
