//! Random policies and requests: what is told here is what Cedar says of the whole policy.

use cedar_policy::{
    Authorizer, Context, Entities, Entity, EntityUid, Policy, PolicySet, Request, RestrictedExpression,
};
use proptest::prelude::*;
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use weft_policy_eval::testing::{Choices, Vocabulary};
use weft_policy_eval::{
    AskCedar, Attributes, Builder, Compiled, EntityId, Field, Key, Kind, Loader, Lookup, Name, Program, Record, Set,
    Value,
};

const SERVICES: [&str; 4] = ["prod/web", "prod/board", "dev/web", "dev/x"];

const WORDS: Vocabulary = Vocabulary {
    entities: &["Service::\"prod/web\"", "Service::\"prod/board\"", "Service::\"dev/web\"", "Service::\"gone\""],
    groups: &["Namespace::\"prod\"", "Namespace::\"dev\"", "Role::\"ops\"", "Role::\"all\"", "Service::\"dev/x\""],
    attributes: &["name", "tier", "team", "absent"],
    context: &[
        ("method", Kind::Text, false),
        ("path", Kind::Text, false),
        // The more often, the more policies have keys.
        ("path", Kind::Text, false),
        ("path", Kind::Text, false),
        ("method", Kind::Text, false),
        ("host", Kind::Text, false),
        ("depth", Kind::Long, false),
        ("first1", Kind::Text, true),
        ("first2", Kind::Text, true),
        ("ip", Kind::Ip, true),
        ("headers", Kind::Record, false),
        ("headers.a", Kind::Text, true),
        ("time.office.hour", Kind::Long, true),
        ("user.scopes", Kind::Set, true),
        ("user", Kind::Record, true),
    ],
    texts: &["/a", "GET", "/a/b", "POST", "/", "web", "one", "two", "", "a", "ops"],
    patterns: &["/a*", "/a/*", "*", "/a/b", "*b", "G*", "/*b*", "we?", "", "\\\\**"],
};

/// A value of a context.
#[derive(Clone, Debug)]
enum Data {
    Long(i64),
    Text(String),
    Ip(&'static str),
    Texts(Vec<Cow<'static, str>>),
    Record(Vec<(&'static str, Data)>),
}

impl Data {
    fn value(&self) -> Value<'_> {
        match self {
            Self::Long(value) => Value::Long(*value),
            Self::Text(text) => Value::Text(text),
            Self::Ip(ip) => Value::Ip(ip.parse::<std::net::IpAddr>().expect("an address").into()),
            Self::Texts(texts) => Value::Set(Set::Texts(texts)),
            Self::Record(_) => Value::Record(Record::Attributes(self)),
        }
    }

    fn cedar(&self) -> RestrictedExpression {
        match self {
            Self::Long(value) => RestrictedExpression::new_long(*value),
            Self::Text(text) => RestrictedExpression::new_string(text.clone()),
            Self::Ip(ip) => RestrictedExpression::new_ip(*ip),
            Self::Texts(texts) => RestrictedExpression::new_set(
                texts.iter().map(|text| RestrictedExpression::new_string(text.to_string())),
            ),
            Self::Record(fields) => {
                let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), value.cedar()));
                RestrictedExpression::new_record(fields).expect("names that differ")
            }
        }
    }
}

impl Attributes for Data {
    fn get<'a>(&'a self, name: Name<'_>) -> Option<Value<'a>> {
        let Self::Record(fields) = self else { panic!("only records are asked") };
        fields.iter().find(|(known, _)| *known == name.text).map(|(_, value)| value.value())
    }
}

