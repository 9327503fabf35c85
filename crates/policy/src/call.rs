//! A call as policies see it: attributes of `context` are made when a policy asks for them, and borrow from the request.

use weft_policy_eval::{Attributes, Field, Kind, Lookup, Name, Value};

use crate::context::{self, MAX_FIRST, NAMES};
use crate::request::CallRequest;

/// The context of a call.
pub(crate) struct Call<'a>(pub(crate) &'a CallRequest<'a>);

impl Attributes for Call<'_> {
    fn get<'a>(&'a self, name: Name<'_>) -> Option<Value<'a>> {
        let request = self.0;
        Some(match *NAMES.get(name.number as usize)? {
            "method" => Value::Text(request.method),
            "path" => Value::Text(request.path),
            "depth" => Value::Long(context::depth(request.path) as i64),
            "host" => Value::Text(request.host),
            "protocol" => Value::Text(request.protocol),
            "sourceIp" => Value::Ip(request.source_ip?.into()),
            name => Value::Text(context::first(request.path, segments(name)?)?),
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
