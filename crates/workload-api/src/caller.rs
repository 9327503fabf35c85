//! Who calls, by the kernel's word: nothing that the caller says counts (Workload Endpoint s.5).

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::net::UnixStream;

use crate::process::Process;

/// The process at the other end when it connected.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Its user.
    pub uid: u32,
    /// Its id, over a Unix socket. It may be another process's by now.
    pub pid: Option<i32>,
    /// A hold on that very process, where the listener takes one.
    pub process: Option<Arc<Process>>,
}

impl Caller {
    /// By SO_PEERCRED (unix(7)); `held` with a hold on the process.
    pub(crate) fn of_unix(stream: &UnixStream, held: bool) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let process = match credentials.pid() {
            Some(pid) if held => Some(Arc::new(Process::at_the_end_of(stream, pid)?)),
            _ => None,
        };
        Ok(Self { uid: credentials.uid(), pid: credentials.pid(), process })
    }

    /// By the kernel's table of TCP sockets (proc(5)), of the network that this process is in: the connection's other end is there, with
    /// its user, if it is on this machine and in this network namespace.
    pub(crate) fn of_tcp(here: SocketAddr, there: SocketAddr) -> io::Result<Self> {
        let table = fs::read_to_string(if there.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" })?;
        let uid = owner(&table, there, here);
        let uid = uid
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the kernel does not say whose the other end is"))?;
        Ok(Self { uid, pid: None, process: None })
    }
}

/// The user of the established socket from `local` to `remote`.
fn owner(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u32> {
    const ESTABLISHED: &str = "01";
    let (local, remote) = (in_table(local), in_table(remote));
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let is_it = fields.next()? == local && fields.next()? == remote && fields.next()? == ESTABLISHED;
        // Then queues, timer and retransmissions.
        if is_it { fields.nth(3)?.parse().ok() } else { None }
    })
}

/// An address as the table has it: words of four bytes as this machine keeps them in memory, in hexadecimal, and the port.
fn in_table(address: SocketAddr) -> String {
    let bytes = match address.ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let words = bytes.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    let ip: String = words.map(|word| format!("{word:08X}")).collect();
    format!("{ip}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_tcp_connection_is_that_of_its_other_end_while_it_is_there() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 0100007F:D2F0 01 00000000:00000000 00:00000000 00000000  1001        0 5 1 0 20 4 30 10 -1
   1: 0100007F:D2F0 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1002        0 6 1 0 20 4 30 10 -1
   2: 0100007F:D2F1 0100007F:1F90 06 00000000:00000000 03:000016A1 00000000     0        0 0 3 0
";
        let (server, client): (SocketAddr, SocketAddr) =
            ("127.0.0.1:8080".parse().unwrap(), "127.0.0.1:54000".parse().unwrap());
        if cfg!(target_endian = "little") {
            assert_eq!(owner(table, client, server), Some(1002));
            assert_eq!(owner(table, "127.0.0.1:54001".parse().unwrap(), server), None, "it has ended, and is nobody's");
            assert_eq!(owner(table, "127.0.0.1:54002".parse().unwrap(), server), None);
        }
        assert_eq!(owner("", client, server), None);
    }
}
