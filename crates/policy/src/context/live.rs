//! A request as our evaluator asks for it: each attribute is made when a policy asks, and borrows from the request where it can.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::sync::Arc;

use jiff::civil::DateTime;
use weft_model::intent::PolicyInputs;
use weft_policy_eval::{Attributes, Field, Kind, Lookup, Name, Record, Set, Value, WORDS};

use super::clock::weekday;
use super::{Attribute, MAX_SEGMENTS, Surroundings, depth, first, minute, numbered, parameters, segment};
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
// Their positions.
const METHOD: u32 = 0;
const PATH: u32 = 1;
const DEPTH: u32 = 2;
const HOST: u32 = 3;
const PORT: u32 = 4;
const PROTOCOL: u32 = 5;
const SOURCE_IP: u32 = 6;
const HEADERS: u32 = 7;
const QUERY: u32 = 8;
const GRPC: u32 = 9;
const TLS: u32 = 10;
const USER: u32 = 11;
const TIME: u32 = 12;
const NOW: u32 = 13;
const BREAK_GLASS: u32 = 14;
const FIRST: u32 = 15;
const SEGMENT: u32 = FIRST + MAX_SEGMENTS as u32;
const END: u32 = SEGMENT + MAX_SEGMENTS as u32;

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
        Some(match name.number {
            METHOD => Value::Text(request.method),
            PATH => Value::Text(request.path),
            DEPTH => Value::Long(depth(request.path) as i64),
            HOST => Value::Text(request.host),
            PORT => Value::Long(self.port.into()),
            PROTOCOL => Value::Text(request.protocol),
            SOURCE_IP => Value::Ip(request.source()?.into()),
            HEADERS => record(&self.headers),
            QUERY => record(&self.query),
            GRPC => record(self.grpc()?),
            TLS => record(self.tls()?),
            USER => record(self.user()?),
            TIME => record(&self.time),
            BREAK_GLASS => Value::Bool(self.break_glass),
            at @ FIRST..SEGMENT => Value::Text(first(request.path, (at - FIRST) as u8 + 1)?),
            at @ SEGMENT..END => Value::Text(segment(request.path, (at - SEGMENT) as u8 + 1)?),
            // Of `now` the evaluator has no values: Cedar is asked.
            _ => return None,
        })
    }

    fn has(&self, name: Name<'_>) -> bool {
        name.number == NOW || self.get(name).is_some()
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
    values: OnceCell<Vec<Vec<Cow<'a, str>>>>,
}

impl Attributes for Query<'_> {
    fn get<'a>(&'a self, name: Name<'_>) -> Option<Value<'a>> {
        let at = self.names.iter().position(|known| **known == *name.text)?;
        let values = &self.values.get_or_init(|| parameters(self.request.query, self.names))[at];
        (!values.is_empty()).then_some(Value::Set(Set::Texts(values)))
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

/// The words of a call by which policies are looked up, at the positions that [`field`] gives them.
pub(crate) fn words<'a>(call: &CallRequest<'a>) -> [&'a str; WORDS] {
    [call.method, call.host]
}

/// What is certain of the context of every call, and by what policies can be looked up: as the schema has it.
pub(crate) fn field(path: &[&str]) -> Option<Field> {
    let always = |kind| Field { kind, always: true, lookup: None };
    let perhaps = |kind| Field { kind, always: false, lookup: None };
    let looked_up = |field: Field, lookup| Field { lookup: Some(lookup), ..field };
    Some(match *path {
        ["method"] => looked_up(always(Kind::Text), Lookup::Word(0)),
        ["path"] => looked_up(always(Kind::Text), Lookup::Text),
        ["host"] => looked_up(always(Kind::Text), Lookup::Word(1)),
        ["protocol"] => always(Kind::Text),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Clock;
    use crate::request::TlsFacts;
    use crate::testing;

    #[test]
    fn each_attribute_is_what_its_name_says() {
        let id = testing::id("prod/web");
        let user = User::default();
        let request = CallRequest {
            method: "GET",
            path: "/1/2/3/4/5/6/7/8/9",
            host: "h",
            protocol: "p",
            source_ip: "::1".parse().ok(),
            tls: Some(TlsFacts::default()),
            user: Some(&user),
            ..testing::request(&id)
        };
        let inputs = PolicyInputs::default();
        let clock = Clock::new(&inputs).expect("no zones");
        let around = Surroundings { port: 8080, clock: &clock, break_glass: true };
        let mut seen = Vec::new();
        for (number, name) in (0..).zip(NAMES) {
            let (live, name_of) = (Live::new(&request, &inputs, around), Name { number, text: name });
            assert!(name == "grpc" || live.has(name_of), "{name}");
            let Some(field) = field(&[name]) else {
                assert_eq!((name, live.get(name_of).is_none()), ("now", true));
                continue;
            };
            match live.get(name_of) {
                Some(Value::Text(text)) if field.kind == Kind::Text => seen.push(format!("{name} {text}")),
                Some(Value::Long(long)) if field.kind == Kind::Long => seen.push(format!("{name} {long}")),
                Some(Value::Ip(_)) if field.kind == Kind::Ip => {}
                Some(Value::Bool(true)) if field.kind == Kind::Bool => {}
                Some(Value::Record(_)) if field.kind == Kind::Record => {}
                None if name == "grpc" => {}
                _ => panic!("{name} is of another kind"),
            }
            // What is said to be there always is there in a call that has nothing.
            let bare = CallRequest {
                method: "",
                path: "",
                host: "",
                protocol: "",
                source_ip: None,
                tls: None,
                user: None,
                ..request
            };
            assert_eq!(Live::new(&bare, &inputs, around).has(name_of), field.always, "{name}");
        }
        let mut expected = vec!["method GET".to_owned(), "path /1/2/3/4/5/6/7/8/9".into(), "depth 9".into()];
        expected.extend(["host h", "port 8080", "protocol p"].map(str::to_owned));
        expected.extend((1..9).map(|n| format!("first{n} {}", &request.path[..2 * n])));
        expected.extend((1..9).map(|n| format!("segment{n} {n}")));
        assert_eq!(seen, expected);
        assert!(field(&["first9"]).is_none() && field(&["first1", "x"]).is_none() && field(&[]).is_none());
    }
}