/// A call, all of it by choice.
fn context(choices: &mut Choices<'_>) -> Data {
    let path = *choices.pick(&["/a/b", "/a", "/", "/a/c", "/ab", "/b/b/b", "*", "/ä*"]);
    let method = *choices.pick(&["GET", "POST", "PUT"]);
    let host = *choices.pick(&["web", "one", ""]);
    let text = |text: &str| Data::Text(text.to_owned());
    let mut fields = vec![
        ("method", text(method)),
        ("host", text(host)),
        ("path", text(path)),
        ("depth", Data::Long(path.matches('/').count() as i64)),
        ("headers", Data::Record(if choices.below(2) == 0 { vec![] } else { vec![("a", text("one"))] })),
    ];
    for (name, n) in [("first1", 1), ("first2", 2)] {
        let end = path.match_indices('/').map(|(at, _)| at).chain([path.len()]).nth(n);
        fields.extend(end.map(|end| (name, text(&path[..end]))));
    }
    if choices.below(2) == 0 {
        fields.push(("ip", Data::Ip(choices.pick::<&str>(&["10.0.0.1", "127.0.0.1", "::1", "224.0.0.1"]))));
    }
    if choices.below(2) == 0 {
        let office = Data::Record(vec![("hour", Data::Long(choices.below(24) as i64))]);
        fields.push(("time", Data::Record(if choices.below(3) == 0 { vec![] } else { vec![("office", office)] })));
    }
    if choices.below(2) == 0 {
        let scopes = (0..choices.below(3)).map(|_| Cow::Borrowed(*choices.pick(&["ops", "a", "ops", "GET"]))).collect();
        fields.push(("user", Data::Record(vec![("scopes", Data::Texts(scopes))])));
    }
    Data::Record(fields)
}

/// What [`context`] keeps to.
fn field(path: &[&str]) -> Option<Field> {
    let field = |kind, always, lookup| Some(Field { kind, always, lookup });
    match path {
        ["method"] => field(Kind::Text, true, Some(Lookup::Word(0))),
        ["host"] => field(Kind::Text, true, Some(Lookup::Word(1))),
        ["path"] => field(Kind::Text, true, Some(Lookup::Text)),
        ["first1" | "first2"] => field(Kind::Text, false, Some(Lookup::Head)),
        ["depth"] => field(Kind::Long, true, None),
        ["ip"] => field(Kind::Ip, false, None),
        ["headers"] => field(Kind::Record, true, None),
        ["headers", _] => field(Kind::Text, false, None),
        ["time" | "user"] => field(Kind::Record, false, None),
        ["time", "office"] => field(Kind::Record, false, None),
        ["time", "office", "hour"] => field(Kind::Long, true, None),
        ["user", "scopes"] => field(Kind::Set, true, None),
        _ => None,
    }
}

fn attributes(service: &'static str) -> Vec<(&'static str, &'static str)> {
    let (_, name) = service.split_once('/').expect("a namespace and a name");
    let mut attributes = vec![("name", name)];
    attributes.extend((service != "dev/x").then_some(("tier", if name == "web" { "one" } else { "two" })));
    attributes.extend((service == "prod/web").then_some(("team", "ops")));
    attributes
}

fn groups(service: &str) -> Vec<(&'static str, String)> {
    let (namespace, name) = service.split_once('/').expect("a namespace and a name");
    let mut groups = vec![("Namespace", namespace.to_owned()), ("Role", "all".to_owned())];
    groups.extend((name == "web").then(|| ("Role", "ops".to_owned())));
    groups
}

fn uid(kind: &str, id: &str) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.parse().expect("a type"), cedar_policy::EntityId::new(id))
}

fn entities() -> Entities {
    let all = SERVICES.iter().map(|service| {
        let text = |text: &str| RestrictedExpression::new_string(text.to_owned());
        let attributes: HashMap<String, RestrictedExpression> =
            attributes(service).into_iter().map(|(name, value)| (name.to_owned(), text(value))).collect();
        let parents: HashSet<EntityUid> = groups(service).iter().map(|(kind, id)| uid(kind, id)).collect();
        Entity::new(uid("Service", service), attributes, parents).expect("an entity")
    });
    Entities::from_entities(all, None).expect("entities")
}

/// The policies of one program, and who may ask.
fn compile(policies: &[Policy]) -> (Program, Vec<EntityId>, Vec<Compiled>) {
    let mut builder = Builder::new(&["path", "method"]);
    let principals = SERVICES.map(|service| {
        let id = builder.entity("Service", service);
        let groups: Vec<EntityId> = groups(service).iter().map(|(kind, id)| builder.entity(kind, id)).collect();
        builder.describe(id, attributes(service).into_iter(), groups.into_iter());
        id
    });
    let action = builder.entity("Action", "call");
    let request = weft_policy_eval::Request { action, resource: principals[1], context: field };
    let mut loader = Loader::new(builder, request, principals.to_vec());
    let compiled = policies.iter().map(|policy| loader.add(policy.as_ref())).collect();
    (loader.finish(), principals.to_vec(), compiled)
}

