use crate::trial::is;

fn all(expected: Option<bool>, conditions: &[&str]) {
    for condition in conditions {
        assert_eq!(is(condition), expected, "{condition}");
    }
}

#[test]
fn what_is_not_reached_is_no_error() {
    all(Some(true), &["true || 1", "true || principal.gone == 1", "if true then true else 1 + \"a\" == 1"]);
    all(Some(false), &["false && 1", "context.depth == 3 && principal.gone", "context has gone && context.gone"]);
    all(None, &["1 || true", "context.depth && true", "if 1 then true else true", "principal.gone == 1 || true"]);
    all(None, &["true && 1", "false || context.depth", "!context.depth", "context.depth"]);
}

#[test]
fn numbers_have_bounds() {
    all(
        Some(true),
        &["context.max - 1 < context.max", "-context.depth == -2", "context.depth * 3 >= 6", "1 + 1 == context.depth"],
    );
    all(
        None,
        &["context.max + 1 > 0", "context.max * 2 == 0", "0 - context.max - 2 < 0", "-(-9223372036854775808) > 0"],
    );
    all(None, &["context.method < \"a\"", "1 < \"a\"", "context.ip < 1", "context.method + 1 == 2"]);
}

#[test]
fn values_of_different_types_are_different() {
    all(
        Some(false),
        &["1 == \"1\"", "context.depth == true", "principal == \"A\"", "context.ip == \"10.0.0.1\"", "[] == {}"],
    );
    all(Some(true), &["1 != \"1\"", "context.ip == ip(\"10.0.0.1/32\")", "{a: context.depth} == {a: 2}", "{} == {}"]);
    all(Some(false), &["{a: context.depth} == {b: 2}", "{a: 1, b: 2} == {a: 1}", "principal == resource"]);
    // A record that is asked cannot say what else it has.
    all(None, &["context == {}", "context.user == context.user", "[context].contains({})"]);
    all(Some(false), &["context == 1", "[context].contains(1)"]);
}

#[test]
fn sets_have_no_order_and_no_doubles() {
    all(
        Some(true),
        &[
            "[1, 2, 1] == [2, 1]",
            "[context.depth, 1] == [1, 2, 2]",
            "context.user.scopes == [\"write\", \"read\"]",
            "context.user.scopes.contains(\"read\")",
            "context.user.scopes.containsAll([\"read\"]) && context.user.scopes.containsAll([])",
            "[\"write\", 1, principal].containsAny(context.user.scopes)",
            "[\"x\", \"read\", \"write\"].containsAll(context.user.scopes)",
            "[context.method, 1, context.ip].contains(\"GET\")",
            "[[1], [2, 1]].contains([1, 2])",
            "[].isEmpty() && !context.user.scopes.isEmpty()",
            "[ip(\"10.0.0.1\")].contains(context.ip)",
            "[{a: 1}].contains({a: context.depth - 1})",
        ],
    );
    all(
        Some(false),
        &[
            "context.user.scopes.contains(1)",
            "context.user.scopes == [\"read\"]",
            "[].containsAny([])",
            "[1].containsAll([context.depth])",
            "[ip(\"10.0.0.0/8\")].contains(context.ip)",
        ],
    );
    all(
        None,
        &[
            "context.method.contains(\"G\")",
            "[1].containsAll(1)",
            "context.depth.isEmpty()",
            "[principal.gone].isEmpty()",
        ],
    );
}

#[test]
fn entities_are_in_themselves_and_in_their_groups() {
    all(
        Some(true),
        &[
            "principal in principal",
            "principal in G::\"g\"",
            "principal in [G::\"x\", G::\"g\"]",
            "G::\"unknown\" in G::\"unknown\"",
            "principal is S && principal is S in G::\"all\" && action in Action::\"call\"",
        ],
    );
    all(
        Some(false),
        &[
            "principal in []",
            "principal in G::\"x\"",
            "principal in resource",
            "principal is G",
            "G::\"g\" in principal",
        ],
    );
    all(None, &["principal in 1", "principal in [G::\"g\", 1]", "1 in principal", "\"S\" is S", "principal in {}"]);
}

#[test]
fn attributes_are_there_or_an_error() {
    all(
        Some(true),
        &["principal.team == \"x\"", "principal has team", "context has user.scopes", "{a: {b: 1}}.a.b == 1"],
    );
    all(
        Some(false),
        &["principal has gone", "G::\"g\" has team", "context has gone.x.y", "context has user.gone", "{} has a"],
    );
    all(None, &["principal.gone == 1", "G::\"g\".team == 1", "S::\"unknown\".team == 1", "context.gone == 1", "{}.a"]);
    all(None, &["1 has a", "principal has team.x", "context has depth.x", "context.method.length == 3", "[] has a"]);
}

#[test]
fn like_is_about_text() {
    all(
        Some(true),
        &[
            "context.path like \"/a/*\"",
            "context.path like \"*\"",
            "\"a*b\" like \"a\\*b\"",
            "principal.name like \"a\"",
        ],
    );
    all(Some(false), &["context.path like \"\"", "\"axb\" like \"a\\*b\""]);
    all(None, &["context.depth like \"2\"", "principal like \"*\""]);
}

#[test]
fn addresses_are_read_as_cedar_reads_them() {
    all(Some(true), &["context.ip.isInRange(ip(\"10.0.0.0/8\"))", "context.ip.isIpv4() && !context.ip.isIpv6()"]);
    all(Some(true), &["!context.ip.isLoopback() && !context.ip.isMulticast()", "ip(\"::1\").isLoopback()"]);
    all(Some(false), &["context.ip.isInRange(ip(\"::/0\"))", "ip(\"10.0.0.0/8\").isInRange(context.ip)"]);
    all(
        None,
        &["ip(\"x\").isIpv4()", "ip(context.path).isIpv4()", "context.method.isIpv4()", "context.ip.isInRange(1)"],
    );
}

#[test]
fn what_is_not_known_here_is_cedars() {
    all(
        None,
        &[
            "decimal(\"1.0\").lessThan(decimal(\"2.0\"))",
            "principal.hasTag(\"x\")",
            "datetime(\"2024-01-01\").toDate() == 1",
        ],
    );
    all(Some(true), &["true || principal.hasTag(\"x\")"]);
    all(Some(false), &["context.method == \"PUT\" && duration(\"1h\").toHours() == 1"]);
}
