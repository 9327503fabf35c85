//! What becomes of a store whose disk is full.

use std::fs::OpenOptions;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::*;

/// A file on a disk that can be full.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    full: Arc<AtomicBool>,
}

impl Disk {
    fn room(&self) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) { Err(ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.room()?;
        self.file.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room()?;
        self.file.write(offset, data)
    }
    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}

#[test]
fn a_full_disk_refuses_writes_loses_nothing_and_is_got_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weft.redb");
    let full = Arc::new(AtomicBool::new(false));
    let open = {
        let (path, full) = (path.clone(), full.clone());
        move || {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let file = FileBackend::new(file.map_err(|error| DatabaseError::Storage(error.into()))?)?;
            Database::builder().create_with_backend(Disk { file, full: full.clone() })
        }
    };
    let (store, watchers) = (Embedded::open_with(&path, Box::new(open)).unwrap(), Watchers::new());
    let put = |key: &str, value: &[u8]| store.write(key, Expect::Anything, Some(value), &watchers);
    put("before", b"1").unwrap();

    full.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        assert!(matches!(put("during", &[7; 100_000]), Err(StoreError::Database(_))));
    }

    full.store(false, Ordering::Relaxed);
    let before = store.get("before").unwrap().unwrap();
    assert_eq!((&*before.value, store.get("during").unwrap()), (&b"1"[..], None));
    let Swap::Done(revision) = put("after", b"2").unwrap() else { panic!("it is unconditional") };
    assert!(revision > before.revision);
    drop(store);
    let store = Embedded::open(&path).unwrap();
    assert_eq!(store.list("").unwrap().iter().map(|(key, _)| &**key).collect::<Vec<_>>(), ["after", "before"]);
}
