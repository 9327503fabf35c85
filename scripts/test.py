#!/usr/bin/env python3
"""Runs everything that must hold, in the order that shares most of the building, and counts.

`scripts/test.py` runs all; `scripts/test.py NAME` runs the steps (fmt, lint, deny, tour) and the tests whose own
name, binary or package contains NAME.
The last line has the form `N passed, N failed, N skipped`; the exit status is 0 only if nothing failed.
"""

import glob
import os
import re
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NEXTEST = shutil.which("cargo-nextest") is not None
CARGO_DENY = "cargo-deny@0.20.2"
ROOM = 8  # GB that a clean clone's build and the tests take at most
steps = []  # (name, passed, failed, skipped, seconds, detail)


def run(command):
    """Runs a command with its output shown, and gives (exit status, output)."""
    print(f"\n$ {' '.join(command)}", flush=True)
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    lines = []
    for line in process.stdout:
        sys.stdout.write(line)
        sys.stdout.flush()
        lines.append(line)
    return process.wait(), "".join(lines)


def step(name, command):
    """A command that passes or fails as a whole."""
    start = time.monotonic()
    status, _ = run(command)
    steps.append((name, int(status == 0), int(status != 0), 0, time.monotonic() - start, ""))
    return status == 0


def skip(name, why):
    """Something that cannot run here."""
    print(f"\nskipped: {name} ({why})", flush=True)
    steps.append((name, 0, 0, 1, 0.0, why))


def tests(pattern):
    """Every test, counted one by one. Always the whole workspace: a part of it would be built again with other features."""
    if NEXTEST:
        nextest = ["cargo", "nextest", "run", "--workspace", "--no-fail-fast", "--no-tests", "pass", "--color", "never", "-E"]
        chosen = f" & ({' | '.join(filters(pattern))})" if pattern else ""
        runs = {
            "unit and property tests": [*nextest, f"not package(weft-tests){chosen}"],
            "end-to-end tests": [*nextest, f"package(weft-tests){chosen}"],
        }
    else:
        os.environ["RUST_TEST_THREADS"] = "2"  # as many meshes at once as two cores carry; see .config/nextest.toml
        runs = {"tests": ["cargo", "test", "--workspace", "--all-targets", "--no-fail-fast", *([pattern] if pattern else [])]}
    for name, command in runs.items():
        start = time.monotonic()
        status, output = run(command)
        passed, failed, skipped = count(re.sub(r"\x1b\[[0-9;]*m", "", output))
        if pattern:
            skipped = 0  # not chosen is not skipped
        if status != 0 and failed == 0:
            failed = 1  # it did not build, or died before it could count
        steps.append((name, passed, failed, skipped, time.monotonic() - start, ""))


def deny():
    """Licences, banned crates and sources of dependencies; advisories where their database can be reached."""
    tool = shutil.which("cargo-deny")
    if not tool:
        root = os.environ.get("WEFT_VENV", os.path.join(ROOT, ".venv"))
        tool = os.path.join(root, "bin", "cargo-deny")
        if not os.path.exists(tool) and not install_deny(root):
            return
    check = [tool, "--log-level", "error", "check"]
    step("deny", [*check, "bans", "licenses", "sources"])
    start = time.monotonic()
    status, output = run([*check, "advisories"])
    if status != 0 and "failed to fetch advisory database" in output:
        skip("advisories", "github.com/RustSec/advisory-db cannot be reached")
    else:
        steps.append(("advisories", int(status == 0), int(status != 0), 0, time.monotonic() - start, ""))


def install_deny(root):
    """Builds cargo-deny, unoptimised and without what only a debugger reads: it runs for seconds, and its build is what costs."""
    target = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "cargo-deny")
    os.environ["CARGO_PROFILE_DEV_DEBUG"] = "false"
    command = ["cargo", "install", "--quiet", "--debug", "--locked", "--no-default-features", "--root", root, "--target-dir", target]
    done = step("install cargo-deny", [*command, CARGO_DENY])
    del os.environ["CARGO_PROFILE_DEV_DEBUG"]
    shutil.rmtree(target, ignore_errors=True)
    return done


