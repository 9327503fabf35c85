//! Access-log lines: gathered in the worker, written by one thread, never a wait for the request.
//!
//! A worker appends whole lines to its own buffer and hands it over when it is large or on the worker's tick. The channel is
//! bounded: a disk that cannot keep up costs lines, which are counted, and never memory or time of a request.
//!
//! A file that was moved away keeps getting lines until it is [opened again](LogSink::reopen): that is how logs are rotated. One that is
//! cut to nothing instead goes on at its start, because it is only ever appended to.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// A buffer is handed over when it holds this many bytes.
const HAND_OVER_BYTES: usize = 32 * 1024;
/// Buffers on their way to the writing thread, for all workers together.
const QUEUED_BUFFERS: usize = 64;

/// Where lines go, shared by the workers of a proxy.
#[derive(Clone)]
pub struct LogSink {
    full: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    /// The file is to be opened again before the next lines.
    again: Arc<AtomicBool>,
}

enum Message {
    Lines(Vec<u8>),
    /// There is something to do without any.
    Wake,
    Flushed(SyncSender<()>),
}

impl LogSink {
    /// Appends to the file at `path` (`/dev/stdout` is standard output), made if it is not there. Starts the writing thread.
    pub fn open(path: &Path) -> io::Result<Self> {
        let out = open(path)?;
        let (full, queue) = sync_channel(QUEUED_BUFFERS);
        let (dropped, again) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (path, counter, asked) = (path.to_owned(), dropped.clone(), again.clone());
        let mut writer = Writer { out, path, again: asked, dropped: counter, torn: false, lost: 0 };
        std::thread::Builder::new().name("access-log".into()).spawn(move || writer.run(queue))?;
        Ok(Self { full, dropped, again })
    }

    /// Has the file opened again, and made if it is not there, before anything else is written. Waits for nothing: each line is in the
    /// file before or in the file after. Should that fail, lines go on into the old file, and the reason is in the log.
    pub fn reopen(&self) {
        self.again.store(true, Ordering::Release);
        let _ = self.full.try_send(Message::Wake); // a queue that is full has lines, before which the thread looks too
    }

    /// A worker's own buffer.
    pub fn buffer(&self) -> LogBuffer {
        LogBuffer { lines: Vec::new(), sink: self.clone() }
    }

    /// Lines lost because the writing thread could not keep up, or could not write them (the disk is full, say).
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything handed over before has been written.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.full.send(Message::Flushed(done)).is_ok() {
            let _ = wait.recv();
        }
    }
}

type Out = Box<dyn Write + Send>;

fn open(path: &Path) -> io::Result<Out> {
    Ok(match path.to_str() {
        Some("/dev/stdout") => Box::new(io::stdout()),
        Some("/dev/stderr") => Box::new(io::stderr()),
        _ => Box::new(OpenOptions::new().create(true).append(true).open(path)?),
    })
}

/// The writing thread.
struct Writer {
    out: Out,
    path: PathBuf,
    again: Arc<AtomicBool>,
    dropped: Arc<AtomicU64>,
    /// What was written last is the beginning of a line.
    torn: bool,
    /// Lines lost since the first that could not be written.
    lost: u64,
}

impl Writer {
    fn run(&mut self, queue: Receiver<Message>) {
        for message in queue {
            if self.again.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
            match message {
                Message::Lines(lines) => self.write(&lines),
                Message::Wake => {}
                Message::Flushed(done) => drop(done.send(())),
            }
        }
    }

    fn reopen(&mut self) {
        match open(&self.path) {
            Ok(out) => {
                self.out = out;
                self.torn = false; // the beginning of a line is in the old file
                tracing::info!(path = %self.path.display(), "the access log is opened again");
            }
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the access log cannot be opened again; lines go on into the old file");
            }
        }
    }

    /// Writes them, or loses those that cannot be; the beginning and the end of that are told.
    fn write(&mut self, lines: &[u8]) {
        if self.torn {
            // What follows the beginning of a line would be taken for its end.
            match self.out.write_all(b"\n") {
                Ok(()) => self.torn = false,
                Err(error) => return self.lose(lines, &error),
            }
        }
        let mut rest = lines;
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return self.lose(rest, &io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.torn = rest[count - 1] != b'\n';
                    rest = &rest[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.lose(rest, &error),
            }
        }
        if let Err(error) = self.out.flush() {
            return self.lose(lines, &error);
        }
        if self.lost > 0 {
            tracing::info!(lost = self.lost, "access log lines can be written again");
            self.lost = 0;
        }
    }

    fn lose(&mut self, lines: &[u8], error: &io::Error) {
        let count = lines.iter().filter(|&&byte| byte == b'\n').count() as u64;
        if self.lost == 0 {
            tracing::warn!(%error, "access log lines cannot be written, and are lost until they can");
        }
        self.lost += count;
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }
}

/// The lines of one worker that have not been handed over yet.
pub struct LogBuffer {
    lines: Vec<u8>,
    sink: LogSink,
}

impl LogBuffer {
    /// Where to append a line, with its newline.
    pub fn lines(&mut self) -> &mut Vec<u8> {
        &mut self.lines
    }

    /// To be called after a line was appended.
    pub fn line_done(&mut self) {
        if self.lines.len() >= HAND_OVER_BYTES {
            self.hand_over();
        }
    }

