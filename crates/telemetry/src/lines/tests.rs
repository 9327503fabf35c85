use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use super::*;

fn log() -> Log {
    Log { name: "access log", mode: 0o644, rotation: None, copy: None }
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
    let out = Out::Stream(Box::new(disk.clone()));
    let (path, again, dropped) = (PathBuf::new(), Arc::default(), Arc::default());
    let mut writer = Writer { out, log: log(), path, again, dropped, torn: 0, lost: 0, stuck: false };
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
fn the_beginning_of_a_line_is_taken_out_of_a_file_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("decisions.log");
    let text = || std::fs::read_to_string(&path).unwrap();
    let mut writer = Writer {
        out: Out::open(&path, 0o640).unwrap(),
        log: log(),
        path: path.clone(),
        again: Arc::default(),
        dropped: Arc::default(),
        torn: 0,
        lost: 0,
        stuck: false,
    };
    writer.write(b"first\nsec");
    assert_eq!(writer.torn, 3);
    writer.lose(b"ond\n", &io::ErrorKind::StorageFull.into());
    writer.write(b"third\n");
    assert_eq!(text(), "first\nthird\n");
    // Not where somebody else has written behind it.
    writer.write(b"fou");
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"strange").unwrap();
    writer.lose(b"rth\n", &io::ErrorKind::StorageFull.into());
    writer.write(b"fifth\n");
    assert_eq!(text(), "first\nthird\nfoustrange\nfifth\n");
}

#[test]
fn a_file_that_was_moved_is_opened_again_between_two_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let moved = |n: usize| dir.path().join(format!("access.log.{n}"));
    let sink = LogSink::open(&path, log()).unwrap();
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
    let sink = LogSink::open(&path, log()).unwrap();
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
    let sink = LogSink::open(&path, log()).unwrap();
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

#[test]
fn a_full_file_is_put_aside_and_the_oldest_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("decisions.log");
    let copied = Arc::new(std::sync::Mutex::new(Vec::new()));
    let copy = copied.clone();
    let rotated = || Log {
        name: "decision log",
        mode: 0o640,
        rotation: Some(Rotation { bytes: 20, kept: 2 }),
        copy: Some(Box::new({
            let copy = copy.clone();
            move |lines: &[u8]| copy.lock().unwrap().extend_from_slice(lines)
        })),
    };
    // Also by a process that finds a file there.
    for half in [0..5, 5..10] {
        let sink = LogSink::open(&path, rotated()).unwrap();
        let mut buffer = sink.buffer();
        for n in half {
            buffer.lines().extend_from_slice(format!("line {n:04}\n").as_bytes());
            buffer.hand_over();
        }
        sink.flush();
    }
    let texts: Vec<String> = files(&path).iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    assert_eq!(texts, ["line 0004\nline 0005\n", "line 0006\nline 0007\n", "line 0008\nline 0009\n"]);
    assert_eq!(copied.lock().unwrap().iter().filter(|byte| **byte == b'\n').count(), 10);

    // Lines that come together, and one that is longer than a file.
    let sink = LogSink::open(&path, rotated()).unwrap();
    let mut buffer = sink.buffer();
    let long = "a line longer than a file\n";
    buffer.lines().extend_from_slice(format!("one\ntwo\nthree\nfour\n{long}five\n").as_bytes());
    buffer.hand_over();
    sink.flush();
    let texts: Vec<String> = files(&path).iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    assert_eq!(texts, ["one\ntwo\nthree\nfour\n", long, "five\n"]);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o137, 0, "for its owner and its group: {mode:o}");
}

#[test]
fn a_full_file_that_cannot_be_put_aside_grows_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("decisions.log");
    std::fs::create_dir_all(dir.path().join("decisions.log.1/taken")).unwrap();
    let rotation = Some(Rotation { bytes: 10, kept: 1 });
    let sink = LogSink::open(&path, Log { name: "decision log", mode: 0o640, rotation, copy: None }).unwrap();
    let mut buffer = sink.buffer();
    for _ in 0..3 {
        buffer.lines().extend_from_slice(b"12345678\n");
        buffer.hand_over();
    }
    sink.flush();
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
    assert_eq!(sink.dropped(), 0);
}
