//! What became of identities, one JSON object a line: every token, attestation, renewal, JWT-SVID, refusal, ban, and every step of a root or key.
//!
//! Lines are only ever appended, to a file that is put aside when it is full. The youngest are in memory too, for whoever asks. Nothing that
//! is secret is in one: of a join token its public half, of a certificate its serial number.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tonic::Status;
use weft_telemetry::lines::{self, Log, LogBuffer, LogSink, Rotation};

use crate::keys::Published;
use crate::trust::{Key, Phase};

/// Its name in a state folder.
const FILE: &str = "identity.log";
/// A file never gets longer, in bytes; so many older ones are kept.
const ROTATION: Rotation = Rotation { bytes: 32 << 20, kept: 4 };
/// Records in memory, and about as many bytes of the file as they have.
const RECENT: usize = 4_096;
const RECENT_BYTES: u64 = 4 << 20;
/// Characters of why somebody was refused, who may have a part in the wording.
const MOST_REASON: usize = 1_000;
/// Anybody can be refused, as often as he likes: so many refusals are recorded within [`WINDOW`], and the others counted.
const REFUSALS: u64 = 200;
const WINDOW: Duration = Duration::from_secs(10);

/// One record is written at once; of many that come together the others are written so much later, together.
const GATHER: Duration = Duration::from_millis(50);

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Event {
    /// A join token was made.
    TokenMade,
    /// Somebody has proved what it is, and got its first certificate.
    Attested,
    /// A certificate was followed by another.
    Renewed,
    /// A JWT-SVID was signed.
    JwtIssued,
    /// Somebody got nothing.
    Refused,
    /// Somebody is not to be taken any more.
    Banned,
    /// A ban was lifted.
    Unbanned,
    /// A root or a key for JWT-SVIDs goes on: it is published, signs, is distrusted, retires, or has left the bundle.
    Key,
    /// Another bundle of another trust domain was fetched, and is in force.
    BundleTaken,
}

impl Event {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::TokenMade,
        Self::Attested,
        Self::Renewed,
        Self::JwtIssued,
        Self::Refused,
        Self::Banned,
        Self::Unbanned,
        Self::Key,
        Self::BundleTaken,
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::TokenMade => "tokenMade",
            Self::Attested => "attested",
            Self::Renewed => "renewed",
            Self::JwtIssued => "jwtIssued",
            Self::Refused => "refused",
            Self::Banned => "banned",
            Self::Unbanned => "unbanned",
            Self::Key => "key",
            Self::BundleTaken => "bundleTaken",
        }
    }
}

/// One line. What is not known or does not apply is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// RFC 3339, to the millisecond.
    pub time: String,
    /// What happened.
    pub event: Event,
    /// To whom: a SPIFFE ID, what a ban names, the id of a root or key, or that of a trust domain. Of a refusal it is what was asked for.
    pub who: String,
    /// The machine's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// What the workload calls itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Of the certificate that was issued; of a refusal, of the one that was shown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// The end of what was issued, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// How it was proved, why it was refused, why somebody is banned, or how far a root or key is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Of a refusal: what was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Event>,
    /// Refusals before this one that were too many to be recorded.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unrecorded: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Record {
    /// What is about to happen to somebody, at this moment.
    pub fn of(event: Event, who: impl Into<String>) -> Self {
        let now = Timestamp::try_from(SystemTime::now()).unwrap_or_default();
        Self {
            time: format!("{now:.3}"),
            event,
            who: who.into(),
            machine: None,
            node: String::new(),
            serial: String::new(),
            expires: None,
            reason: String::new(),
            asked: None,
            unrecorded: 0,
        }
    }

    /// With why, or how.
    pub fn because(self, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..self }
    }

    /// As it came out: a refusal, should it be one.
    pub(crate) fn ended<T>(self, answer: &Result<T, Status>) -> Self {
        match answer {
            Ok(_) => self,
            Err(status) => self.refused(status.message()),
        }
    }

    /// As a refusal of this, for a reason of which at most 1,000 characters are kept.
    pub fn refused(self, why: &str) -> Self {
        Self {
            event: Event::Refused,
            asked: Some(self.event),
            reason: why.chars().take(MOST_REASON).collect(),
            expires: None,
            ..self
        }
    }

    /// Whether it is about this one: a SPIFFE ID, `machine:` and a name, `serial:` and a number, or the id of a root or key.
    pub fn is_about(&self, who: &str) -> bool {
        self.who == who
            || who.strip_prefix("machine:").is_some_and(|name| self.machine.as_deref() == Some(name))
            || who.strip_prefix("serial:").is_some_and(|serial| self.serial.eq_ignore_ascii_case(serial))
    }
}

/// The log, shared by all who write into it.
#[derive(Clone)]
pub struct Records(Arc<Inner>);

struct Inner {
    sink: LogSink,
    state: Mutex<State>,
    /// There are lines that are not written yet.
    waiting: Notify,
}

struct State {
    lines: LogBuffer,
    /// When lines were last written; `None` before the first.
    written: Option<Instant>,
    recent: VecDeque<Record>,
    counts: BTreeMap<Event, u64>,
    refusals: Refusals,
}

