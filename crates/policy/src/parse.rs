//! From texts to policies. Cedar's parser makes its tables anew for each text that it is given, and they take longer
//! than a policy does; so many policies are given to it at once. And it takes most of the time of a load, so several threads parse.

use std::fmt::Write as _;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread::{self, Scope};

use cedar_policy::{Policy, PolicyId, PolicySet};
use cedar_policy_core::ast::PolicyID;
use cedar_policy_core::parser::parse_policyset_to_ests_and_pset;
use serde_json::Value;

use crate::bound;
use crate::bundle::{PolicyError, PolicyText};

/// How many at once: the tables are made for few, and the trees of few are kept at a time.
pub(crate) const TOGETHER: usize = 32;

/// Threads that parse at a time, at most: a sidecar has calls to carry, too.
const THREADS_MAX: usize = 4;

/// Calls `each` with every policy, in order. Their ids are not those of the texts.
///
/// # Errors
/// One does not parse or goes too deep, or an error of `each`.
pub(crate) fn parse<'t>(
    texts: &'t [PolicyText],
    mut each: impl FnMut(&'t PolicyText, &Policy) -> Result<(), PolicyError>,
) -> Result<(), PolicyError> {
    for text in texts {
        bound::check(&text.text).map_err(|too_deep| refuse(text, too_deep.message()))?;
    }
    let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let parts: Vec<_> = texts.chunks(TOGETHER).collect();
    thread::scope(|scope| {
        // This thread takes the first part of each round, and a helper each of the others.
        let turns: Vec<_> = (0..threads.min(parts.len()))
            .map(|turn| (turn > 0).then(|| Helper::start(scope, &parts, turn, threads))?)
            .collect();
        for (part, helper) in parts.iter().zip(turns.iter().cycle()) {
            let parsed = match helper.as_ref().map(|helper| helper.parsed.recv()) {
                Some(Ok(parsed)) => parsed?,
                // There is no helper, or it has panicked, as this thread will.
                Some(Err(_)) | None => some(part)?,
            };
            for (text, policy) in part.iter().zip(&parsed) {
                each(text, policy)?;
            }
        }
        Ok(())
    })
}

/// A thread that parses ahead, by one part.
struct Helper {
    parsed: Receiver<Result<Vec<Policy>, PolicyError>>,
    /// It stays until this is dropped: so all that it has made is gone before it is, and leaves no memory behind.
    _stay: Sender<()>,
}

impl Helper {
    /// `None` if there can be no more threads.
    fn start<'s>(scope: &'s Scope<'s, '_>, parts: &'s [&[PolicyText]], turn: usize, of: usize) -> Option<Self> {
        let (result, parsed) = sync_channel(1);
        let (stay, done) = channel();
        let work = move || {
            let mut mine = parts.iter().skip(turn).step_by(of);
            let _ = mine.try_for_each(|part| result.send(some(part))); // nobody wants more
            let _ = done.recv();
        };
        let started = thread::Builder::new().spawn_scoped(scope, || bound::with_stack(work));
        started.is_ok().then_some(Self { parsed, _stay: stay })
    }
}

fn some(texts: &[PolicyText]) -> Result<Vec<Policy>, PolicyError> {
    let together = together(&texts.iter().map(|text| &*text.text).collect::<Vec<_>>());
    match together {
        Some(policies) => Ok(policies.into_iter().map(|(policy, _)| policy).collect()),
        // Whichever is wrong says so itself.
        None => texts.iter().map(alone).collect(),
    }
}

fn refuse(text: &PolicyText, why: String) -> PolicyError {
    PolicyError::Policy { id: text.id.clone(), why }
}

fn alone(text: &PolicyText) -> Result<Policy, PolicyError> {
    Policy::parse(Some(PolicyId::new(&text.id)), &text.text).map_err(|error| refuse(text, error.to_string()))
}

