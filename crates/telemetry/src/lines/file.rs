//! The thread that writes lines into a file, and what becomes of them where it cannot.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Receiver;

use super::{Log, Message, Rotation};

/// Where lines go.
pub(super) enum Out {
    Stream(Box<dyn Write + Send>),
    /// With its length in bytes.
    File(File, u64),
}

impl Out {
    /// A file that is not there is made, with these permissions.
    pub(super) fn open(path: &Path, mode: u32) -> io::Result<Self> {
        Ok(match path.to_str() {
            Some("/dev/stdout") => Self::Stream(Box::new(io::stdout())),
            Some("/dev/stderr") => Self::Stream(Box::new(io::stderr())),
            _ => {
                let file = OpenOptions::new().create(true).append(true).mode(mode).open(path)?;
                let length = file.metadata()?.len();
                Self::File(file, length)
            }
        })
    }
}

impl Out {
    /// Takes the last `count` bytes out of a file, if it ends where it was written last; whether that was done.
    fn take_back(&mut self, count: u64) -> bool {
        let Self::File(file, length) = self else { return false };
        let before = length.saturating_sub(count);
        let is_ours = file.metadata().is_ok_and(|now| now.is_file() && now.len() == *length);
        let done = is_ours && file.set_len(before).is_ok();
        if done {
            *length = before;
        }
        done
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stream(out) => out.write(bytes),
            Self::File(file, length) => {
                let count = file.write(bytes)?;
                *length += count as u64;
                Ok(count)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stream(out) => out.flush(),
            Self::File(..) => Ok(()),
        }
    }
}

/// The writing thread.
pub(super) struct Writer {
    pub(super) out: Out,
    pub(super) log: Log,
    pub(super) path: PathBuf,
    pub(super) again: Arc<AtomicBool>,
    pub(super) dropped: Arc<AtomicU64>,
    /// So many bytes at the end are the beginning of a line.
    pub(super) torn: u64,
    /// Lines lost since the first that could not be written.
    pub(super) lost: u64,
    /// A full file could not be put aside: it is tried again with the next lines, and told once.
    pub(super) stuck: bool,
}

impl Writer {
    pub(super) fn run(&mut self, queue: Receiver<Message>) {
        for message in queue {
            if self.again.swap(false, Ordering::AcqRel) {
                self.reopen();
            }
            match message {
                Message::Lines(lines) => {
                    self.write_in_files(&lines);
                    if let Some(copy) = &mut self.log.copy {
                        copy(&lines);
                    }
                }
                Message::Wake => {}
                Message::Flushed(done) => drop(done.send(())),
            }
        }
    }

    fn reopen(&mut self) {
        let name = self.log.name;
        match Out::open(&self.path, self.log.mode) {
            Ok(out) => {
                self.out = out;
                self.torn = 0; // the beginning of a line is in the old file
                tracing::info!(path = %self.path.display(), "the {name} is opened again");
            }
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "the {name} cannot be opened again; lines go on into the old file");
            }
        }
    }

    /// Writes lines, into as many files as they fill.
    fn write_in_files(&mut self, mut lines: &[u8]) {
        while !lines.is_empty() {
            let count = match self.fitting(lines) {
                0 if self.put_aside() => continue,
                0 if self.stuck => lines.len(),
                0 => first_line(lines), // longer than a file
                some => some,
            };
            let (now, later) = lines.split_at(count);
            self.write(now);
            lines = later;
        }
    }

    /// How many bytes of whole lines the file has room for.
    fn fitting(&self, lines: &[u8]) -> usize {
        let (Some(rotation), Out::File(_, length)) = (self.log.rotation, &self.out) else { return lines.len() };
        let room = usize::try_from(rotation.bytes.saturating_sub(*length)).unwrap_or(usize::MAX);
        match lines.get(..room) {
            Some(some) => some.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1),
            None => lines.len(),
        }
    }

    /// Puts a full file aside; false if it is empty or stays.
    fn put_aside(&mut self) -> bool {
        let Some(rotation) = self.log.rotation else { return false };
        if matches!(self.out, Out::File(_, 0)) {
            return false;
        }
        match rotate(&self.path, rotation).and_then(|()| Out::open(&self.path, self.log.mode)) {
            Ok(out) => {
                (self.out, self.torn, self.stuck) = (out, 0, false);
                true
            }
            Err(error) => {
                if !std::mem::replace(&mut self.stuck, true) {
                    tracing::warn!(path = %self.path.display(), %error, "the full {} cannot be put aside; it grows on", self.log.name);
                }
                false
            }
        }
    }

    /// Writes them, or loses those that cannot be; the beginning and the end of that are told.
    pub(super) fn write(&mut self, lines: &[u8]) {
        if self.torn > 0 {
            // What follows the beginning of a line would be taken for its end.
            match self.out.write_all(b"\n") {
                Ok(()) => self.torn = 0,
                Err(error) => return self.lose(lines, &error),
            }
        }
        let mut rest = lines;
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return self.lose(rest, &io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    let (now, later) = rest.split_at(count);
                    self.torn = match now.iter().rposition(|byte| *byte == b'\n') {
                        Some(end) => (now.len() - end - 1) as u64,
                        None => self.torn + now.len() as u64,
                    };
                    rest = later;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.lose(rest, &error),
            }
        }
        if let Err(error) = self.out.flush() {
            return self.lose(lines, &error);
        }
        if self.lost > 0 {
            tracing::info!(lost = self.lost, "lines of the {} can be written again", self.log.name);
            self.lost = 0;
        }
    }

    pub(super) fn lose(&mut self, lines: &[u8], error: &io::Error) {
        let count = super::count(lines);
        if self.torn > 0 && self.out.take_back(self.torn) {
            self.torn = 0;
        }
        if self.lost == 0 {
            tracing::warn!(%error, "lines of the {} cannot be written, and are lost until they can", self.log.name);
        }
        self.lost += count;
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }
}

/// Where the first line ends.
fn first_line(lines: &[u8]) -> usize {
    lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |end| end + 1)
}

/// `x.log` becomes `x.log.1`, that `x.log.2`, and so on; the oldest goes.
fn rotate(path: &Path, rotation: Rotation) -> io::Result<()> {
    for n in (1..rotation.kept).rev() {
        match std::fs::rename(old(path, n), old(path, n + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    if rotation.kept == 0 { std::fs::remove_file(path) } else { std::fs::rename(path, old(path, 1)) }
}

/// The name of an older file of a log: the higher the number, the older.
pub(super) fn old(path: &Path, n: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{n}"));
    name.into()
}
