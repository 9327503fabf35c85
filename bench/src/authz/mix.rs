//! The bundle that decisions are measured on, and the calls: a believable service of a mesh, the same on every run.
//!
//! Most policies are rules for one caller, as `access` has them. The rest is what people write beside them: roles, namespaces,
//! attributes, forbids, addresses, and a few that concern everyone.

use std::fmt::Write as _;
use std::net::IpAddr;

use weft_model::SpiffeId;
use weft_model::intent::{AccessRule, Allow, Caller, Intent, PolicyFile};
use weft_policy::{Bundle, CallRequest, testing};

/// The callee.
const CALLEE: &str = "shop/api";
const ROLES: usize = 24;
const NAMESPACES: usize = 20;

/// A call that owns what it says.
pub(crate) struct Call {
    pub(crate) caller: String,
    id: SpiffeId,
    method: &'static str,
    path: String,
    host: String,
    source_ip: IpAddr,
}

impl Call {
    pub(crate) fn request(&self) -> CallRequest<'_> {
        CallRequest {
            method: self.method,
            path: &self.path,
            host: &self.host,
            source_ip: Some(self.source_ip),
            ..testing::request(&self.id)
        }
    }
}

/// So many policies for the callee.
pub(crate) fn intent(policies: usize) -> Intent {
    let callers = callers(policies);
    let names: Vec<String> = (0..callers).map(caller).chain([CALLEE.to_owned()]).collect();
    let mut intent = testing::intent(&names.iter().map(String::as_str).collect::<Vec<_>>());
    intent.mesh = testing::mesh(&[("tier", &["gold", "silver", "bronze"]), ("zone", &["a", "b", "c"])]);
    for (at, name) in names.iter().enumerate() {
        let service = intent.services.get_mut(&testing::name(name)).expect("it was just made");
        service.attributes.insert("zone".into(), ["a", "b", "c"][at % 3].into());
        if at % 4 != 3 {
            service.attributes.insert("tier".into(), ["gold", "silver", "bronze"][at % 3].into());
        }
    }
    for role in 0..ROLES {
        let members = (0..callers).filter(|at| at % ROLES == role || at % 7 == role);
        let members = members.map(|at| Caller::Service(testing::name(&caller(at)))).collect();
        testing::role(&mut intent, &format!("role{role}"), members);
    }
    let mut text = String::new();
    for at in 0..policies {
        // Six of ten are for one caller.
        if at % 10 < 6 {
            let rule = AccessRule {
                from: vec![Caller::Service(testing::name(&caller(at % callers)))],
                allow: allow(at),
                shadow: false,
                span: testing::span("services/shop-api.yaml", 11 + at as u32),
            };
            intent.services.get_mut(&testing::name(CALLEE)).expect("the callee").access.push(rule);
        } else {
            let _ = writeln!(text, "{}", written(at));
        }
    }
    intent.policies.push(PolicyFile { path: "policies/api.cedar".into(), text: text.into() });
    intent
}

/// What the callee's sidecar is sent.
pub(crate) fn bundle(intent: &Intent) -> Bundle {
    let model = weft_policy::compile(intent, "c0ffee").unwrap_or_else(|findings| panic!("{findings:#?}"));
    model.bundle_for(&testing::name(CALLEE))
}

/// Whom the calls are to.
pub(crate) fn callee() -> &'static str {
    CALLEE
}

fn callers(policies: usize) -> usize {
    (policies / 10).max(ROLES)
}

fn caller(at: usize) -> String {
    format!("team{}/service{at}", at % NAMESPACES)
}

/// One to four paths, half of them with a method.
fn allow(at: usize) -> Vec<Allow> {
    let one = |n: usize| Allow {
        method: (at + n).is_multiple_of(2).then(|| ["GET", "POST", "PUT"][(at + n) % 3].into()),
        path: match n % 3 {
            0 => format!("/api/v1/area{}/**", at % 300).into(),
            1 => format!("/api/v1/area{}/items/*", (at + n) % 300).into(),
            _ => format!("/api/v2/area{at}").into(),
        },
    };
    (0..1 + at % 4).map(one).collect()
}