/// How many refusals there were in the present window of time.
#[derive(Default)]
struct Refusals {
    since: Option<Instant>,
    recorded: u64,
    unrecorded: u64,
}

impl Refusals {
    /// Whether another one is recorded; with how many before it were not.
    fn another(&mut self, now: Instant) -> Option<u64> {
        if self.since.is_none_or(|since| now.duration_since(since) >= WINDOW) {
            (self.since, self.recorded) = (Some(now), 0);
        }
        if self.recorded >= REFUSALS {
            self.unrecorded += 1;
            return None;
        }
        self.recorded += 1;
        Some(std::mem::take(&mut self.unrecorded))
    }
}

impl Records {
    /// Goes on with the log in a state folder; what it had last is known again.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn open(state: &Path) -> io::Result<Self> {
        let path = state.join(FILE);
        let mut recent = VecDeque::new();
        let files = lines::files(&path);
        // The last two have what was written last, however lately one was put aside.
        for file in &files[files.len().saturating_sub(2)..] {
            read_end(file, |record| keep(&mut recent, record))?;
        }
        end_line(&path)?;
        let log = Log { name: "identity log", mode: 0o640, rotation: Some(ROTATION), copy: None };
        let sink = LogSink::open(&path, log)?;
        let state = State {
            lines: sink.buffer(),
            written: None,
            recent,
            counts: BTreeMap::new(),
            refusals: Refusals::default(),
        };
        Ok(Self(Arc::new(Inner { sink, state: Mutex::new(state), waiting: Notify::new() })))
    }

    /// Appends a record. Waits for no disk; what a disk does not take is counted ([`Records::lost`]).
    pub fn write(&self, mut record: Record) {
        let mut state = self.state();
        *state.counts.entry(record.event).or_default() += 1;
        if record.event == Event::Refused {
            let Some(unrecorded) = state.refusals.another(Instant::now()) else { return };
            record.unrecorded = unrecorded;
        }
        serde_json::to_writer(state.lines.lines(), &record).expect("strings and numbers are JSON");
        state.lines.lines().push(b'\n');
        keep(&mut state.recent, record);
        if state.written.is_none_or(|written| written.elapsed() >= GATHER) {
            state.hand_over();
        } else {
            self.0.waiting.notify_one();
        }
    }

    /// The youngest records of a kind, the youngest last.
    pub fn recent(&self, most: usize, wanted: impl Fn(&Record) -> bool) -> Vec<Record> {
        let mut found: Vec<Record> =
            self.state().recent.iter().rev().filter(|record| wanted(record)).take(most).cloned().collect();
        found.reverse();
        found
    }

    /// How often each event has happened since this server started.
    pub fn counts(&self) -> Vec<(Event, u64)> {
        let state = self.state();
        Event::ALL.map(|event| (event, state.counts.get(&event).copied().unwrap_or(0))).to_vec()
    }

    /// Records that are in no file because the disk did not take them.
    pub fn lost(&self) -> u64 {
        self.0.sink.dropped()
    }

    /// Writes what [`Records::write`] has kept back, for as long as the process lives.
    pub async fn gather(self) {
        loop {
            self.0.waiting.notified().await;
            tokio::time::sleep(GATHER).await;
            self.state().hand_over();
        }
    }

    /// Waits until everything is in the file.
    pub fn flush(&self) {
        self.state().hand_over();
        self.0.sink.flush();
    }

    /// Records each step of the mesh's roots and keys for JWT-SVIDs, for as long as they are published.
    pub async fn follow(self, mut published: watch::Receiver<Arc<Published>>) {
        let mut before = published.borrow_and_update().clone();
        while published.changed().await.is_ok() {
            let now = published.borrow_and_update().clone();
            let kinds = [
                ("root", before.trust.x509.keys(), now.trust.x509.keys()),
                ("JWT key", before.trust.jwt.keys(), now.trust.jwt.keys()),
            ];
            for (kind, before, now) in kinds {
                for (id, step) in steps(before, now) {
                    self.write(Record::of(Event::Key, id).because(format!("{kind} {step}")));
                }
            }
            before = now;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives the last records of a file. A line that is not whole, torn by a crash or cut by where reading begins, is left out, as is another version's.
fn read_end(path: &Path, mut take: impl FnMut(Record)) -> io::Result<()> {
    let mut file = File::open(path)?;
    let begin = file.metadata()?.len().saturating_sub(RECENT_BYTES);
    file.seek(SeekFrom::Start(begin))?;
    for line in BufReader::new(file).split(b'\n') {
        if let Ok(record) = serde_json::from_slice(&line?) {
            take(record);
        }
    }
    Ok(())
}

/// What a crash has torn is a line of its own, and not the beginning of the next.
fn end_line(path: &Path) -> io::Result<()> {
    let mut file = match OpenOptions::new().read(true).append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if file.metadata()?.len() == 0 {
        return Ok(());
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" { Ok(()) } else { file.write_all(b"\n") }
}

impl State {
    fn hand_over(&mut self) {
        self.lines.hand_over();
        self.written = Some(Instant::now());
    }
}

fn keep(recent: &mut VecDeque<Record>, record: Record) {
    if recent.len() >= RECENT {
        recent.pop_front();
    }
    recent.push_back(record);
}

/// What has become of which key.
fn steps(before: &[Key], now: &[Key]) -> Vec<(String, String)> {
    let mut steps = Vec::new();
    for key in now {
        let known = before.iter().find(|known| known.id == key.id);
        if known.map(|known| phase(&known.phase)) != Some(phase(&key.phase)) {
            steps.push((key.id.clone(), phase(&key.phase).to_owned()));
        }
        if let Some(why) = key.tainted.as_ref().filter(|_| known.is_none_or(|known| known.tainted.is_none())) {
            steps.push((key.id.clone(), format!("is distrusted: {why}")));
        }
    }
    let gone = before.iter().filter(|known| now.iter().all(|key| key.id != known.id));
    steps.extend(gone.map(|key| (key.id.clone(), "has left the bundle".to_owned())));
    steps
}

fn phase(phase: &Phase) -> &'static str {
    match phase {
        Phase::Published { .. } => "is published",
        Phase::Active { .. } => "signs",
        Phase::Retired { .. } => "signs no more",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(records: &Records, who: &str) -> Vec<Event> {
        records.recent(10, |record| record.is_about(who)).iter().map(|record| record.event).collect()
    }

    #[test]
    fn what_was_recorded_is_known_after_a_restart_and_found_by_what_it_is_about() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        let web = "spiffe://acme.internal/ns/prod/sa/web";
        let attested = Record {
            machine: Some("cafe01".to_owned()),
            serial: "0A1B".to_owned(),
            expires: Some(9),
            ..Record::of(Event::Attested, web).because("by a join token")
        };
        records.write(attested.clone());
        let refused: Result<(), Status> = Err(Status::permission_denied("it is banned"));
        records.write(Record { machine: Some("cafe01".to_owned()), ..Record::of(Event::Renewed, web) }.ended(&refused));
        records.write(Record::of(Event::Banned, "machine:cafe01").because("stolen"));
        records.flush();
        assert_eq!(records.lost(), 0);
        let mut file = OpenOptions::new().append(true).open(folder.path().join(FILE)).unwrap();
        file.write_all(b"{\"time\":\"torn").unwrap();

        let again = Records::open(folder.path()).unwrap();
        assert_eq!(about(&again, web), [Event::Attested, Event::Refused]);
        assert_eq!(about(&again, "machine:cafe01"), [Event::Attested, Event::Refused, Event::Banned]);
        assert_eq!(about(&again, "serial:0a1b"), [Event::Attested]);
        assert_eq!(again.recent(10, |record| record.event == Event::Attested), [attested]);
        let [refusal] = &again.recent(10, |record| record.event == Event::Refused)[..] else { panic!("one refusal") };
        assert_eq!((refusal.asked, &*refusal.reason), (Some(Event::Renewed), "it is banned"));
        assert!(again.counts().iter().all(|(_, count)| *count == 0), "counts are of this run");
        again.write(Record::of(Event::TokenMade, web));
        again.flush();
        let third = Records::open(folder.path()).unwrap();
        assert_eq!(about(&third, web), [Event::Attested, Event::Refused, Event::TokenMade]);
    }

    #[test]
    fn a_flood_of_refusals_is_counted_and_pushes_nothing_out() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path()).unwrap();
        records.write(Record::of(Event::Attested, "spiffe://acme.internal/ns/prod/sa/web"));
        let refused: Result<(), Status> = Err(Status::unauthenticated("no such token"));
        for _ in 0..10_000 {
            records.write(Record::of(Event::Attested, "spiffe://acme.internal/ns/prod/sa/board").ended(&refused));
        }
        let counts: BTreeMap<Event, u64> = records.counts().into_iter().collect();
        assert_eq!((counts[&Event::Refused], counts[&Event::Attested]), (10_000, 1));
        let kept = records.recent(RECENT, |_| true);
        assert_eq!(kept[0].event, Event::Attested);
        assert!(kept.len() as u64 <= 3 * REFUSALS + 1, "{}", kept.len()); // a window or two, on a slow machine three
        let mut refusals = Refusals::default();
        let now = Instant::now();
        let recorded = (0..300).filter(|_| refusals.another(now).is_some()).count() as u64;
        assert_eq!(recorded, REFUSALS);
        assert_eq!(refusals.another(now + WINDOW), Some(100), "the next one that is recorded says how many were not");
        let long: Result<(), Status> = Err(Status::invalid_argument("x".repeat(5_000)));
        assert_eq!(Record::of(Event::Attested, "web").ended(&long).reason.len(), MOST_REASON);
    }

    #[test]
    fn each_event_has_the_name_that_it_is_written_by() {
        for event in Event::ALL {
            assert_eq!(serde_json::to_string(&event).unwrap(), format!("\"{}\"", event.name()));
        }
    }
}
