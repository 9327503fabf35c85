//! Documents built like those that Istio publishes, each with the policies and the report that come of it.

use std::path::Path;

use weft_import::Input;
use weft_import::istio::{Options, import};

fn imported(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/istio").join(name);
    let text = std::fs::read_to_string(&path).expect("a fixture");
    let input = Input { path: name.into(), text };
    let imported = import(&[input], &Options::default(), None).unwrap_or_else(|findings| panic!("{findings:#?}"));
    let files = imported.files.iter().map(|file| format!("=== {}\n{}", file.name, file.text));
    format!("{}=== report\n{}", files.collect::<Vec<_>>().join("\n"), imported.report.to_text())
}

macro_rules! golden {
    ($($test:ident: $file:literal)*) => {$(
        #[test]
        fn $test() {
            insta::assert_snapshot!(imported($file));
        }
    )*};
}

golden! {
    the_steps_of_the_http_task: "http.yaml"
    the_steps_of_the_tcp_task: "tcp.yaml"
    explicit_denials: "deny.yaml"
    tokens: "jwt.yaml"
    gateways_and_client_addresses: "ingress.yaml"
    external_authorizers_audits_and_dry_runs: "custom.yaml"
    trust_domains_that_moved: "trust-domains.yaml"
    the_concepts_page: "concepts.yaml"
    the_reference_of_the_api: "reference.yaml"
    ambient_mode: "ambient.yaml"
}
