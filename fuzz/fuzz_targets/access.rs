//! A path pattern of `access` and a path: the compiled policy allows exactly what the pattern says, letter by letter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_fuzz::{board, decide, intent};
use weft_model::intent::{AccessRule, Allow, Caller};
use weft_policy::testing::matches_by_the_letter;
use weft_policy::{Engine, path};

fuzz_target!(|input: &str| {
    let Some((pattern, path)) = input.split_once('\n') else { return };
    let Ok(path) = path::normalize(path::split(path).0, Default::default()) else { return };
    let mut intent = intent();
    let board_name = "prod/board".parse().expect("legal");
    let service = intent.services.get_mut(&board_name).expect("in the mesh");
    let allow = vec![Allow { method: None, path: pattern.into() }];
    service.access = vec![AccessRule { from: vec![Caller::Anyone], allow, shadow: false, span: service.span.clone() }];
    if !weft_policy::check(&intent).is_empty() {
        return;
    }
    let engine = Engine::new(&board(&intent)).expect("it was checked");
    let web = "spiffe://acme.internal/ns/prod/sa/web".parse().expect("legal");
    assert_eq!(decide(&engine, Some(&web), &path), matches_by_the_letter(pattern, &path));
});
