//! Which services a process is. Pure: what was looked at comes in, names come out.

use weft_identity::Assignment;
use weft_model::ServiceName;
use weft_model::attest::Selectors;

use crate::cgroup;
use crate::facts::Facts;

/// The services of which an entry holds, by name. `digest` is SHA-256 of the file that the process runs, if that is known.
pub(crate) fn services(all: &[Assignment], facts: &Facts, digest: Option<&str>) -> Vec<ServiceName> {
    let holds = |selectors: &Selectors| {
        let has_content = selectors.sha256.as_deref().is_none_or(|wanted| digest == Some(wanted));
        has_content && holds_beside_digest(selectors, facts)
    };
    let entitled = all.iter().filter(|assignment| assignment.any.iter().any(holds));
    let mut names: Vec<ServiceName> = entitled.map(|assignment| assignment.service.clone()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Whether the content of the file has to be known: it is the only thing left to ask of an entry.
pub(crate) fn needs_digest(all: &[Assignment], facts: &Facts) -> bool {
    let asks = |selectors: &Selectors| selectors.sha256.is_some() && holds_beside_digest(selectors, facts);
    all.iter().flat_map(|assignment| &assignment.any).any(asks)
}

/// Whether names of users or groups have to be known.
pub(crate) fn needs_names(all: &[Assignment]) -> bool {
    let asks = |selectors: &Selectors| selectors.user.is_some() || selectors.group.is_some();
    all.iter().flat_map(|assignment| &assignment.any).any(asks)
}

fn holds_beside_digest(selectors: &Selectors, facts: &Facts) -> bool {
    // All of them by name, so that a new one cannot be forgotten here.
    let Selectors { uid, gid, user, group, path, sha256, systemd_unit, cgroup, container_id } = selectors;
    let executable = facts.executable.as_ref();
    let is_in = |check: &dyn Fn(&str) -> bool| facts.cgroup.as_deref().is_some_and(check);
    !selectors.is_empty()
        && uid.is_none_or(|uid| facts.uid == uid)
        && gid.is_none_or(|gid| facts.gid == gid)
        && (user.is_none() || facts.user == *user)
        && (group.is_none() || facts.group == *group)
        && (path.is_none() || executable.is_some_and(|executable| executable.path == *path))
        && (sha256.is_none() || executable.is_some())
        && systemd_unit.as_deref().is_none_or(|unit| is_in(&|path| cgroup::unit(path) == Some(unit)))
        && cgroup.as_deref().is_none_or(|pattern| is_in(&|path| cgroup::is_in(path, pattern)))
        && container_id.as_deref().is_none_or(|id| is_in(&|path| cgroup::container(path) == Some(id)))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::facts::{Executable, FileId};

    const ID: &str = "4f9d2b60b6b1c7a8e1d5f3f2a9c4b8d7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1";
    const DIGEST: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn facts() -> Facts {
        let file = FileId { file: (1, 2), size: 3, modified: (4, 5), changed: (6, 7) };
        let pinned = Arc::new(File::open("/dev/null").expect("it is there"));
        Facts {
            pid: 77,
            uid: 1001,
            gid: 1002,
            user: Some("web".into()),
            group: Some("www".into()),
            executable: Some(Executable { file, path: Some("/usr/bin/web".into()), pinned }),
            cgroup: Some(format!("/system.slice/docker-{ID}.scope").into()),
        }
    }

    fn assigned(name: &str, any: Vec<Selectors>) -> Assignment {
        Assignment { service: name.parse().expect("legal"), any, svid_ttl: Duration::from_secs(60) }
    }

    fn is_web(selectors: &Selectors, facts: &Facts, digest: Option<&str>) -> bool {
        !services(&[assigned("prod/web", vec![selectors.clone()])], facts, digest).is_empty()
    }

    /// Each selector alone, one that holds and one that does not.
    fn each() -> Vec<(Selectors, Selectors)> {
        let text = |text: &str| Some(Arc::from(text));
        let none = Selectors::default;
        vec![
            (Selectors { uid: Some(1001), ..none() }, Selectors { uid: Some(0), ..none() }),
            (Selectors { gid: Some(1002), ..none() }, Selectors { gid: Some(1001), ..none() }),
            (Selectors { user: text("web"), ..none() }, Selectors { user: text("root"), ..none() }),
            (Selectors { group: text("www"), ..none() }, Selectors { group: text("web"), ..none() }),
            (Selectors { path: text("/usr/bin/web"), ..none() }, Selectors { path: text("/usr/bin/we"), ..none() }),
            (Selectors { sha256: text(DIGEST), ..none() }, Selectors { sha256: text(ID), ..none() }),
            (
                Selectors { systemd_unit: text(&format!("docker-{ID}.scope")), ..none() },
                Selectors { systemd_unit: text("web.service"), ..none() },
            ),
            (
                Selectors { cgroup: text("/system.slice"), ..none() },
                Selectors { cgroup: text("/user.slice"), ..none() },
            ),
            (Selectors { container_id: text(ID), ..none() }, Selectors { container_id: text(DIGEST), ..none() }),
        ]
    }

    #[test]
    fn each_selector_holds_or_does_not_and_of_an_entry_all_must() {
        let (facts, each) = (facts(), each());
        for (yes, no) in &each {
            assert!(is_web(yes, &facts, Some(DIGEST)), "{yes:?}");
            assert!(!is_web(no, &facts, Some(DIGEST)), "{no:?}");
        }
        assert_eq!(each.len() as u32, all_of(&each, None).count(), "none is left out");
        assert!(is_web(&all_of(&each, None), &facts, Some(DIGEST)));
        for wrong in 0..each.len() {
            assert!(!is_web(&all_of(&each, Some(wrong)), &facts, Some(DIGEST)), "{:?}", each[wrong].1);
        }
    }

    /// All selectors in one entry, with one of them that does not hold.
    fn all_of(each: &[(Selectors, Selectors)], wrong: Option<usize>) -> Selectors {
        let mut all = Selectors::default();
        for (n, (yes, no)) in each.iter().enumerate() {
            let one = if wrong == Some(n) { no.clone() } else { yes.clone() };
            all = Selectors {
                uid: all.uid.or(one.uid),
                gid: all.gid.or(one.gid),
                user: all.user.or(one.user),
                group: all.group.or(one.group),
                path: all.path.or(one.path),
                sha256: all.sha256.or(one.sha256),
                systemd_unit: all.systemd_unit.or(one.systemd_unit),
                cgroup: all.cgroup.or(one.cgroup),
                container_id: all.container_id.or(one.container_id),
            };
        }
        all
    }

    #[test]
    fn what_is_not_known_of_a_process_does_not_hold() {
        let nothing = Facts { uid: 5, gid: 5, ..Facts::default() };
        for (yes, _) in each() {
            assert!(!is_web(&yes, &nothing, None), "{yes:?}");
        }
        assert!(!is_web(&Selectors::default(), &facts(), None), "an entry that asks nothing is nobody's");
    }

    #[test]
    fn one_entry_of_a_service_is_enough_and_a_process_may_be_several() {
        let uid = |uid| Selectors { uid: Some(uid), ..Selectors::default() };
        let all = [
            assigned("prod/web", vec![uid(7), uid(1001)]),
            assigned("prod/board", vec![uid(7)]),
            assigned("prod/api", vec![uid(1001)]),
        ];
        let names: Vec<String> = services(&all, &facts(), None).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["prod/api", "prod/web"]);
    }

    #[test]
    fn a_file_is_read_only_when_all_else_holds() {
        let entry = |uid| Selectors { uid: Some(uid), sha256: Some(DIGEST.into()), ..Selectors::default() };
        assert!(needs_digest(&[assigned("prod/web", vec![entry(1001)])], &facts()));
        assert!(!needs_digest(&[assigned("prod/web", vec![entry(7)])], &facts()));
        assert!(!needs_names(&[assigned("prod/web", vec![entry(7)])]));
    }
}
