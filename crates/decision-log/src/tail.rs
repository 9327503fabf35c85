//! Reading a log: from its oldest line, and then what comes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use weft_telemetry::lines;

use crate::entry::Entry;

/// A file of a log cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{path} cannot be read: {error}")]
pub struct LogError {
    path: PathBuf,
    error: io::Error,
}

/// A log, and how far it was read.
pub struct Tail {
    path: PathBuf,
    /// What is read from, and what was read of a line that is not whole yet.
    open: Option<(BufReader<File>, Vec<u8>)>,
    foreign: usize,
}

impl Tail {
    /// Of the log at `path` with its older files. It need not be there yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None, foreign: 0 }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lines so far that are none of a decision log.
    pub fn foreign(&self) -> usize {
        self.foreign
    }

    /// Gives every line that has come since the last time, at first all that there are, the oldest first. One that is not whole yet comes the
    /// next time.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(&mut self, mut take: impl FnMut(Entry<'static>)) -> Result<(), LogError> {
        let Some(known) = self.open.as_ref().and_then(|(file, _)| Some(inode(file.get_ref().metadata().ok()?))) else {
            for file in lines::files(&self.path) {
                self.follow(&file, &mut take)?;
            }
            return Ok(());
        };
        self.go_on(&mut take)?;
        // Put aside meanwhile: what came into it is read, and all that is younger.
        let files = lines::files(&self.path);
        let inodes: Vec<_> = files.iter().map(|file| std::fs::metadata(file).map(inode).ok()).collect();
        let younger = inodes.iter().position(|inode| *inode == Some(known)).map_or(0, |at| at + 1);
        for file in &files[younger..] {
            self.go_on(&mut take)?;
            self.follow(file, &mut take)?;
        }
        Ok(())
    }

    fn follow(&mut self, file: &Path, take: &mut impl FnMut(Entry<'static>)) -> Result<(), LogError> {
        match File::open(file) {
            Ok(file) => self.open = Some((BufReader::new(file), Vec::new())),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(LogError { path: file.to_owned(), error }),
        }
        self.go_on(take)
    }

    fn go_on(&mut self, take: &mut impl FnMut(Entry<'static>)) -> Result<(), LogError> {
        let Some((file, line)) = &mut self.open else { return Ok(()) };
        let fault = |error| LogError { path: self.path.clone(), error };
        while file.read_until(b'\n', line).map_err(fault)? > 0 {
            if line.last() != Some(&b'\n') {
                return Ok(());
            }
            match serde_json::from_slice(line) {
                Ok(entry) => take(entry),
                Err(_) => self.foreign += 1,
            }
            line.clear();
        }
        Ok(())
    }
}

/// How an entry's `time` looks that long before `now`: as text it is less than the times after it.
pub fn since(now: SystemTime, ago: Duration) -> String {
    let at = now.checked_sub(ago).and_then(|at| Timestamp::try_from(at).ok());
    at.map(|at| format!("{at:.3}")).unwrap_or_default()
}

fn inode(metadata: std::fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn line(id: &str) -> String {
        format!(
            "{{\"time\":\"t\",\"decision\":\"deny\",\"decision_id\":\"{id}\",\"action\":\"call\",\"resource\":\"a/b\",\"reason\":\"r\",\"commit\":\"c\",\"policy_version\":\"v\"}}\n"
        )
    }

    #[test]
    fn lines_come_once_each_also_when_files_are_put_aside() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("decisions.log");
        let mut tail = Tail::new(&path);
        let mut read = |expected: &[&str]| {
            let mut ids = Vec::new();
            tail.read(|entry| ids.push(entry.decision_id.into_owned())).expect("reads");
            assert_eq!(ids, expected);
            tail.foreign()
        };
        read(&[]);
        std::fs::write(dir.path().join("decisions.log.1"), line("1")).expect("written");
        let mut file = File::create(&path).expect("made");
        file.write_all((line("2") + &line("3")[..20]).as_bytes()).expect("written");
        read(&["1", "2"]);
        file.write_all(&line("3").as_bytes()[20..]).expect("written");
        file.write_all(line("4").as_bytes()).expect("written");
        read(&["3", "4"]);
        file.write_all(line("5").as_bytes()).expect("written");
        // Twice between two looks.
        for id in ["6", "7"] {
            std::fs::rename(dir.path().join("decisions.log.1"), dir.path().join("decisions.log.2")).expect("moved");
            std::fs::rename(&path, dir.path().join("decisions.log.1")).expect("moved");
            std::fs::write(&path, line(id)).expect("written");
        }
        read(&["5", "6", "7"]);
        assert_eq!(read(&[]), 0);
        std::fs::write(&path, line("7") + "no decision\n").expect("written");
        assert_eq!(read(&[]), 1);
    }
}
