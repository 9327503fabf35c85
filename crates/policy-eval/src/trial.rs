//! One policy and one request, for the tests of this crate.

use std::borrow::Cow;

use cedar_policy::Policy;

use crate::builder::Builder;
use crate::constant::EntityId;
use crate::load::{Compiled, Loader};
use crate::program::Program;
use crate::shape::{Field, Kind, Lookup, Request};
use crate::value::{Attributes, Name, Record, Set, Value};

/// `A` is of team `x`, in `G::"g"`; `B` is neither.
pub(crate) struct Trial {
    pub(crate) program: Program,
    pub(crate) principals: [EntityId; 2],
    pub(crate) compiled: Compiled,
}

/// A `GET` of `/a/b`.
pub(crate) struct Get;

/// What is nested in it.
struct User;

impl Attributes for Get {
    fn get<'a>(&'a self, name: Name<'_>) -> Option<Value<'a>> {
        Some(match name.text {
            "method" => Value::Text("GET"),
            "host" => Value::Text("h"),
            "path" => Value::Text("/a/b"),
            "depth" => Value::Long(2),
            "first1" => Value::Text("/a"),
            "ip" => Value::Ip(std::net::IpAddr::from([10, 0, 0, 1]).into()),
            "user" => Value::Record(Record::Attributes(&User)),
            "max" => Value::Long(i64::MAX),
            _ => return None,
        })
    }
}

impl Attributes for User {
    fn get<'a>(&'a self, name: Name<'_>) -> Option<Value<'a>> {
        const SCOPES: &[Cow<'static, str>] = &[Cow::Borrowed("read"), Cow::Borrowed("write"), Cow::Borrowed("read")];
        (name.text == "scopes").then_some(Value::Set(Set::Texts(SCOPES)))
    }
}

fn field(path: &[&str]) -> Option<Field> {
    let field = |kind, always, lookup| Some(Field { kind, always, lookup });
    match path {
        ["method"] => field(Kind::Text, true, Some(Lookup::Word(0))),
        ["host"] => field(Kind::Text, true, Some(Lookup::Word(1))),
        ["path"] => field(Kind::Text, true, Some(Lookup::Text)),
        ["first1"] => field(Kind::Text, false, Some(Lookup::Head)),
        ["depth"] => field(Kind::Long, true, None),
        ["ip"] => field(Kind::Ip, false, None),
        ["user"] => field(Kind::Record, false, None),
        ["user", "scopes"] => field(Kind::Set, true, None),
        _ => None,
    }
}

/// A policy, all of it.
pub(crate) fn policy(text: &str) -> Trial {
    let policy = Policy::parse(None, text).unwrap_or_else(|error| panic!("{text}\n{error:?}"));
    let mut builder = Builder::new(&["method", "path"]);
    let groups = [builder.entity("G", "g"), builder.entity("G", "all")];
    let (a, b) = (builder.entity("S", "A"), builder.entity("S", "B"));
    builder.describe(a, [("name", "a"), ("team", "x")].into_iter(), groups.into_iter());
    builder.describe(b, [("name", "b")].into_iter(), groups[1..].iter().copied());
    let resource = builder.entity("S", "R");
    builder.describe(resource, [("name", "r"), ("tier", "one")].into_iter(), std::iter::empty());
    let action = builder.entity("Action", "call");
    let mut loader = Loader::new(builder, Request { action, resource, context: field }, vec![a, b]);
    let compiled = loader.add(policy.as_ref());
    Trial { program: loader.finish(), principals: [a, b], compiled }
}

/// A policy with this condition.
pub(crate) fn when(condition: &str) -> Trial {
    policy(&format!("permit(principal, action, resource) when {{ {condition} }};"))
}

/// What a condition is for `A`; `None` where Cedar has to be asked.
pub(crate) fn is(condition: &str) -> Option<bool> {
    let Trial { program, principals, compiled } = when(condition);
    program.evaluate(compiled.whole, principals[0], &Get).ok()
}
