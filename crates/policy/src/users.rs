//! Policies about users: no token is read yet, so `context.user` is never there.

use weft_model::{Finding, Severity};

use crate::source::Source;

/// Adds the warnings.
pub(crate) fn warn(sources: &[Source], findings: &mut Vec<Finding>) {
    for source in sources.iter().filter(|source| source.origin.is_some()) {
        let mut asks = false;
        weft_policy_eval::reads(source.policy.as_ref(), |way, _| {
            asks |= way.first().is_some_and(|name| *name == "user")
        });
        if !asks {
            continue;
        }
        findings.push(Finding {
            code: "WEFT0224",
            severity: Severity::Warning,
            message: "this policy asks for `context.user`, and no call has one: tokens of users are not read yet".to_owned(),
            hint: "it decides as if every call had no user; `weft explain --user TOKEN` shows what it will do when calls have one".to_owned(),
            span: Some(source.span(source.text.find("context.user").or_else(|| source.text.find("user")).unwrap_or(0))),
        });
    }
}

#[cfg(test)]
mod tests {
    use crate::check::check;
    use crate::testing;

    #[test]
    fn whoever_asks_for_a_user_is_told_that_there_is_none() {
        let mut intent = testing::intent(&["prod/web", "prod/board"]);
        let about_users =
            "permit(principal, action, resource)\n  when { context has user && context.user.subject == \"a\" };";
        testing::policies(&mut intent, &format!("permit(principal, action, resource);\n{about_users}"));
        let told: Vec<_> = check(&intent).into_iter().filter(|finding| finding.code == "WEFT0224").collect();
        assert!(told.len() == 1 && told[0].span.as_ref().is_some_and(|span| span.line == 3), "{told:#?}");
    }
}
