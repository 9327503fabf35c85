//! `docs/reference/spiffe.md` says which test shows which rule: every test that it names is there and is run, whatever no test shows says why,
//! and its head counts both.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A row of one of the tables.
struct Row<'a> {
    number: &'a str,
    /// Whether Weft does it, and where.
    today: &'a str,
    test: &'a str,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn rows(text: &str) -> Vec<Row<'_>> {
    text.lines()
        .filter_map(|line| {
            let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
            let [number, _, level, _, _, today, test] = cells[..] else { return None };
            (level != "level" && !level.starts_with("---")).then_some(Row { number, today, test })
        })
        .collect()
}

/// Whether a file of tests has this function, and the function is one.
fn is_a_test(code: &str) -> bool {
    let Some((file, name)) = code.split_once(".rs::") else { return false };
    let folder = if file.starts_with("tests/") { root() } else { root().join("crates") };
    let source = fs::read_to_string(folder.join(format!("{file}.rs"))).unwrap_or_default();
    let Some(at) = source.find(&format!("fn {name}(")) else { return false };
    let own_line = source[..at].rfind('\n').unwrap_or(0);
    let before = source[..own_line].lines().rev().map(str::trim);
    let attributes = before.take_while(|line| !line.is_empty() && !line.ends_with(['}', '{', ';']));
    attributes.into_iter().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
}

fn named(test: &str) -> Vec<&str> {
    test.split('`').skip(1).step_by(2).filter(|code| code.contains(".rs")).collect()
}

#[test]
fn every_row_is_shown_by_a_test_that_is_there_or_says_why_by_none() {
    let text = fs::read_to_string(root().join("docs/reference/spiffe.md")).expect("the checklist");
    let rows = rows(&text);
    let (mut wrong, mut numbers, mut shown) = (BTreeSet::new(), BTreeSet::new(), 0);
    for Row { number, today, test } in &rows {
        let mut complain = |why: &str| wrong.insert(format!("{number}: {why}"));
        if !numbers.insert(*number) {
            complain("its number stands there twice");
        }
        if today.is_empty() || today.contains("missing") {
            complain("it does not say what Weft does");
        }
        let tests = named(test);
        for code in tests.iter().filter(|code| code.contains("::") && !is_a_test(code)) {
            complain(&format!("there is no test {code}"));
        }
        let why = test.strip_prefix("none: ").unwrap_or_default();
        match (tests.is_empty(), why.is_empty()) {
            (false, true) => shown += 1,
            (true, false) => {}
            _ => {
                complain("it must name a test, or say `none: ` and why");
            }
        }
        if test.contains("to write") {
            complain("what is to be written is no test");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let head = format!("{} rows. {shown} are shown by a test", rows.len());
    assert!(text.contains(&head), "the head must say: {head}");
}
