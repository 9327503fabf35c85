#!/bin/bash
# cedar-policy 4.14.1: `Policy::to_json` of a policy that was parsed from text does not walk the tree that is there: it parses the text once
# more, and a parse makes the parser's tables anew. So it costs more than a whole set of policies does to parse, for each policy; a
# policy that was made from JSON gives its JSON back at once.
#
# The good guess that fails: a method that turns what is in memory into JSON costs a walk over it.
#
# Seen (optimised; each the fastest of five rounds over 200 equal policies):
#   to_json of policies parsed from text takes more than 10 times what to_json of the same policies takes when they come from JSON,
#   and more than parsing all 200 from one text
#
# Exits with 1 if that changes. Needs cargo, crates.io and about two minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/src"
cat > "$folder/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"
[dependencies]
cedar-policy = "=4.14.1"
TOML
cat > "$folder/src/main.rs" <<'RUST'
use std::time::{Duration, Instant};

use cedar_policy::{Policy, PolicySet};

const COUNT: usize = 200;

/// The fastest of five rounds.
fn time<T>(mut work: impl FnMut() -> T) -> Duration {
    let round = || {
        let begin = Instant::now();
        std::hint::black_box(work());
        begin.elapsed()
    };
    std::iter::repeat_with(round).take(5).min().unwrap()
}

fn main() {
    let text = "permit(principal == U::\"a\", action, resource) when { context.path like \"/api/*\" };\n".repeat(COUNT);
    let parsed: PolicySet = text.parse().unwrap();
    let parsed: Vec<Policy> = parsed.policies().cloned().collect();
    let from_json: Vec<Policy> =
        parsed.iter().map(|policy| Policy::from_json(None, policy.to_json().unwrap()).unwrap()).collect();
    let all = |policies: &[Policy]| policies.iter().map(|policy| policy.to_json().unwrap()).collect::<Vec<_>>();
    let (of_text, of_json) = (time(|| all(&parsed)), time(|| all(&from_json)));
    let parse_all = time(|| text.parse::<PolicySet>().unwrap());
    eprintln!("to_json of {COUNT}: {of_text:?} parsed from text, {of_json:?} made from JSON; parsing all of them: {parse_all:?}");
    println!("more than 10 times as long as of policies made from JSON: {}", of_text > of_json * 10);
    println!("longer than parsing all of them: {}", of_text > parse_all);
}
RUST
cd "$folder"
seen=$(cargo run --release --quiet) || exit 2
expected='more than 10 times as long as of policies made from JSON: true
longer than parsing all of them: true'
echo "$seen"
if [ "$seen" != "$expected" ]; then
  echo "this has changed; it was:"
  echo "$expected"
  exit 1
fi
