//! What a request costs in units that a busy machine cannot blur: user instructions and system calls of all proxies of a subject.
//!
//! Each count takes two runs, of few and of many requests over as many connections, and is their difference by request. What
//! happens once, such as opening connections, is in both and so in neither. None of this is ever timed.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;

use crate::spread::median;
use crate::subject::{Setup, Subject, label};
use crate::{callgrind, h2load, perf, strace};

/// A count, or why there is none.
#[derive(Clone, Debug)]
pub(crate) enum Count {
    /// Per request, one value a repetition.
    Seen {
        /// The tool.
        by: &'static str,
        /// At least one.
        values: Vec<f64>,
    },
    /// A reason for the reader.
    Missing(String),
}

/// What was counted of one subject at one number of connections.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    pub(crate) instructions: Count,
    pub(crate) system_calls: Count,
}

/// Connections -> subject -> counts.
pub(crate) type All = BTreeMap<u32, BTreeMap<&'static str, Counts>>;

/// How much to count.
pub(crate) struct Plan<'a> {
    /// At least 1.
    pub(crate) repetitions: usize,
    /// Requests by which the two runs of a count differ; at least 1.
    pub(crate) requests: u64,
    pub(crate) connections: &'a [u32],
}

/// Counts every subject that has proxies, at every number of connections.
///
/// # Errors
/// When a subject cannot be started again under a tool. What a tool cannot do is told in the counts.
pub(crate) fn all(plan: &Plan<'_>, setup: &Setup, subjects: &[Subject]) -> Result<All> {
    let subjects = || subjects.iter().filter(|subject| !subject.proxies.is_empty());
    let mut all = All::new();
    for connections in plan.connections {
        for subject in subjects() {
            let system_calls = repeated("strace", plan, strace::ready(), || {
                let load = |requests| h2load::run(&[], subject.address, subject.host, *connections, requests);
                per_request(plan, *connections, |requests| {
                    strace::count(&setup.folder, &subject.proxies, || load(requests))
                })
            });
            say(subject, *connections, "system calls", &system_calls);
            let instructions = Count::Missing("not counted".to_owned());
            all.entry(*connections).or_default().insert(subject.name, Counts { instructions, system_calls });
        }
    }
    for subject in subjects() {
        let mut put = |connections, count| {
            say(subject, connections, "user instructions", &count);
            if let Some(counts) = all.get_mut(&connections).and_then(|case| case.get_mut(subject.name)) {
                counts.instructions = count;
            }
        };
        match (perf::ready(), callgrind::ready()) {
            (Ok(()), _) => plan.connections.iter().for_each(|c| put(*c, by_perf(plan, setup, subject, *c))),
            (Err(_), Ok(())) => {
                let slow = Subject::start(subject.name, setup, &callgrind::under(&setup.folder))?;
                let begun = callgrind::begin(&slow.proxies).map_err(|error| format!("{error:#}"));
                for connections in plan.connections {
                    put(*connections, by_callgrind(plan, &setup.folder, &slow, *connections, begun.clone()));
                }
            }
            (Err(perf), Err(valgrind)) => {
                let why = format!("{perf:#}; {valgrind:#}");
                plan.connections.iter().for_each(|c| put(*c, Count::Missing(why.clone())));
            }
        }
    }
    Ok(all)
}

fn by_perf(plan: &Plan<'_>, setup: &Setup, subject: &Subject, connections: u32) -> Count {
    let around = perf::around(&setup.folder, &subject.proxies);
    repeated("perf", plan, Ok(()), || {
        per_request(plan, connections, |requests| {
            h2load::run(&around, subject.address, subject.host, connections, requests)?;
            perf::counted(&setup.folder)
        })
    })
}

fn by_callgrind(plan: &Plan<'_>, folder: &Path, slow: &Subject, connections: u32, begun: Result<(), String>) -> Count {
    let run = |requests| h2load::run(&[], slow.address, slow.host, connections, requests);
    // Code that runs for the first time is translated; that takes time but no instructions. The first run opens what stays open.
    let begun = begun.map_err(anyhow::Error::msg).and_then(|()| run(few(connections)));
    let begun = begun.and_then(|()| callgrind::counted(folder, &slow.proxies)).map(|_| ());
    repeated("valgrind", plan, begun, || {
        per_request(plan, connections, |requests| {
            run(requests)?;
            callgrind::counted(folder, &slow.proxies)
        })
    })
}

/// Enough for every connection to be used more than once.
fn few(connections: u32) -> u64 {
    u64::from(connections) * 2
}

fn per_request(plan: &Plan<'_>, connections: u32, mut count: impl FnMut(u64) -> Result<u64>) -> Result<f64> {
    let few = few(connections);
    Ok(difference(count(few)?, count(few + plan.requests)?, plan.requests))
}

/// What one request more costs.
fn difference(few: u64, many: u64, requests: u64) -> f64 {
    (many as f64 - few as f64) / requests as f64
}

fn repeated(by: &'static str, plan: &Plan<'_>, ready: Result<()>, mut count: impl FnMut() -> Result<f64>) -> Count {
    match ready.and_then(|()| (0..plan.repetitions).map(|_| count()).collect()) {
        Ok(values) => Count::Seen { by, values },
        Err(error) => Count::Missing(format!("{error:#}")),
    }
}

/// Who counted what, for the reader.
pub(crate) fn tools<'a>(all: impl Iterator<Item = &'a Counts>) -> String {
    let mut tools = BTreeMap::new();
    for counts in all {
        for (what, count) in [("instructions", &counts.instructions), ("system calls", &counts.system_calls)] {
            if let Count::Seen { by, .. } = count {
                tools.insert(what, format!("{what} by {by}"));
            }
        }
    }
    tools.into_values().collect::<Vec<_>>().join(", ")
}

fn say(subject: &Subject, connections: u32, what: &str, count: &Count) {
    let seen = match count {
        Count::Seen { by, values } => format!("{:.1} a request, by {by}", median(values)),
        Count::Missing(why) => format!("none: {why}"),
    };
    println!("counted, {connections:>3} connections, {:<15}  {what}: {seen}", label(subject.name));
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan<'_> = Plan { repetitions: 2, requests: 100, connections: &[] };

    #[test]
    fn what_happens_once_is_in_no_request() {
        // 1000 for the start, 30 a connection, 7 a request.
        let seen = per_request(&PLAN, 8, |requests| Ok(1000 + 30 * 8 + 7 * requests)).unwrap();
        assert_eq!(seen, 7.0);
    }

    #[test]
    fn a_tool_that_is_missing_or_fails_leaves_its_reason() {
        let missing = repeated("strace", &PLAN, Err(anyhow::anyhow!("strace is missing")), || Ok(1.0));
        assert!(matches!(missing, Count::Missing(why) if why == "strace is missing"));
        let mut tries = 0;
        let failed = repeated("strace", &PLAN, Ok(()), || {
            tries += 1;
            if tries == 2 { Err(anyhow::anyhow!("no")) } else { Ok(1.0) }
        });
        assert!(matches!(failed, Count::Missing(why) if why == "no"));
        let seen = repeated("strace", &PLAN, Ok(()), || Ok(1.5));
        assert!(matches!(seen, Count::Seen { by: "strace", values } if values == [1.5, 1.5]));
    }
}