/// All of them, each with where it starts in what Cedar was given, which is what its places are counted from. None if some text is not
/// exactly one policy, as it could be read together with its neighbours.
pub(crate) fn together(texts: &[&str]) -> Option<Vec<(Policy, usize)>> {
    let (mut all, mut places) = (String::new(), Vec::with_capacity(texts.len()));
    for text in texts {
        let start = all.len();
        // The end of a line ends a comment.
        let _ = writeln!(all, "{text}");
        places.push(start..all.len());
    }
    let set: PolicySet = all.parse().ok()?;
    if set.policies().count() != texts.len() || set.templates().next().is_some() {
        return None;
    }
    let within = |(at, place): (usize, std::ops::Range<usize>)| {
        // Cedar numbers them as they come.
        let policy = set.policy(&PolicyId::new(format!("policy{at}")))?;
        let loc = AsRef::<cedar_policy_core::ast::Policy>::as_ref(policy).loc()?;
        (place.start <= loc.start() && loc.end() <= place.end).then(|| (policy.clone(), place.start))
    };
    places.into_iter().enumerate().map(within).collect()
}

/// What stands behind `when` and `unless` in each, in Cedar's JSON form, of texts that can be read [`together`]: to make it of a policy, Cedar
/// would read that text again. None where one is deep.
pub(crate) fn conditions(texts: &[&str]) -> Vec<Value> {
    if texts.iter().any(|text| bound::is_deep(text)) {
        return Vec::new();
    }
    let all: String = texts.iter().flat_map(|text| [text, "\n"]).collect();
    let Ok((mut forms, _)) = parse_policyset_to_ests_and_pset(&all) else { return Vec::new() };
    let each = (0..texts.len()).map(|at| forms.remove(&PolicyID::from_string(format!("policy{at}"))));
    each.map(|form| serde_json::to_value(form).map(|mut form| form["conditions"].take()).unwrap_or_default()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<PolicyText> {
        let text = |(line, text): (u32, &&str)| PolicyText {
            id: format!("x:{line}").into(),
            file: "x".into(),
            line,
            text: (*text).into(),
        };
        (1..).zip(texts).map(text).collect()
    }

    /// What comes of each text, or what is wrong with the first that is no policy.
    fn parsed(of: &[PolicyText]) -> Result<Vec<String>, PolicyError> {
        let mut all = Vec::new();
        parse(of, |text, policy| {
            all.push(format!("{} {}", text.id, policy.effect()));
            Ok(())
        })?;
        Ok(all)
    }

    const PERMIT: &str = "permit(principal, action, resource);";
    const FORBID: &str = "forbid(principal, action, resource);";

    #[test]
    fn each_text_is_the_policy_that_it_is_alone() {
        let many: Vec<&str> = (0..300).map(|at| if at % 3 == 0 { PERMIT } else { FORBID }).collect();
        let expected: Vec<String> =
            (1..).zip(&many).map(|(line, text): (u32, _)| format!("x:{line} {}", &text[..6])).collect();
        assert_eq!(parsed(&texts(&many)), Ok(expected));
        let commented = ["// a comment\npermit(principal, action, resource); // and one", FORBID];
        assert_eq!(parsed(&texts(&commented)), Ok(vec!["x:1 permit".to_owned(), "x:2 forbid".to_owned()]));
        assert!(together(&commented).is_some());
        assert_eq!(parsed(&[]), Ok(Vec::new()));
    }

    #[test]
    fn conditions_are_what_cedar_says_of_each_alone() {
        let texts: Vec<String> = (0..40)
            .map(|at| format!("permit(principal, action, resource) when {{ context.depth >= {at} || context.path like \"/a*\" }} unless {{ context has user }};"))
            .chain([PERMIT.to_owned()])
            .collect();
        let texts: Vec<&str> = texts.iter().map(|text| &**text).collect();
        let alone = texts.iter().map(|text| Policy::parse(None, text).unwrap().to_json().unwrap()["conditions"].take());
        assert_eq!(conditions(&texts), alone.collect::<Vec<_>>());
    }

    /// Together they may be policies.
    #[test]
    fn no_text_is_read_together_with_its_neighbour() {
        let two = format!("{PERMIT} {FORBID}");
        for (of, wrong) in [
            (["forbid(principal, action, resource) when {", "true }; permit(principal, action, resource);"], "x:1"),
            ([&*two, "// nothing"], "x:1"),
            ([PERMIT, "nonsense"], "x:2"),
            ([PERMIT, "permit(principal == ?principal, action, resource);"], "x:2"),
            ([PERMIT, ""], "x:2"),
            (["", &two], "x:1"),
        ] {
            match parsed(&texts(&of)) {
                Err(PolicyError::Policy { id, .. }) => assert_eq!(&*id, wrong, "{of:?}"),
                other => panic!("{of:?}: {other:?}"),
            }
        }
    }
}
