//! Free loopback ports that stay ours while this process lives.

use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

/// Below the kernel's range for outgoing connections (32768 and up), so that no client takes a port between its choice and its use.
const RANGE: std::ops::Range<u32> = 12_000..32_000;

static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A loopback address whose port nothing listens on. No other test process gets the same one before this process ends: each
/// port has a lock file, and the kernel drops the lock with the process.
pub fn free() -> SocketAddr {
    let folder = std::env::temp_dir().join("weft-test-ports");
    std::fs::create_dir_all(&folder).expect("the folder of port locks can be made");
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    let seed = (clock / 1000).wrapping_add(std::process::id().wrapping_mul(2_654_435_761));
    let size = RANGE.end - RANGE.start;
    for step in 0..size {
        let port = (RANGE.start + (seed % size + step) % size) as u16;
        let file =
            File::options().create(true).append(true).open(folder.join(port.to_string())).expect("a lock file opens");
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => panic!("locking port {port}: {error}"),
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            HELD.lock().expect("no test panics while it holds this").push(file);
            return address;
        }
    }
    panic!("no free port in {RANGE:?}");
}
