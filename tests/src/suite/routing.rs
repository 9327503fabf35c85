//! Which endpoint a request goes to, and how a commit changes it.

use super::World;
use crate::wait;

/// Which version answered, over `count` calls without a header.
fn versions(world: &World, count: usize) -> [usize; 2] {
    // One curl, one connection: the split is by request, not by connection.
    let url = format!("http://{}/api/[1-{count}]", world.web.egress);
    let output = std::process::Command::new("curl")
        .args(["-s", "-S", "--fail", "-H", "Host: board.prod", &url])
        .output()
        .expect("curl runs");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    let hits = ["v1", "v2"].map(|v| text.matches(&format!("\"app\":\"{v}\"")).count());
    assert_eq!(hits[0] + hits[1], count, "{text}");
    hits
}

pub(super) fn split(world: &World) {
    for _ in 0..10 {
        let reply = world.curl("board.prod", "/api/", &["-H", "x-version: v2"]);
        assert_eq!(reply.json()["app"], "v2");
    }
    // 80/20: 500 draws have a standard deviation of 9, so 55 is six of them.
    let [_, v2] = versions(world, 500);
    assert!(v2.abs_diff(100) < 55, "{v2} of 500 went to v2, whose weight is 20 of 100");
}

pub(super) fn commit_changes_split(world: &World) {
    let (file, before, after) = ("services/board.yaml", "{subset: v2, weight: 20}", "{subset: v2, weight: 0}");
    world.mesh.repo.replace(file, before, after);
    world.mesh.commit("All to v1");
    // Acknowledged by every proxy means in force: from here on not one call may go to v2.
    assert_eq!(versions(world, 100), [100, 0]);
    world.mesh.repo.replace(file, after, before);
    let commit = world.mesh.commit("Back to 80/20");
    assert!(versions(world, 200)[1] > 0);
    let status = world.mesh.weft(&["status"]);
    assert!(crate::mesh::text(&status).contains(&commit[..8]), "weft status does not show the commit: {status:?}");
}

pub(super) fn bad_commit(world: &World) {
    let file = "services/board.yaml";
    let good = world.mesh.repo.head();
    world.mesh.repo.replace(file, "{subset: v1, weight: 80}", "{subset: v7, weight: 80}");
    world.mesh.repo.replace("services/chat.yaml", "protocol: http", "protocol: htpp");
    let bad = world.mesh.repo.commit("Two mistakes");
    let refused = wait::until("the bad commit to be reported", wait::SOON, || {
        let status = world.mesh.api("/api/status")?;
        if status["refused"]["commit"] == bad { Ok(status) } else { Err(status.to_string()) }
    });
    assert_eq!(refused["serving"]["commit"], good, "a bad commit must change nothing: {refused:#}");
    let findings = refused["refused"]["findings"].to_string();
    for part in ["v7", "services/board.yaml:", "htpp", "services/chat.yaml:"] {
        assert!(findings.contains(part), "no `{part}`: all mistakes are told at once: {findings}");
    }
    let output = world.mesh.weft(&["status", &bad, "--wait"]);
    assert!(!output.status.success(), "weft status of a refused commit must not succeed: {output:?}");
    assert!(crate::mesh::text(&output).contains("services/board.yaml:"), "{}", crate::mesh::text(&output));
    assert_eq!(versions(world, 20).iter().sum::<usize>(), 20);
    world.mesh.repo.replace(file, "{subset: v7, weight: 80}", "{subset: v1, weight: 80}");
    world.mesh.repo.replace("services/chat.yaml", "protocol: htpp", "protocol: http");
    world.mesh.commit("Both mended");
}
