//! What the control group of a process says of it (cgroups(7)): the unit of systemd, and the container. Pure.
//!
//! Only those names count that nobody but the system can give: a user's own manager (`user@1000.service`) makes groups of any name below itself.

/// The control group in a file `cgroup` of /proc: that of the unified hierarchy, or, where that is not in use, that of systemd's.
pub(crate) fn path(file: &str) -> Option<&str> {
    let of = |hierarchy: fn(&str, &str) -> bool| {
        file.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
            (hierarchy(number, controllers) && path.starts_with('/')).then_some(path)
        })
    };
    let unified = of(|number, controllers| number == "0" && controllers.is_empty());
    let named = of(|_, controllers| controllers == "name=systemd");
    unified.filter(|path| *path != "/").or(named).or(unified)
}

/// The system's unit: the first segment that is no slice, if it is a service or scope. What is below it is the unit's own business.
pub(crate) fn unit(path: &str) -> Option<&str> {
    let first = segments(path).find(|segment| !segment.ends_with(".slice"))?;
    (first.ends_with(".service") || first.ends_with(".scope")).then_some(first)
}

/// The container: the first 64 hexadecimal digits that stand alone in a segment, as `docker-….scope`, `/docker/…`, `cri-containerd-….scope` and
/// `libpod-….scope` have them. Of a container in a container it is the outer one. Below a user's own manager there is none.
pub(crate) fn container(path: &str) -> Option<&str> {
    let system = segments(path).take_while(|segment| !(segment.starts_with("user@") && segment.ends_with(".service")));
    system
        .flat_map(|segment| segment.split(|c: char| !c.is_ascii_alphanumeric()))
        .find(|word| word.len() == 64 && word.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

/// Whether a group is one that a pattern means, or is below one.
pub(crate) fn is_in(path: &str, pattern: &str) -> bool {
    let mut have = segments(path);
    segments(pattern).all(|wanted| have.next().is_some_and(|segment| glob(wanted, segment)))
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// Whether `text` is `pattern` with something, or nothing, in the place of each `*`.
fn glob(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        // The first place is the best: it leaves the most for what follows.
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4f9d2b60b6b1c7a8e1d5f3f2a9c4b8d7e6f5a4b3c2d1e0f9a8b7c6d5e4f3a2b1";

    #[test]
    fn the_group_is_that_of_the_unified_hierarchy_or_of_systemds() {
        assert_eq!(path("0::/system.slice/web.service\n"), Some("/system.slice/web.service"));
        let hybrid = "12:pids:/system.slice/web.service\n1:name=systemd:/system.slice/web.service/x:y\n0::/\n";
        assert_eq!(path(hybrid), Some("/system.slice/web.service/x:y"), "the unified one is not in use");
        let both = "1:name=systemd:/a\n0::/b\n";
        assert_eq!(path(both), Some("/b"));
        assert_eq!(path("0::/\n"), Some("/"));
        assert_eq!(path("7:memory:/docker/x\n"), None);
        assert_eq!((path(""), path("nonsense\n::\n0::x")), (None, None));
    }

    #[test]
    fn the_unit_is_the_systems_and_no_users() {
        for (path, expected) in [
            ("/system.slice/web.service", Some("web.service")),
            ("/system.slice/system-web.slice/web@1.service", Some("web@1.service")),
            ("/system.slice/web.service/board.service", Some("web.service")),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/web.service", Some("user@1000.service")),
            ("/user.slice/user-1000.slice/session-2.scope", Some("session-2.scope")),
            ("/init.scope", Some("init.scope")),
            ("/system.slice", None),
            ("/web/web.service", None),
            ("/", None),
        ] {
            assert_eq!(unit(path), expected, "{path}");
        }
    }

    #[test]
    fn the_container_is_the_outermost_and_no_users() {
        for path in [
            format!("/docker/{ID}"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/kubepods.slice/kubepods-burstable.slice/kubepods-pod12.slice/cri-containerd-{ID}.scope"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/docker/{ID}/docker/{}", ID.replace('4', "5")),
        ] {
            assert_eq!(container(&path), Some(ID), "{path}");
        }
        for path in [
            format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope"),
            format!("/docker/{ID}0"),
            format!("/docker/{}", ID.to_uppercase()),
            format!("/docker/{}", &ID[1..]),
            "/system.slice/web.service".to_owned(),
        ] {
            assert_eq!(container(&path), None, "{path}");
        }
    }

    #[test]
    fn a_pattern_means_a_group_and_all_below_it() {
        for (pattern, yes, no) in [
            ("/system.slice", "/system.slice/web.service", "/system.slice2/web.service"),
            ("/system.slice/web.service", "/system.slice/web.service", "/system.slice"),
            ("/system.slice/web*", "/system.slice/web@1.service/x", "/system.slice/x/web.service"),
            ("/*/a*c/*b", "/x/abc/bb", "/x/abd/bb"),
            ("/a*", "/a", "/b/a"),
        ] {
            assert!(is_in(yes, pattern), "{pattern} {yes}");
            assert!(!is_in(no, pattern), "{pattern} {no}");
        }
    }
}
