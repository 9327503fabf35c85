//! Lines of a log: gathered in the worker, written by one thread, never a wait for the request.
//!
//! A worker appends whole lines to its own buffer and hands it over when it is large or on the worker's tick. The channel is
//! bounded: a disk that cannot keep up costs lines, which are counted, and never memory or time of a request.
//!
//! A file that was moved away keeps getting lines until it is [opened again](LogSink::reopen): that is how logs are rotated from outside. One
//! that is cut to nothing instead goes on at its start, because it is only ever appended to. A log with a [`Rotation`] puts full files aside
//! by itself.

mod file;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

use file::{Out, Writer};

/// A buffer is handed over when it holds this many bytes.
const HAND_OVER_BYTES: usize = 32 * 1024;
/// Buffers on their way to the writing thread, for all workers together.
const QUEUED_BUFFERS: usize = 1024;

/// What a log is.
pub struct Log {
    /// As messages about it call it, like `access log`.
    pub name: &'static str,
    /// Permissions of the files that it makes, less what the process masks.
    pub mode: u32,
    /// `None` lets the file grow.
    pub rotation: Option<Rotation>,
    /// Is given all lines beside the file, on the writing thread; must not wait.
    pub copy: Option<LineCopy>,
}

/// Whoever is given lines.
pub type LineCopy = Box<dyn FnMut(&[u8]) + Send>;

/// When a file is put aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// A file never gets longer, in bytes, but for a single line that is.
    pub bytes: u64,
    /// Older files that are kept beside it, as `x.log.1` (the youngest), `x.log.2` and so on.
    pub kept: u32,
}

/// The files of a log that is rotated, the oldest first; those that are there.
pub fn files(path: &Path) -> Vec<PathBuf> {
    let older = (1..).map(|n| file::old(path, n)).take_while(|path| path.exists());
    let mut files: Vec<PathBuf> = older.collect();
    files.reverse();
    files.extend(path.exists().then(|| path.to_owned()));
    files
}

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
    pub fn open(path: &Path, log: Log) -> io::Result<Self> {
        let out = Out::open(path, log.mode)?;
        let (full, queue) = sync_channel(QUEUED_BUFFERS);
        let (dropped, again) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let thread = std::thread::Builder::new().name(log.name.replace(' ', "-"));
        let (path, counter, asked) = (path.to_owned(), dropped.clone(), again.clone());
        let mut writer = Writer { out, log, path, again: asked, dropped: counter, torn: 0, lost: 0, stuck: false };
        thread.spawn(move || writer.run(queue))?;
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
            let (TrySendError::Full(lost) | TrySendError::Disconnected(lost)) = error;
            if let Message::Lines(lines) = lost {
                self.sink.dropped.fetch_add(count(&lines), Ordering::Relaxed);
            }
        }
    }
}

/// How many lines end in these bytes.
fn count(lines: &[u8]) -> u64 {
    lines.iter().filter(|&&byte| byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests;
