//! Connections to the endpoint, each with who is at its other end.
//!
//! Everybody on the machine may connect, so that who has no identity is told so; so nobody may take all places.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::authority::Mend;
use crate::caller::Caller;
use crate::endpoint::Endpoint;

/// Linux has 108 bytes for the path of a Unix socket and its end (unix(7)).
const MAX_SOCKET_PATH: usize = 107;
/// Connections of one user at a time; further ones are closed at once.
const MOST_OF_ONE: usize = 256;
/// Connections of all users at a time.
const MOST: usize = 2048;

/// An open endpoint.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    endpoint: Endpoint,
    held: bool,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Opens it. A Unix socket takes the place of one that an earlier process has left, without a moment in which there is none, and every
    /// user may connect to it.
    ///
    /// # Errors
    /// It cannot be opened; the text says what stands in the way.
    pub async fn open(endpoint: &Endpoint) -> io::Result<Self> {
        let endpoint = endpoint.clone().absolute()?;
        match &endpoint {
            Endpoint::Unix(path) => Ok(Self { socket: Socket::Unix(open_unix(path)?), endpoint, held: false }),
            Endpoint::Tcp(address) => {
                let listener = TcpListener::bind(address).await?;
                let endpoint = Endpoint::Tcp(listener.local_addr()?);
                Ok(Self { socket: Socket::Tcp(listener), endpoint, held: false })
            }
        }
    }

    /// The same, with a hold on the process of each caller ([`Caller::process`]): it costs two file descriptors.
    #[must_use]
    pub fn holding_processes(self) -> Self {
        Self { held: true, ..self }
    }

    /// Where it is: a path is absolute, a port is never 0.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The connections, as they come.
    pub(crate) fn connections(self) -> ReceiverStream<io::Result<Connection>> {
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(accept(self.socket, self.held, sender));
        ReceiverStream::new(receiver)
    }
}

fn open_unix(path: &Path) -> io::Result<UnixListener> {
    let refuse = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
    let folder = path.parent().unwrap_or(Path::new("/"));
    let mode =
        fs::metadata(folder).map_err(|error| refuse(format!("its folder {}: {error}", folder.display())))?.mode();
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return Err(refuse(format!(
            "others may write to its folder {}, and could put a socket of their own in its place: choose another, or chmod go-w",
            folder.display()
        )));
    }
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => return Err(refuse("there is a file that is no socket".into())),
        Ok(_) if std::os::unix::net::UnixStream::connect(path).is_ok() => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another program listens there: stop it first"));
        }
        _ => {}
    }
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    if draft.len() > MAX_SOCKET_PATH {
        return Err(refuse(format!(
            "the path has more than {} bytes: choose a shorter one",
            MAX_SOCKET_PATH - ".new".len()
        )));
    }
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&draft)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o666))?;
    fs::rename(&draft, path)?;
    Ok(listener)
}

