//! A `.cedar` file from a stranger: what the check accepts, every sidecar can use, and nothing ends a stack.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_fuzz::{decide, edited, intent};
use weft_model::intent::PolicyFile;
use weft_model::{Severity, SpiffeId};
use weft_policy::{Bundle, Engine};

const GOOD: &str = r#"// Comments; stay.
@id("x") permit(principal in Namespace::"prod", action == Action::"call", resource == Service::"prod/board")
when { principal has sensitivity && principal.sensitivity == "low" && context.path like "/api/*" && context.depth < 4 }
unless { context has sourceIp && context.sourceIp.isInRange(ip("10.0.0.0/8")) };
forbid(principal is Service, action, resource) when { principal.namespace != resource.namespace || ["a", "b"].contains(context.host) };
permit(principal in Role::"ops", action, resource) when { if context has first2 then context.first2 == "/a/b" else -1 < 2 * 3 };
"#;

fuzz_target!(|edits: &[u8]| {
    let text = String::from_utf8_lossy(&edited(GOOD.as_bytes(), edits)).into_owned();
    let mut intent = intent();
    intent.policies.push(PolicyFile { path: "policies/x.cedar".into(), text: text.as_str().into() });
    let lines = text.split('\n').count() as u32;
    let findings = weft_policy::check(&intent);
    for finding in &findings {
        let span = finding.span.as_ref().expect("a place");
        assert!(span.line >= 1 && span.line <= lines + 1 && span.column >= 1, "{finding:?}");
    }
    let model = weft_policy::compile(&intent, "c0ffee");
    assert_eq!(model.is_ok(), findings.iter().all(|finding| finding.severity != Severity::Error));
    let Ok(model) = model else { return };
    let board = "prod/board".parse().expect("legal");
    let bundle = Bundle::from_bytes(&model.bundle_for(&board).to_bytes()).expect("as it was made");
    let engine = Engine::new(&bundle).unwrap_or_else(|error| panic!("checked, and refused by a sidecar: {error}"));
    for caller in intent.services.keys() {
        let id = SpiffeId::for_service(&bundle.trust_domain, caller);
        let allowed = decide(&engine, Some(&id), "/api/x");
        assert!(!allowed || model.may_call(caller, &board), "{caller} is not told where board is, and may call it");
    }
});