# What belongs to an area beside what has its name: crates, and files of end-to-end tests.
AREAS = {
    "authz": (
        ["policy", "policy-eval", "authz", "decision-log", "import", "spelling"],
        ["authorization", "authz_outage", "cedar", "changes", "decisions", "ext_authz", "import", "paths", "permissive", "questions"],
    ),
    "identity": (
        ["identity", "authority", "workload-api", "agent", "federation", "store"],
        ["agent", "bans", "expiry", "federation", "identity", "identity_socket", "namespaces", "rotation", "servers", "tls", "workload_api"],
    ),
}


def filters(pattern):
    """Nextest's filters for a name; it refuses a filter on binaries or packages that none matches. An end-to-end test's file is part of its name."""
    if pattern in AREAS:
        crates, files = AREAS[pattern]
        return [f"package(weft-{crate})" for crate in crates] + [f"package(weft-tests) & test(/^{file}::/)" for file in files]
    binaries = glob.glob(os.path.join(ROOT, "crates", "*", "tests", "*.rs"))
    packages = ["weft-" + os.path.basename(folder) for folder in glob.glob(os.path.join(ROOT, "crates", "*"))]
    found = [f"test(~{pattern})"]
    if any(pattern in os.path.splitext(os.path.basename(file))[0] for file in binaries):
        found.append(f"binary(~{pattern})")
    if any(pattern in package for package in packages):
        found.append(f"package(~{pattern})")
    return found


def count(output):
    """(passed, failed, skipped) from the summary of nextest or of libtest."""
    if NEXTEST:
        summary = re.search(r"Summary \[[^\]]*\]\s+(\d+)(?:/\d+)? tests? run: (.*)", output)
        if not summary:
            return 0, 0, 0
        passed = number(r"(\d+) passed", summary[2])
        return passed, int(summary[1]) - passed, number(r"(\d+) skipped", summary[2])
    passed = failed = skipped = 0
    for line in re.finditer(r"test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", output):
        passed, failed, skipped = passed + int(line[1]), failed + int(line[2]), skipped + int(line[3])
    return passed, failed, skipped


def number(pattern, text):
    found = re.search(pattern, text)
    return int(found[1]) if found else 0


def spare_the_disk():
    """What only speeds up the next build of a changed tree (gigabytes) is not written where nobody has built that way before."""
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    if not os.path.isdir(os.path.join(target, "debug", "incremental")):
        os.environ.setdefault("CARGO_INCREMENTAL", "0")
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < ROOM and not os.path.isdir(os.path.join(target, "debug")):
        print(f"{free:.1f} GB are free on this disk, and a first build with its tests takes up to {ROOM}: it may end with `No space left on device`")


def main():
    pattern = sys.argv[1] if len(sys.argv) > 1 else ""
    spare_the_disk()
    wanted = lambda name: pattern in name
    begin = time.monotonic()
    if wanted("fmt"):
        step("fmt", ["cargo", "fmt", "--check"])
    # One build of everything with one set of features, which the test runs find done. Steps that are asked for by their whole name need no build.
    if pattern not in ("fmt", "lint", "deny") and step("build", ["cargo", "build", "--quiet", "--workspace", "--all-targets"]):
        tests(pattern)
        if wanted("tour"):
            target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
            step("tour", [os.path.join(target, "debug", "weft"), "up", "--once", "examples/city"])
    if wanted("lint"):
        step("lint", ["cargo", "clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"])
    if wanted("deny"):
        deny()

    print("\nstep                       passed  failed skipped  seconds")
    for name, passed, failed, skipped, seconds, detail in steps:
        print(f"{name:<26} {passed:>6} {failed:>7} {skipped:>7} {seconds:>8.0f}  {detail}")
    passed, failed, skipped = (sum(step[i] for step in steps) for i in (1, 2, 3))
    print(f"all in {time.monotonic() - begin:.0f} s")
    if pattern and passed + failed + skipped <= 1:
        print(f"nothing is named like `{pattern}`")
        failed += 1
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