/// Takes connections for as long as somebody wants them.
async fn accept(socket: Socket, held: bool, accepted: mpsc::Sender<io::Result<Connection>>) {
    let crowd = Arc::new(Crowd::default());
    let mut told = false;
    loop {
        let next = async {
            match &socket {
                Socket::Unix(listener) => {
                    let (stream, _) = listener.accept().await?;
                    let caller = Caller::of_unix(&stream, held);
                    Ok((Box::new(stream) as Box<dyn Bytes>, caller))
                }
                Socket::Tcp(listener) => {
                    let (stream, there) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    let caller = Caller::of_tcp(stream.local_addr()?, there);
                    Ok((Box::new(stream) as Box<dyn Bytes>, caller))
                }
            }
        };
        let next: io::Result<(Box<dyn Bytes>, io::Result<Caller>)> = tokio::select! {
            next = next => next,
            () = accepted.closed() => return,
        };
        let (bytes, caller) = match next {
            Ok(next) => next,
            Err(error) => {
                // Out of file descriptors, or the caller is gone already: neither ends the endpoint.
                tracing::warn!(%error, "cannot accept a connection to the Workload API");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let caller = match caller {
            Ok(caller) => Some(caller),
            Err(error) => {
                tracing::debug!(%error, "it could not be found out who calls the Workload API"); // the caller is told
                None
            }
        };
        let uid = caller.as_ref().map(|caller| caller.uid);
        let Some(seat) = Crowd::enter(&crowd, uid) else {
            if !told {
                tracing::warn!(uid, "too many connections to the Workload API: some are closed, now and later");
                told = true; // anybody can try as often as he likes
            }
            continue;
        };
        if accepted
            .send(Ok(Connection { bytes, mend: Mend::default(), peer: Peer(caller), _seat: seat }))
            .await
            .is_err()
        {
            return;
        }
    }
}

/// How many connections each user has.
#[derive(Default)]
struct Crowd(Mutex<HashMap<Option<u32>, usize>>);

/// One of them.
struct Seat {
    crowd: Arc<Crowd>,
    uid: Option<u32>,
}

impl Crowd {
    fn enter(crowd: &Arc<Self>, uid: Option<u32>) -> Option<Seat> {
        let mut seats = crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = seats.values().sum();
        if all >= MOST || seats.get(&uid).is_some_and(|own| *own >= MOST_OF_ONE) {
            return None;
        }
        *seats.entry(uid).or_default() += 1;
        Some(Seat { crowd: crowd.clone(), uid })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seats = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = seats.get_mut(&self.uid).map(|own| {
            *own -= 1;
            *own
        });
        if left == Some(0) {
            seats.remove(&self.uid);
        }
    }
}

/// Bytes both ways, whatever they go over.
pub(crate) trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// One connection.
pub(crate) struct Connection {
    bytes: Box<dyn Bytes>,
    mend: Mend,
    peer: Peer,
    _seat: Seat,
}

/// Who is at its other end, in the extensions of each request; nobody, if the kernel did not say.
#[derive(Clone, Debug)]
pub(crate) struct Peer(pub(crate) Option<Caller>);

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.bytes).poll_read(context, into);
        self.mend.mend(&mut into.filled_mut()[before..]);
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.bytes).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_the_places_of_others() {
        let crowd = Arc::new(Crowd::default());
        let mut seats: Vec<_> = (0..MOST_OF_ONE).map(|_| Crowd::enter(&crowd, Some(7)).expect("a place")).collect();
        assert!(Crowd::enter(&crowd, Some(7)).is_none());
        let other = Crowd::enter(&crowd, Some(8));
        assert!(other.is_some() && Crowd::enter(&crowd, None).is_some());
        seats.pop();
        assert!(Crowd::enter(&crowd, Some(7)).is_some(), "a place is free again");
        drop((seats, other));
        assert!(crowd.0.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_socket_takes_the_place_of_a_dead_one_and_of_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w.sock");
        let open = async |path: &Path| Listener::open(&Endpoint::Unix(path.to_owned())).await.map(drop);
        let alive = Listener::open(&Endpoint::Unix(path.clone())).await.unwrap();
        assert_eq!(alive.endpoint().to_string(), format!("unix://{}", path.display()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
        let error = open(&path).await.unwrap_err().to_string();
        assert!(error.contains("another program listens there"), "{error}");
        drop(alive);
        open(&path).await.unwrap();
        fs::write(folder.path().join("file"), "x").unwrap();
        let error = open(&folder.path().join("file")).await.unwrap_err().to_string();
        assert!(error.contains("no socket"), "{error}");
        let error = open(&folder.path().join("x".repeat(110))).await.unwrap_err().to_string();
        assert!(error.contains("choose a shorter one"), "{error}");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = open(&path).await.unwrap_err().to_string();
        assert!(error.contains("others may write to its folder"), "{error}");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        open(&path).await.unwrap();
    }
}
