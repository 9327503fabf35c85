//! Writing: a recorder for each worker, one file for all.

use std::borrow::Cow;
use std::io;
use std::path::Path;
use std::time::Duration;

use weft_policy::{CallRequest, Decision, Engine};
use weft_telemetry::lines::{LineCopy, Log, LogBuffer, LogSink, Rotation};

use crate::allowed::{Allowed, Chooser};
use crate::entry::{Entry, Outcome, Place, Shadow};

/// How a decision log is kept.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Which allowed calls have a line.
    pub allowed: Allowed,
    /// Length of a file, in bytes, and how many older ones are kept.
    pub rotation: Rotation,
}

impl Default for Settings {
    /// The first of each kind; five files of 32 MiB.
    fn default() -> Self {
        Self { allowed: Allowed::default(), rotation: Rotation { bytes: 32 << 20, kept: 4 } }
    }
}

/// The log of one process.
#[derive(Clone)]
pub struct DecisionLog {
    sink: LogSink,
    allowed: Allowed,
}

impl DecisionLog {
    /// Appends to the file at `path`, made if it is not there. `copy`, if any, is given the lines too; it must not wait.
    pub fn open(path: &Path, settings: Settings, copy: Option<LineCopy>) -> io::Result<Self> {
        let log = Log { name: "decision log", mode: 0o640, rotation: Some(settings.rotation), copy };
        Ok(Self { sink: LogSink::open(path, log)?, allowed: settings.allowed })
    }

    /// For one worker.
    pub fn recorder(&self) -> Recorder {
        Recorder { buffer: self.sink.buffer(), chooser: Chooser::new(self.allowed) }
    }

    /// Writes a line that no recorder of calls makes.
    pub fn write(&self, entry: &Entry<'_>) {
        let mut buffer = self.sink.buffer();
        append(&mut buffer, entry);
        buffer.hand_over();
    }

    /// Has the file opened again, should it have been moved away.
    pub fn reopen(&self) {
        self.sink.reopen();
    }

    /// Waits until all that was handed over is written.
    pub fn flush(&self) {
        self.sink.flush();
    }

    /// Lines lost so far because the file could not keep up.
    pub fn dropped(&self) -> u64 {
        self.sink.dropped()
    }
}

/// A decision that was made.
#[derive(Clone, Copy)]
pub struct Made<'a> {
    /// `None` if no policy has been delivered.
    pub engine: Option<&'a Engine>,
    /// The call; of one that has no policy only this is told.
    pub request: &'a CallRequest<'a>,
    /// What was decided.
    pub decision: &'a Decision,
    /// How long it took; `None` if it was remembered.
    pub evaluated: Option<Duration>,
    /// 32 hexadecimal digits.
    pub id: &'a str,
    /// In force, empty if unknown.
    pub commit: &'a str,
    /// `x-request-id`.
    pub request_id: Option<&'a str>,
    /// 32 hexadecimal digits.
    pub trace_id: Option<&'a str>,
}

/// Leave to write one line.
#[derive(Debug)]
pub struct Line {
    /// Allowed calls since the last line that have none.
    skipped: u64,
}

/// Records decisions of one worker. Handed over on [`Recorder::hand_over`] and when it is dropped.
pub struct Recorder {
    buffer: LogBuffer,
    chooser: Chooser,
}

impl Recorder {
    /// Whether a decision is one that is logged: to be asked of each, before anything is made ready for its line.
    pub fn takes(&mut self, decision: &Decision, evaluated: Option<Duration>) -> Option<Line> {
        let skipped = if decision.allowed { self.chooser.takes(evaluated.is_some())? } else { 0 };
        Some(Line { skipped })
    }

    /// Writes the line of a decision.
    pub fn record(&mut self, line: Line, made: &Made<'_>) {
        append(&mut self.buffer, &entry(made, line.skipped));
    }

    /// Gives what there is to the writing thread; to be called on the worker's tick.
    pub fn hand_over(&mut self) {
        self.buffer.hand_over();
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.hand_over();
    }
}

fn append(buffer: &mut LogBuffer, entry: &Entry<'_>) {
    let lines = buffer.lines();
    let before = lines.len();
    match serde_json::to_writer(&mut *lines, entry) {
        Ok(()) => {
            lines.push(b'\n');
            buffer.line_done();
        }
        Err(error) => {
            lines.truncate(before);
            tracing::error!(%error, "a decision cannot be written");
        }
    }
}

fn entry<'a>(made: &Made<'a>, skipped: u64) -> Entry<'a> {
    let Made { engine, request, decision, .. } = *made;
    let principal = Some(request.principal.as_str()).filter(|principal| !principal.is_empty());
    let outcome = Outcome::of(decision.allowed);
    Entry {
        decision_id: made.id.into(),
        principal: principal.map(Cow::Borrowed),
        resource: engine.map_or("-", |engine| engine.service().as_str()).into(),
        method: request.method.into(),
        path: request.path.into(),
        host: request.host.into(),
        protocol: request.protocol.into(),
        source_ip: request.source().map(|ip| ip.to_string().into()),
        attributes: engine.map(|engine| engine.read_of(request)).unwrap_or_default(),
        reads: engine.map(|engine| engine.reads_of(request.principal)).unwrap_or_default(),
        policies: decision.policies.iter().map(Place::of).collect(),
        errors: decision.errors.iter().map(|error| Cow::Borrowed(&**error)).collect(),
        shadow: decision.shadow.as_ref().map(Shadow::of),
        policy_version: engine.map_or("", Engine::version).into(),
        request_id: made.request_id.map(Cow::Borrowed),
        trace_id: made.trace_id.map(Cow::Borrowed),
        micros: made.evaluated.map(|took| (took.as_nanos() as f64 / 100.0).round() / 10.0),
        skipped,
        ..Entry::new(request.now, outcome, &decision.reason, made.commit)
    }
}

#[cfg(test)]
mod tests;
