//! What somebody at a terminal asks about policies, and is told: of the example that the guide shows.

use std::path::{Path, PathBuf};
use std::process::Command;

use weft_tests::peers;

fn city() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/city")
}

/// The exit code, and what was printed.
fn ask(question: &str, repo: &Path) -> String {
    let output = Command::new(peers::weft()).args(question.split(' ')).arg("--repo").arg(repo).output();
    let output = output.expect("weft runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("$ weft {question}\n{out}{err}exit {}\n\n", output.status.code().expect("it ended by itself"))
}

#[test]
fn the_example_city_is_explained() {
    let questions = [
        "explain prod/web prod/board GET /api/pins",
        "explain prod/web prod/board DELETE /api/pins",
        "explain prod/web shared/ledger GET /entries",
        "explain spiffe://elsewhere.example/ns/prod/sa/web prod/board GET /",
        "explain prod/web prod/board GET /api%2Fpins",
        "explain board shared/ledger GET /entries",
        "explain prod/web prod/board get /",
        "explain prod/web prod/board",
        "policy who-can call shared/ledger GET /entries",
        "policy who-can call prod/web GET /",
        "policy what-can prod/web",
        "policy what-can shared/ledger",
        "policy test",
    ];
    insta::assert_snapshot!(questions.map(|question| ask(question, &city())).concat());
}

/// A caller that is not in the list, a role that is missing, an attribute, a path, the hours of an office on the days when the clocks change, a
/// service that is sensitive: `tests/seeds` has them as `Test` documents.
#[test]
fn the_seed_cases_hold() {
    let told = ask("policy test", &Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds"));
    assert!(told.contains("32 expectations, 0 failed") && told.ends_with("exit 0\n\n"), "{told}");
}

#[test]
fn a_program_is_told_the_same_as_json() {
    let json = |question: &str| {
        let told = ask(&format!("{question} -o json"), &city());
        let body =
            told.split_once('\n').and_then(|(_, rest)| rest.rsplit_once("exit ")).expect("a body and an exit code").0;
        serde_json::from_str::<serde_json::Value>(body).unwrap_or_else(|error| panic!("{error}: {told}"))
    };
    let denied = json("explain prod/web shared/ledger GET /entries");
    assert_eq!((&denied["decision"], &denied["policies"][0]), (&"deny".into(), &"policies/ledger.cedar:13".into()));
    let who = json("policy who-can call shared/ledger GET /entries");
    let decisions: Vec<_> =
        who["callers"].as_array().expect("a list").iter().map(|one| (&one["caller"], &one["decision"])).collect();
    assert!(decisions.contains(&(&"prod/board".into(), &"allow".into())), "{who:#}");
    assert!(decisions.contains(&(&"prod/web".into(), &"deny".into())), "{who:#}");
    let tests = json("policy test");
    assert!(tests["tests"].as_array().expect("a list").iter().all(|test| test["holds"] == true), "{tests:#}");
}

/// Facts that a call brings, and what is left open without them.
#[test]
fn what_was_not_given_is_named() {
    let authz = Path::new(env!("CARGO_MANIFEST_DIR")).join("authz");
    let with = |call: &str| ask(&format!("explain prod/web prod/board GET {call}"), &authz);
    let without = with("/tenants/a");
    assert!(without.contains("it reads context.headers.x-tenant, which was not given"), "{without}");
    let given = Command::new(peers::weft())
        .args(["explain", "prod/web", "prod/board", "GET", "/tenants/a", "-H", "X-Tenant: a", "--repo"])
        .arg(&authz)
        .output()
        .expect("weft runs");
    assert_eq!(given.status.code(), Some(0), "{given:?}");
    assert!(with("/tags?tag=red").contains("exit 0") && with("/tags?tag=blue").contains("exit 1"));
}

#[test]
fn a_commit_whose_tests_fail_is_refused_and_told() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let copied = Command::new("cp").arg("-r").arg(city()).arg(folder.path()).status().expect("cp runs");
    assert!(copied.success());
    let repo = folder.path().join("city");
    let tests = std::fs::read_to_string(repo.join("tests.yaml")).expect("the city has tests");
    let wrong = tests.replace("call: DELETE /api/pins, expect: deny", "call: DELETE /api/pins, expect: allow");
    assert_ne!(wrong, tests);
    std::fs::write(repo.join("tests.yaml"), wrong).expect("a file");
    let told = ask("policy test", &repo);
    assert!(
        told.contains("FAILED  board: allow prod/web to prod/board DELETE /api/pins") && told.contains("exit 1"),
        "{told}"
    );
    let checked = Command::new(peers::weft()).arg("check").arg(&repo).output().expect("weft runs");
    let text = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.code() == Some(1) && text.contains("WEFT0211"), "{text}");
}