fn fits(key: &Key, context: &Data) -> bool {
    let text = |name| match context {
        Data::Record(fields) => fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value),
        _ => None,
    };
    let always = |name| match text(name) {
        Some(Data::Text(text)) => text,
        _ => panic!("it is always there"),
    };
    let (path, words) = (always("path"), ["method", "host"].map(always));
    let starts = if key.whole { *path == *key.start } else { path.starts_with(&*key.start) };
    starts && key.words.iter().zip(words).all(|(key, word)| key.as_deref().is_none_or(|key| key == word))
}

/// What Cedar says of one policy: an error is `None`.
fn by_cedar(policy: &Policy, principal: &str, context: &Data, entities: &Entities) -> Option<bool> {
    let Data::Record(fields) = context else { panic!("a record") };
    let pairs = fields.iter().map(|(name, value)| ((*name).to_owned(), value.cedar()));
    let context = Context::from_pairs(pairs).expect("a context");
    let (principal, resource) = (uid("Service", principal), uid("Service", SERVICES[1]));
    let request = Request::new(principal, uid("Action", "call"), resource, context, None).expect("a request");
    let set = PolicySet::from_policies([policy.clone()]).expect("one policy");
    let response = Authorizer::new().is_authorized(&request, &set, entities);
    let is_error = response.diagnostics().errors().next().is_some();
    (!is_error).then(|| response.diagnostics().reason().next().is_some())
}

/// What only Cedar is asked about: records that cannot be compared as a whole.
fn asks_for_records(text: &str) -> bool {
    let mut words = text.split(|letter: char| !letter.is_alphanumeric() && letter != '.' && letter != '_');
    words.any(|word| matches!(word, "context" | "context.headers" | "context.user"))
        && ["==", "!=", "contains", "{"].iter().any(|operator| text.contains(operator))
}

fn check(bytes: &[u8]) -> Result<(), TestCaseError> {
    let mut choices = Choices::new(bytes);
    let contexts = [context(&mut choices), context(&mut choices)];
    let texts = [WORDS.policy(&mut choices), WORDS.policy(&mut choices)];
    let parsed: Vec<Policy> = texts
        .iter()
        .enumerate()
        .map(|(n, text)| {
            let id = Some(cedar_policy::PolicyId::new(n.to_string()));
            Policy::parse(id, text).unwrap_or_else(|error| panic!("{text}\n{error:?}"))
        })
        .collect();
    let (program, principals, compiled) = compile(&parsed);
    let entities = entities();
    for ((text, policy), compiled) in texts.iter().zip(&parsed).zip(&compiled) {
        for (index, name) in SERVICES.iter().enumerate() {
            for context in &contexts {
                let expected = by_cedar(policy, name, context, &entities);
                let told = |what: &str| format!("{what}: {text}\n{name} {context:?}\nCedar: {expected:?}");
                let agrees = |code| match program.evaluate(code, principals[index], context) {
                    Ok(value) => expected == Some(value),
                    Err(AskCedar) => expected.is_none() || asks_for_records(text),
                };
                prop_assert!(agrees(compiled.whole), "{}", told("as a whole"));
                if !compiled.principals.contains(index) {
                    prop_assert_eq!(expected, Some(false), "{}", told("by its principals"));
                    continue;
                }
                let fits = |keys: &Option<Vec<Key>>| {
                    keys.as_ref().is_none_or(|keys| keys.iter().any(|key| fits(key, context)))
                };
                let ways: Vec<_> = compiled.ways.iter().filter(|way| fits(&way.keys)).collect();
                let is_true = ways.iter().any(|way| program.evaluate(way.code, principals[index], context) == Ok(true));
                prop_assert!(
                    ways.len() < 2 || expected.is_some(),
                    "{}",
                    told("parts of a policy that can be an error")
                );
                match &ways[..] {
                    [one] => prop_assert!(agrees(one.code), "{}", told("by its part")),
                    _ => prop_assert_eq!(expected, Some(is_true), "{}", told("by its parts")),
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(std::env::var("WEFT_CASES").map_or(2_000, |cases| cases.parse().expect("a number"))))]

    #[test]
    fn a_policy_means_what_it_means_to_cedar(bytes in proptest::collection::vec(any::<u8>(), 0..240)) {
        check(&bytes)?;
    }
}