/// What stands in a `.cedar` file.
fn written(at: usize) -> String {
    let (role, namespace) = (at % ROLES, at % NAMESPACES);
    // Every kind comes early, and as often as it is wide.
    match (at / 10 * 7 + at % 10 * 23) % 80 {
        0..20 => format!(
            "permit (principal in Role::\"role{role}\", action == Action::\"call\", resource == Service::\"{CALLEE}\")
            when {{ context.method == \"GET\" && context.path like \"/reports/{at}/*\" }};"
        ),
        20..36 => format!(
            "permit (principal in Namespace::\"team{namespace}\", action, resource)
            when {{ context.path == \"/team/{at}\" || (context.method == \"POST\" && context.path like \"/team/{at}/*\") }};"
        ),
        36..52 => format!(
            "permit (principal, action, resource) when {{ principal has tier && principal.tier == \"gold\"
            && context.method == \"GET\" && context.path like \"/gold/{at}/*\" }};"
        ),
        52..60 => format!(
            "forbid (principal, action, resource) when {{ principal has zone && resource has zone && principal.zone != resource.zone
            && context.path like \"/zone/{at}/*\" }};"
        ),
        60..68 => format!(
            "forbid (principal, action, resource) when {{ context.path like \"/api/v1/area{}/admin/*\" }}
            unless {{ principal in Role::\"role{role}\" }};",
            at % 300
        ),
        68..72 => format!(
            "permit (principal in Namespace::\"team{namespace}\", action, resource) when {{ context.method == \"GET\"
            && context has sourceIp && context.sourceIp.isInRange(ip(\"10.{}.0.0/16\")) && context.depth < 3 }};",
            at % 256
        ),
        72..76 => format!(
            "permit (principal, action, resource)
            when {{ context.path == \"/public/{at}\" || context.path like \"/public/{at}/*\" || context.path == \"/healthz/{at}\" }};"
        ),
        76..79 => format!(
            "forbid (principal, action, resource) when {{ context has first2 && context.first2 == \"/internal/{at}\" }}
            unless {{ context has sourceIp && context.sourceIp.isInRange(ip(\"10.0.0.0/8\")) }};"
        ),
        _ => format!("forbid (principal, action, resource) when {{ context.host == \"closed{at}.example\" }};"),
    }
}

/// Calls by many callers: allowed, forbidden, and to paths that no policy knows.
pub(crate) fn calls(policies: usize, count: usize) -> Vec<Call> {
    let (callers, mut random) = (callers(policies), 0x9e37_79b9_7f4a_7c15u64);
    let mut below = |count: usize| {
        // Xorshift: the same on every machine.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 33) as usize % count
    };
    let call = |_| {
        let at = below(policies);
        let path = match below(10) {
            0..4 => format!("/api/v1/area{}/items/{}", at % 300, below(1000)),
            4 => format!("/api/v1/area{}/admin/users", at % 300),
            5 => format!("/reports/{at}/today"),
            6 => format!("/gold/{at}/x/y"),
            7 => format!("/public/{at}/style.css"),
            8 => format!("/team/{at}"),
            _ => format!("/nothing/here/{}", below(1000)),
        };
        // Half of the calls are by the one for whom there is a rule.
        let who = if below(2) == 0 { at % callers } else { below(callers) };
        let caller = caller(who);
        Call {
            id: testing::id(&caller),
            caller,
            method: ["GET", "POST", "GET", "PUT", "DELETE"][below(5)],
            path,
            host: "api.shop".to_owned(),
            source_ip: [10, below(256) as u8, 0, 7].into(),
        }
    };
    (0..count).map(call).collect()
}

#[cfg(test)]
mod tests {
    use weft_policy::Engine;

    use super::*;

    #[test]
    fn the_mix_has_as_many_policies_as_it_says_and_calls_of_each_kind() {
        for policies in [10, 1_000] {
            let bundle = bundle(&intent(policies));
            assert_eq!(bundle.policies.len(), policies);
            let engine = Engine::new(&bundle).expect("an engine");
            let decisions: Vec<_> = calls(policies, 2_000).iter().map(|call| engine.decide(&call.request())).collect();
            let allowed = decisions.iter().filter(|decision| decision.allowed).count();
            assert!((200..1_800).contains(&allowed), "{policies}: {allowed}");
            let by_default = decisions.iter().filter(|decision| decision.policies.is_empty()).count();
            assert!(by_default > 100 && by_default + allowed < 2_000 || policies < 100, "{by_default}");
        }
    }
}
