use super::*;
use crate::type_url::CLUSTER;

fn nack(resources: &[&str], reason: &str) -> Nack {
    Nack {
        type_url: CLUSTER,
        revision: "r".into(),
        resources: resources.iter().copied().map(Into::into).collect(),
        reason: reason.into(),
    }
}

fn blamed(nack: &Nack) -> Vec<(String, String)> {
    nack.blamed().into_iter().map(|rejection| (rejection.name.to_string(), rejection.reason)).collect()
}

#[test]
fn the_blame_falls_on_the_resources_that_envoy_names() {
    let names = ["outbound|80||a.b", "outbound|80||a", "c"];
    let text = "Error adding/updating cluster(s) outbound|80||a: bad: field x, c: worse\n";
    let expected = [("outbound|80||a", "bad: field x"), ("c", "worse")];
    assert_eq!(blamed(&nack(&names, text)), expected.map(|(name, why)| (name.to_owned(), why.to_owned())));
}

#[test]
fn weft_s_own_proxies_name_all() {
    let expected = [("a", "field: bad"), ("b", "worse")].map(|(name, why)| (name.to_owned(), why.to_owned()));
    assert_eq!(blamed(&nack(&["a", "b", "c"], "a: field: bad; b: worse")), expected);
}

#[test]
fn without_a_name_the_blame_falls_on_all() {
    let all = blamed(&nack(&["a", "b"], "Proto constraint validation failed\n"));
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|(_, why)| why == "Proto constraint validation failed"));
    assert!(blamed(&nack(&[], "anything")).is_empty());
}