    /// Gives what there is to the writing thread; to be called on the worker's tick and at its end.
    pub fn hand_over(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let next = Vec::with_capacity(self.lines.len().min(HAND_OVER_BYTES * 2));
        let lines = std::mem::replace(&mut self.lines, next);
        if let Err(error) = self.sink.full.try_send(Message::Lines(lines)) {
            let (std::sync::mpsc::TrySendError::Full(lost) | std::sync::mpsc::TrySendError::Disconnected(lost)) = error;
            if let Message::Lines(lines) = lost {
                let count = lines.iter().filter(|&&b| b == b'\n').count() as u64;
                self.sink.dropped.fetch_add(count, Ordering::Relaxed);
            }
        }
    }
}

/// Appends `text` as a JSON string with its quotes (RFC 8259 s.7).
pub fn push_json_string(out: &mut Vec<u8>, text: &str) {
    push_json_bytes(out, text.as_bytes());
}

/// Appends bytes as a JSON string; what is not UTF-8 becomes U+FFFD, so a hostile header cannot break the line.
pub fn push_json_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    // Looked at to the end, so that the compiler takes many at once.
    let plain = bytes.iter().fold(true, |plain, &b| plain & (0x20..0x7f).contains(&b) & (b != b'"') & (b != b'\\'));
    if plain {
        out.extend_from_slice(bytes);
    } else {
        for c in String::from_utf8_lossy(bytes).chars() {
            match c {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                c if u32::from(c) < 0x20 || c == '\u{7f}' => {
                    let _ = write!(out, "\\u{:04x}", u32::from(c));
                }
                c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
    out.push(b'"');
}

/// Appends a decimal number.
pub fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_round_trips(text in any::<String>()) {
            let mut out = Vec::new();
            push_json_string(&mut out, &text);
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), text);
        }

        #[test]
        fn any_bytes_stay_one_valid_string(bytes in any::<Vec<u8>>()) {
            let mut out = Vec::new();
            push_json_bytes(&mut out, &bytes);
            prop_assert!(!out.contains(&b'\n'));
            prop_assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn numbers_are_decimal(number in any::<u64>()) {
            let mut out = Vec::new();
            push_number(&mut out, number);
            prop_assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }

    /// A disk with room for a number of bytes.
    #[derive(Clone, Default)]
    struct Disk(Arc<std::sync::Mutex<(usize, Vec<u8>)>>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (room, written) = &mut *self.0.lock().unwrap();
            let count = bytes.len().min(*room);
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *room -= count;
            written.extend_from_slice(&bytes[..count]);
            Ok(count)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_costs_lines_that_are_counted_and_tears_none_that_follow() {
        let disk = Disk::default();
        let out = Box::new(disk.clone());
        let (path, again) = (PathBuf::new(), Arc::default());
        let mut writer = Writer { out, path, again, dropped: Arc::default(), torn: false, lost: 0 };
        disk.0.lock().unwrap().0 = 9;
        writer.write(b"first\nsecond\nthird\n");
        writer.write(b"fourth\n");
        assert_eq!((writer.lost, writer.dropped.load(Ordering::Relaxed)), (3, 3));
        disk.0.lock().unwrap().0 = 100;
        writer.write(b"fifth\n");
        assert_eq!(String::from_utf8_lossy(&disk.0.lock().unwrap().1), "first\nsec\nfifth\n");
        assert_eq!((writer.lost, writer.dropped.load(Ordering::Relaxed)), (0, 3));
    }

    #[test]
    fn a_file_that_was_moved_is_opened_again_between_two_lines() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let moved = |n: usize| dir.path().join(format!("access.log.{n}"));
        let sink = LogSink::open(&path).unwrap();
        let mut buffer = sink.buffer();
        for n in 0..100 {
            buffer.lines().extend_from_slice(format!("{n}\n").as_bytes());
            buffer.hand_over();
            if n % 10 == 9 {
                std::fs::rename(&path, moved(n)).unwrap();
                sink.reopen();
                sink.flush();
                assert!(path.exists(), "it is there before the next line");
            }
        }
        sink.flush();
        let files = (9..100).step_by(10).map(|n| std::fs::read_to_string(moved(n)).unwrap());
        let all: String = files.chain([std::fs::read_to_string(&path).unwrap()]).collect();
        assert!(all.lines().map(|line| line.parse::<usize>().unwrap()).eq(0..100), "{all}");

        // Where it cannot be opened the old file goes on.
        std::fs::rename(&path, moved(0)).unwrap();
        std::fs::create_dir(&path).unwrap();
        sink.reopen();
        buffer.lines().extend_from_slice(b"more\n");
        buffer.hand_over();
        sink.flush();
        assert!(std::fs::read_to_string(moved(0)).unwrap().ends_with("99\nmore\n"));
    }

    #[test]
    fn a_file_that_is_cut_to_nothing_goes_on_at_its_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let sink = LogSink::open(&path).unwrap();
        let mut buffer = sink.buffer();
        for line in ["one\n", "two\n"] {
            buffer.lines().extend_from_slice(line.as_bytes());
            buffer.hand_over();
            sink.flush();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), line);
            OpenOptions::new().write(true).open(&path).unwrap().set_len(0).unwrap();
        }
    }

    #[test]
    fn lines_of_all_workers_arrive_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("access.log");
        let sink = LogSink::open(&path).unwrap();
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let mut buffer = sink.buffer();
                std::thread::spawn(move || {
                    for line in 0..1000 {
                        let text = format!("worker {worker} line {line}\n");
                        buffer.lines().extend_from_slice(text.as_bytes());
                        buffer.line_done();
                    }
                    buffer.hand_over();
                })
            })
            .collect();
        for worker in workers {
            worker.join().unwrap();
        }
        sink.flush();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 4000);
        assert!(text.lines().all(|line| line.starts_with("worker ") && line.split(' ').count() == 4));
    }
}
