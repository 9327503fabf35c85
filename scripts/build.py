#!/usr/bin/env python3
"""Builds weft for people who want to see it run: `scripts/build.py PROFILE`.

Cargo names hundreds of crates; a reader wants to know what happens, how long it takes and how far it is. So: one line
before, one that moves (in a terminal) or one every half minute (in a log), one after. Nothing when there is nothing to build.
Warnings and errors pass as they are.
"""

import os
import re
import subprocess
import sys
import time

USUAL = {
    "up": "building weft, optimised where it counts: about 5 minutes on two cores the first time, less after a change",
    "release": "building weft, optimised throughout: about 10 minutes on two cores the first time, less after a change",
}
QUIET = re.compile(r"\s*(Compiling|Checking|Dirty|Fresh|Finished|Locking|Adding|Updating|Downloading|Downloaded|Blocking|Building)\b")
AT_WORK = re.compile(r"\s*(Compiling|Updating|Downloading|Downloaded|Blocking)\b")
STEP = re.compile(r"\s*Building \[.*\] (\d+)/(\d+)")
COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
LOG_EVERY = 30  # seconds


class Progress:
    """What has been said so far."""

    def __init__(self, profile):
        self.profile, self.start, self.last = profile, time.monotonic(), 0.0
        self.said, self.terminal = False, sys.stdout.isatty()

    def at_work(self):
        if not self.said:
            print(USUAL.get(self.profile, f"building weft ({self.profile})"), flush=True)
            self.said, self.last = True, time.monotonic()

    def step(self, done, total):
        now = time.monotonic()
        if not self.said or now - self.last < (0.2 if self.terminal else LOG_EVERY):
            return
        self.last = now
        line = f"  {done} of {total} parts after {span(now - self.start)}"
        sys.stdout.write(f"\r\x1b[K{line}" if self.terminal else f"{line}\n")
        sys.stdout.flush()

    def clear(self):
        if self.said and self.terminal:
            sys.stdout.write("\r\x1b[K")
            sys.stdout.flush()

    def end(self):
        self.clear()
        if self.said:
            print(f"built in {span(time.monotonic() - self.start)}\n", flush=True)


def span(seconds):
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def lines(stream):
    """What cargo writes, in lines; its progress bar ends them with a carriage return."""
    rest = b""
    while chunk := os.read(stream.fileno(), 65536):
        *whole, rest = re.split(rb"[\r\n]", rest + chunk)
        yield from (line.decode(errors="replace") for line in whole)
    yield rest.decode(errors="replace")


def main():
    profile = sys.argv[1]
    colours = "always" if sys.stderr.isatty() else "never"
    command = ["cargo", "build", "--profile", profile, "-p", "weft", "--color", colours]
    # The bar is how cargo says how far it is; it draws one for a pipe only when it is told how wide.
    bar = {"CARGO_TERM_PROGRESS_WHEN": "always", "CARGO_TERM_PROGRESS_WIDTH": "80"}
    progress = Progress(profile)
    cargo = subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, **bar})
    try:
        for coloured in lines(cargo.stderr):
            line = COLOURS.sub("", coloured)
            if step := STEP.match(line):
                progress.step(int(step[1]), int(step[2]))
            elif AT_WORK.match(line):
                progress.at_work()
            elif line.strip() and not QUIET.match(line):
                progress.clear()
                print(coloured, file=sys.stderr, flush=True)
        status = cargo.wait()
    except KeyboardInterrupt:
        cargo.wait()
        progress.clear()
        return 130
    if status == 0:
        progress.end()
    return status


if __name__ == "__main__":
    sys.exit(main())
