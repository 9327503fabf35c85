//! `weft policy import istio` as it is typed: what is written where, exit codes, and that nothing is written over.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use weft_tests::mesh::text;
use weft_tests::peers;

const WHOLE: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: readers, namespace: prod}\nspec:\n  \
                     selector: {matchLabels: {app: board}}\n  rules:\n  - from: [{source: {principals: [cluster.local/ns/prod/sa/web]}}]\n    \
                     to: [{operation: {methods: [GET]}}]\n";
const PART: &str = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: tokens, namespace: prod}\nspec:\n  \
                    selector: {matchLabels: {app: board}}\n  action: DENY\n  rules:\n  - from: [{source: {notRequestPrincipals: ['*']}}]\n";

fn import(folder: &Path, args: &[&str]) -> (i32, Output) {
    let command = [&["policy", "import", "istio"], args].concat();
    let output = Command::new(peers::weft()).args(command).current_dir(folder).output().expect("weft runs");
    (output.status.code().expect("an exit code"), output)
}

fn mesh(folder: &Path) {
    let service = |name: &str| format!("---\nkind: Service\nname: {name}\nnamespace: prod\nport: 80\nprotocol: http\n");
    let mesh = format!("kind: Mesh\nname: acme\ntrustDomain: acme.internal\n{}{}", service("web"), service("board"));
    fs::create_dir(folder.join("mesh")).expect("made");
    fs::write(folder.join("mesh/mesh.yaml"), mesh).expect("written");
}

#[test]
fn what_is_imported_is_policies_that_the_mesh_takes() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    mesh(path);
    fs::create_dir_all(path.join("istio/more")).expect("made");
    fs::write(path.join("istio/a.yaml"), WHOLE).expect("written");
    fs::write(path.join("istio/notes.txt"), "no YAML: [").expect("written");
    let (code, output) = import(path, &["istio", "--mesh", "mesh", "--out", "mesh/policies"]);
    assert_eq!(code, 0, "{}", text(&output));
    assert!(text(&output).contains("1 policy: 1 carried over in full"), "{}", text(&output));

    fs::write(path.join("istio/more/b.yml"), PART).expect("written");
    let (code, output) = import(path, &["istio", "--mesh", "mesh", "--out", "mesh/policies", "--output", "json"]);
    assert_eq!(code, 1, "{}", text(&output));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let policy = &report["policies"][1];
    assert_eq!((&policy["outcome"], &policy["written"]), (&"part".into(), &"prod-tokens.cedar".into()), "{report:#}");
    let issue = &policy["issues"][0];
    assert_eq!(
        (&issue["level"], &issue["field"]),
        (&"error".into(), &"rules[0].from[0].source.notRequestPrincipals".into())
    );
    assert_eq!((&issue["span"]["file"], &issue["span"]["line"]), (&"istio/more/b.yml".into(), &8.into()), "{issue}");

    let checked = Command::new(peers::weft()).args(["check", "mesh"]).current_dir(path).output().expect("weft runs");
    assert!(checked.status.success(), "{}", text(&checked));
    assert!(text(&checked).contains("2 policy files"), "{}", text(&checked));
}

#[test]
fn without_a_folder_policies_and_report_are_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("a.yaml"), WHOLE).expect("written");
    let (code, output) = import(folder.path(), &["a.yaml"]);
    assert_eq!(code, 0, "{}", text(&output));
    let (policies, report) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        policies.starts_with("// Istio's AuthorizationPolicy prod/readers (ALLOW), carried over.\n// From a.yaml:1"),
        "{policies}"
    );
    assert!(
        policies.contains("permit (principal == Service::\"prod/web\"") && !policies.contains("1 policy"),
        "{policies}"
    );
    assert!(report.contains("1 policy: 1 carried over in full") && !report.contains("permit"), "{report}");

    let mut child = Command::new(peers::weft())
        .args(["policy", "import", "istio", "-"])
        .stdin(Stdio::from(fs::File::open(folder.path().join("a.yaml")).expect("there")))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("weft runs");
    let mut piped = String::new();
    std::io::Read::read_to_string(&mut child.stdout.take().expect("a pipe"), &mut piped).expect("text");
    assert!(child.wait().expect("it ends").success());
    assert_eq!(piped, policies.replace("a.yaml", "standard input"));
}

#[test]
fn what_cannot_be_read_leaves_everything_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    fs::write(path.join("a.yaml"), WHOLE).expect("written");
    fs::write(path.join("broken.yaml"), "kind: [\n").expect("written");
    for (args, why) in [
        (&["a.yaml", "broken.yaml", "--out", "out"][..], "not valid YAML"),
        (&["a.yaml", "nowhere.yaml", "--out", "out"], "cannot read nowhere.yaml"),
        (&["a.yaml", "--mesh", "nowhere", "--out", "out"], "name the folder of a mesh with --mesh"),
        (&["a.yaml", "--rename", "x=y", "--out", "out"], "NAMESPACE/NAME=NAMESPACE/NAME"),
    ] {
        let (code, output) = import(path, args);
        assert_eq!(code, 2, "{}", text(&output));
        assert!(text(&output).contains(why), "{}", text(&output));
        assert!(!path.join("out").exists());
    }
    let args = ["a.yaml", "--out", "out"];
    assert_eq!(import(path, &args).0, 0);
    assert_eq!(import(path, &args).0, 0, "the same again is no conflict");
    let file = path.join("out/prod-readers.cedar");
    fs::write(&file, "// mine\n").expect("written");
    let (code, output) = import(path, &args);
    assert_eq!(code, 2);
    assert!(text(&output).contains("is there already, with another content"), "{}", text(&output));
    assert_eq!(fs::read_to_string(&file).expect("there"), "// mine\n");
    assert_eq!(import(path, &["a.yaml", "--out", "out", "--force"]).0, 0);
    assert!(fs::read_to_string(&file).expect("there").contains("permit"));
}
