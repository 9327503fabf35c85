//! A request as our evaluator asks for it: each attribute is made when a policy asks, and borrows from the request where it can.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::Arc;

use jiff::civil::DateTime;
use weft_model::intent::PolicyInputs;
use weft_policy_eval::{Attributes, Field, Kind, Lookup, Name, Record, Set, Value};

use super::clock::weekday;
use super::{Attribute, MAX_SEGMENTS, Surroundings, depth, first, minute, numbered, parameter, segment};
use crate::request::{CallRequest, User, grpc_method};

/// Attributes of `context`; the position is the number that the evaluator asks by.
pub(crate) const NAMES: [&str; 31] = [
    "method",
    "path",
    "depth",
    "host",
    "port",
    "protocol",
    "sourceIp",
    "headers",
    "query",
    "grpc",
    "tls",
    "user",
    "time",
    "now",
    "breakGlass",
    "first1",
    "first2",
    "first3",
    "first4",
    "first5",
    "first6",
    "first7",
    "first8",
    "segment1",
    "segment2",
    "segment3",
    "segment4",
    "segment5",
    "segment6",
    "segment7",
    "segment8",
];

/// The context of a call.
pub(crate) struct Live<'a> {
    request: &'a CallRequest<'a>,
    port: u16,
    break_glass: bool,
    headers: Headers<'a>,
    query: Query<'a>,
    grpc: OnceCell<Option<Texts<'a>>>,
    tls: OnceCell<Option<Texts<'a>>>,
    user: OnceCell<Option<Person<'a>>>,
    time: Time<'a>,
}

impl<'a> Live<'a> {
    pub(crate) fn new(request: &'a CallRequest<'a>, inputs: &'a PolicyInputs, around: Surroundings<'a>) -> Self {
        Self {
            request,
            port: around.port,
            break_glass: around.break_glass,
            headers: Headers { request, names: &inputs.headers, values: OnceCell::new() },
            query: Query { request, names: &inputs.query, values: OnceCell::new() },
            grpc: OnceCell::new(),
            tls: OnceCell::new(),
            user: OnceCell::new(),
            time: Time { request, around, zones: OnceCell::new() },
        }
    }

    fn grpc(&self) -> Option<&Texts<'a>> {
        let made = self.grpc.get_or_init(|| {
            let (service, method) = grpc_method(self.request.path).filter(|_| self.request.grpc)?;
            Some(Texts([("service", Some(service)), ("method", Some(method))]))
        });
        made.as_ref()
    }

    fn tls(&self) -> Option<&Texts<'a>> {
        let made = self.tls.get_or_init(|| self.request.tls.map(|tls| Texts([("sni", tls.server_name), ("", None)])));
        made.as_ref()
    }

    fn user(&self) -> Option<&Person<'a>> {
        self.user.get_or_init(|| self.request.user.map(Person::new)).as_ref()
    }
}

impl Attributes for Live<'_> {
    fn get<'a>(&'a self, name: Name<'_>) -> Option<Value<'a>> {
        let request = self.request;
        Some(match *NAMES.get(name.number as usize)? {
            "method" => Value::Text(request.method),
            "path" => Value::Text(request.path),
            "depth" => Value::Long(depth(request.path) as i64),
            "host" => Value::Text(request.host),
            "port" => Value::Long(self.port.into()),
            "protocol" => Value::Text(request.protocol),
            "sourceIp" => Value::Ip(request.source_ip?.into()),
            "headers" => record(&self.headers),
            "query" => record(&self.query),
            "grpc" => record(self.grpc()?),
            "tls" => record(self.tls()?),
            "user" => record(self.user()?),
            "time" => record(&self.time),
            "breakGlass" => Value::Bool(self.break_glass),
            name => Value::Text(match numbered(name)? {
                Attribute::First(n) => first(request.path, n)?,
                Attribute::Segment(n) => segment(request.path, n)?,
                // `now` among them: the evaluator has no such values, and Cedar is asked.
                _ => return None,
            }),
        })
    }

    fn has(&self, name: Name<'_>) -> bool {
        NAMES.get(name.number as usize).is_some_and(|known| *known == "now") || self.get(name).is_some()
    }
}

fn record(attributes: &dyn Attributes) -> Value<'_> {
    Value::Record(Record::Attributes(attributes))
}

/// A record of two texts.
struct Texts<'a>([(&'static str, Option<&'a str>); 2]);

impl Attributes for Texts<'_> {
    fn get<'a>(&'a self, name: Name<'_>) -> Option<Value<'a>> {
        let (_, text) = self.0.iter().find(|(known, _)| *known == name.text)?;
        text.map(Value::Text)
    }
}

/// `context.headers`: all that are declared, as soon as one is asked for.
struct Headers<'a> {
    request: &'a CallRequest<'a>,
    names: &'a [Arc<str>],
    values: OnceCell<Vec<Option<Cow<'a, str>>>>,
}

impl Attributes for Headers<'_> {
    fn get<'a>(&'a self, name: Name<'_>) -> Option<Value<'a>> {
        let at = self.names.iter().position(|known| **known == *name.text)?;
        let make = || self.names.iter().map(|name| self.request.headers.header(name)).collect();
        self.values.get_or_init(make)[at].as_deref().map(Value::Text)
    }
}

