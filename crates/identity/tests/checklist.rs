//! `docs/reference/spiffe.md` says which test shows which rule: every test that it names is there, and what is to be written is not.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[test]
fn every_test_that_the_checklist_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = fs::read_to_string(root.join("docs/reference/spiffe.md")).expect("the checklist");
    let mut wrong = BTreeSet::new();
    let (mut shown, mut to_write) = (0, 0);
    let mut parts = text.split('`').peekable();
    parts.next();
    while let Some(code) = parts.next() {
        let after = parts.next().unwrap_or("");
        let Some((file, name)) = code.split_once(".rs::") else { continue };
        let folder = if file.starts_with("tests/") { root.clone() } else { root.join("crates") };
        let source = fs::read_to_string(folder.join(format!("{file}.rs"))).unwrap_or_default();
        let is_there = source.contains(&format!("fn {name}("));
        let is_promised = after.trim_start().starts_with("*to write*");
        match (is_there, is_promised) {
            (true, false) => shown += 1,
            (false, true) => to_write += 1,
            (true, true) => {
                wrong.insert(format!("{code} is there, and the checklist says that it is to be written"));
            }
            (false, false) => {
                wrong.insert(format!("{code} is not there"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(shown > 20, "{shown} rows have a test, {to_write} want one: is this still the checklist?");
}