/// The city in a temporary folder, with one file changed.
fn changed_city(file: &str, change: impl FnOnce(String) -> String) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let copied = Command::new("cp").arg("-r").arg(city()).arg(folder.path()).status().expect("cp runs");
    assert!(copied.success());
    let repo = folder.path().join("city");
    let before = std::fs::read_to_string(repo.join(file)).expect("the city has it");
    let after = change(before.clone());
    assert_ne!(after, before);
    std::fs::write(repo.join(file), after).expect("a file");
    (folder, repo)
}

#[test]
fn a_shadow_policy_is_explained_and_changes_nothing() {
    let shadow = "\n@shadow\nforbid (principal, action == Action::\"call\", resource == Service::\"prod/board\")\n\
                  when { context.method == \"POST\" };\n";
    let (_folder, repo) = changed_city("policies/ledger.cedar", |text| text + shadow);
    let told = ask("explain prod/web prod/board POST /api/pins", &repo);
    assert!(told.contains("allowed   prod/web to prod/board") && told.contains("exit 0"), "{told}");
    let denied = "It would be denied, were the shadow policies enforced:\n\n  forbid policies/ledger.cedar:28\n";
    assert!(told.contains(denied), "{told}");
    assert!(told.contains("| @shadow"), "{told}");
    let other = ask("explain prod/web prod/board GET /api/pins", &repo);
    assert!(!other.contains("It would be") && other.contains("forbid, in the shadow: not enforced"), "{other}");
    let tests = ask("policy test", &repo);
    assert!(tests.contains("with the shadow policies deny: forbid policies/ledger.cedar:28"), "{tests}");
    assert!(tests.contains("4 of 4 policies (100 %)") && tests.contains("exit 0"), "{tests}");
}

#[test]
fn tests_that_touch_too_few_policies_fail_if_that_is_asked_for() {
    let (_folder, repo) = changed_city("tests.yaml", |text| {
        text.replace("call: GET /entries, expect: deny", "call: GET /x, expect: deny")
    });
    let enough = ask("policy test --min-coverage 100", &repo);
    assert!(enough.contains("4 of 4 policies (100 %)") && enough.contains("exit 0"), "{enough}");
    let fewer = |text: String| text.split("---").next().expect("a document").to_owned();
    let (_folder, repo) = changed_city("tests.yaml", fewer);
    let told = ask("policy test --min-coverage 50", &repo);
    assert!(told.contains("1 of 4 policies (25 %)") && told.contains("  policies/ledger.cedar:13\n"), "{told}");
    assert!(told.contains("less than the 50 % that were asked for") && told.contains("exit 1"), "{told}");
    assert!(ask("policy test --min-coverage 25", &repo).contains("exit 0"));
    assert!(ask("policy test --min-coverage 101", &repo).contains("exit 2"));
    let json = ask("policy test --output json", &repo);
    assert!(json.contains("\"percent\": 25") && json.contains("\"touched\": 1"), "{json}");
}

#[test]
fn a_commit_that_routes_elsewhere_is_refused_and_told() {
    let (_folder, repo) = changed_city("services/board.yaml", |text| {
        text.replace("backendRefs: [{subset: v2}]", "backendRefs: [{subset: v1}]")
    });
    let told = ask("policy test", &repo);
    assert!(
        told.contains("FAILED  board: route prod/web to prod/board GET /api/pins") && told.contains("exit 1"),
        "{told}"
    );
    let checked = Command::new(peers::weft()).arg("check").arg(&repo).output().expect("weft runs");
    let text = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.code() == Some(1) && text.contains("WEFT0216"), "{text}");
    let goes = "is expected to go to prod/board v2, and goes to prod/board v1, by board.prod/routes[0] (services/board.yaml:13)";
    assert!(told.contains(goes), "{told}");
}