/// `context.query`: all parameters that are declared, as soon as one is asked for.
struct Query<'a> {
    request: &'a CallRequest<'a>,
    names: &'a [Arc<str>],
    values: OnceCell<Vec<Option<Vec<Cow<'a, str>>>>>,
}

impl Attributes for Query<'_> {
    fn get<'a>(&'a self, name: Name<'_>) -> Option<Value<'a>> {
        let at = self.names.iter().position(|known| **known == *name.text)?;
        let make = || self.names.iter().map(|name| parameter(self.request.query, name)).collect();
        self.values.get_or_init(make)[at].as_deref().map(|values| Value::Set(Set::Texts(values)))
    }
}

/// `context.user`.
struct Person<'a> {
    user: &'a User,
    scopes: Vec<Cow<'a, str>>,
    groups: Vec<Cow<'a, str>>,
    claims: Claims<'a>,
}

struct Claims<'a>(&'a User);

impl<'a> Person<'a> {
    fn new(user: &'a User) -> Self {
        let texts = |list: &'a [String]| list.iter().map(|text| Cow::Borrowed(&**text)).collect();
        Self { user, scopes: texts(&user.scopes), groups: texts(&user.groups), claims: Claims(user) }
    }
}

impl Attributes for Person<'_> {
    fn get<'a>(&'a self, name: Name<'_>) -> Option<Value<'a>> {
        Some(match name.text {
            "subject" => Value::Text(&self.user.subject),
            "issuer" => Value::Text(&self.user.issuer),
            "scopes" => Value::Set(Set::Texts(&self.scopes)),
            "groups" => Value::Set(Set::Texts(&self.groups)),
            "claims" => record(&self.claims),
            _ => return None,
        })
    }
}

impl Attributes for Claims<'_> {
    fn get<'a>(&'a self, name: Name<'_>) -> Option<Value<'a>> {
        self.0.claims.get(name.text).map(|text| Value::Text(text))
    }
}

/// `context.time`: all zones, as soon as one is asked for.
struct Time<'a> {
    request: &'a CallRequest<'a>,
    around: Surroundings<'a>,
    zones: OnceCell<Vec<(&'a str, Wall)>>,
}

impl Attributes for Time<'_> {
    fn get<'a>(&'a self, name: Name<'_>) -> Option<Value<'a>> {
        let zones = self.zones.get_or_init(|| {
            let (clock, minute) = (self.around.clock, minute(self.request.now));
            clock.all(minute).map(|(zone, local)| (zone, Wall::new(local))).collect()
        });
        zones.iter().find(|(zone, _)| *zone == name.text).map(|(_, wall)| record(wall))
    }
}

/// A clock on the wall.
struct Wall {
    local: DateTime,
    date: String,
}

impl Wall {
    fn new(local: DateTime) -> Self {
        Self { local, date: local.date().to_string() }
    }
}

impl Attributes for Wall {
    fn get<'a>(&'a self, name: Name<'_>) -> Option<Value<'a>> {
        let (hour, minute) = (i64::from(self.local.hour()), i64::from(self.local.minute()));
        Some(match name.text {
            "date" => Value::Text(&self.date),
            "weekday" => Value::Text(weekday(self.local.date().weekday())),
            "hour" => Value::Long(hour),
            "minute" => Value::Long(minute),
            "minuteOfDay" => Value::Long(hour * 60 + minute),
            _ => return None,
        })
    }
}

/// What is certain of the context of every call, and by what policies can be looked up: as the schema has it.
pub(crate) fn field(path: &[&str]) -> Option<Field> {
    let always = |kind| Field { kind, always: true, lookup: None };
    let perhaps = |kind| Field { kind, always: false, lookup: None };
    let looked_up = |field: Field, lookup| Field { lookup: Some(lookup), ..field };
    Some(match *path {
        ["method"] => looked_up(always(Kind::Text), Lookup::Word),
        ["path"] => looked_up(always(Kind::Text), Lookup::Text),
        ["host" | "protocol"] => always(Kind::Text),
        ["depth" | "port"] => always(Kind::Long),
        ["breakGlass"] => always(Kind::Bool),
        ["sourceIp"] => perhaps(Kind::Ip),
        ["headers" | "query"] => always(Kind::Record),
        ["headers", _] => perhaps(Kind::Text),
        ["query", _] => perhaps(Kind::Set),
        ["grpc" | "tls" | "user"] => perhaps(Kind::Record),
        ["grpc", "service" | "method"] => always(Kind::Text),
        ["tls", "sni"] => perhaps(Kind::Text),
        ["user", "subject" | "issuer"] => always(Kind::Text),
        ["user", "scopes" | "groups"] => always(Kind::Set),
        ["user", "claims"] => always(Kind::Record),
        ["user", "claims", _] => perhaps(Kind::Text),
        // Zones are not looked up here: whether there is one of a name is the mesh's to say.
        ["time"] => always(Kind::Record),
        ["time", _] => perhaps(Kind::Record),
        ["time", _, "date" | "weekday"] => always(Kind::Text),
        ["time", _, "hour" | "minute" | "minuteOfDay"] => always(Kind::Long),
        [name] => match numbered(name)? {
            Attribute::First(1..=MAX_SEGMENTS) => looked_up(perhaps(Kind::Text), Lookup::Head),
            _ => perhaps(Kind::Text),
        },
        _ => return None,
    })
}
