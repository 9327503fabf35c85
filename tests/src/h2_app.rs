//! An app that speaks HTTP/2 in clear, frame by frame, so that a test says exactly what it refuses.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::ports;

/// What it does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manners {
    /// Answers each.
    Kind,
    /// Resets so many streams with `REFUSED_STREAM`, whole requests, before it answers any.
    Refuses(u64),
    /// Holds so many whole requests until all are there, resets them all with `REFUSED_STREAM`, and answers what comes after: no call
    /// is refused twice, however slowly they come.
    RefusesTogether(u64),
    /// Sends a GOAWAY that leaves out the first request of each of so many connections, and answers nothing on them.
    Leaves(u64),
    /// Takes so many streams at once, refuses what comes beyond, and answers when it has that many or no more come.
    Takes(u32),
}

/// A running app; it lives as long as the test's process.
#[derive(Debug)]
pub struct H2App {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    manners: Manners,
    answered: AtomicU64,
    refused: AtomicU64,
    connections: AtomicU64,
    /// Whole requests that came, on all connections.
    came: AtomicU64,
}

impl H2App {
    /// Starts it.
    pub fn start(manners: Manners) -> Self {
        let address = ports::free();
        let listener = TcpListener::bind(address).expect("the port is free");
        let counts = std::array::from_fn(|_| AtomicU64::new(0));
        let [answered, refused, connections, came] = counts;
        let state = Arc::new(State { manners, answered, refused, connections, came });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { address, state }
    }

    /// Requests that were answered.
    pub fn answered(&self) -> u64 {
        self.state.answered.load(Ordering::Relaxed)
    }

    /// Requests that were refused.
    pub fn refused(&self) -> u64 {
        self.state.refused.load(Ordering::Relaxed)
    }
}

const PREFACE: usize = 24;
// Frame types and flags (RFC 9113 s.6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const REFUSED_STREAM: u32 = 7;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
/// What it takes before it says more, in bytes.
const WINDOW: u32 = 1 << 20;

/// `:status: 200`, `content-type: application/grpc`, `grpc-status: 0` in HPACK without its tables (RFC 7541 s.6.2.2).
fn answer() -> Vec<u8> {
    let mut block = vec![0x88];
    for (name, value) in [("content-type", "application/grpc"), ("grpc-status", "0")] {
        block.push(0);
        for text in [name, value] {
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn send(stream: &mut TcpStream, kind: u8, flags: u8, id: u32, payload: &[u8]) -> std::io::Result<()> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(payload);
    stream.write_all(&frame)
}

struct Frame {
    kind: u8,
    flags: u8,
    id: u32,
    payload: Vec<u8>,
}

/// The next frame; `None` if none comes for a moment.
fn receive(stream: &mut TcpStream) -> std::io::Result<Option<Frame>> {
    let mut first = [0];
    match stream.read_exact(&mut first) {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
        other => other?,
    }
    let mut rest = [0; 8];
    stream.read_exact(&mut rest)?;
    let length = u32::from_be_bytes([0, first[0], rest[0], rest[1]]) as usize;
    let id = u32::from_be_bytes([rest[4], rest[5], rest[6], rest[7]]);
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload)?;
    Ok(Some(Frame { kind: rest[2], flags: rest[3], id, payload }))
}

fn serve(mut stream: TcpStream, state: &State) -> std::io::Result<()> {
    // A connection without a preface only asks whether the app listens.
    stream.read_exact(&mut [0; PREFACE])?;
    let number = state.connections.fetch_add(1, Ordering::Relaxed);
    let mut settings = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &WINDOW.to_be_bytes()].concat();
    if let Manners::Takes(most) = state.manners {
        settings.extend_from_slice(&MAX_CONCURRENT_STREAMS.to_be_bytes());
        settings.extend_from_slice(&most.to_be_bytes());
    }
    send(&mut stream, SETTINGS, 0, 0, &settings)?;
    send(&mut stream, WINDOW_UPDATE, 0, 0, &WINDOW.to_be_bytes())?;
    stream.set_read_timeout(Some(Duration::from_millis(50)))?;
    let (mut open, mut whole, mut held) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    loop {
        let frame = receive(&mut stream)?;
        if matches!(state.manners, Manners::RefusesTogether(most) if state.came.load(Ordering::Relaxed) >= most) {
            for id in std::mem::take(&mut held) {
                refuse(&mut stream, state, id, &mut open)?;
            }
        }
        let Some(frame) = frame else {
            answer_all(&mut stream, state, &mut open, &mut whole)?;
            continue;
        };
        let ends = matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0;
        match frame.kind {
            SETTINGS if frame.flags & ACK == 0 => send(&mut stream, SETTINGS, ACK, 0, &[])?,
            PING if frame.flags & ACK == 0 => send(&mut stream, PING, ACK, 0, &frame.payload)?,
            HEADERS => {
                open.insert(frame.id);
                if matches!(state.manners, Manners::Leaves(most) if number < most) {
                    state.refused.fetch_add(1, Ordering::Relaxed);
                    let last_stream = frame.id.saturating_sub(2);
                    send(&mut stream, GOAWAY, 0, 0, &[last_stream.to_be_bytes(), [0; 4]].concat())?;
                    return stream.shutdown(std::net::Shutdown::Write);
                }
                if matches!(state.manners, Manners::Takes(most) if open.len() > most as usize) {
                    refuse(&mut stream, state, frame.id, &mut open)?;
                }
            }
            RST_STREAM => {
                open.remove(&frame.id);
                whole.remove(&frame.id);
            }
            _ => {}
        }
        if !ends || !open.contains(&frame.id) {
            continue;
        }
        let before = state.came.fetch_add(1, Ordering::Relaxed);
        match state.manners {
            Manners::RefusesTogether(most) if before < most => {
                held.insert(frame.id);
            }
            Manners::Refuses(most) if state.refused.load(Ordering::Relaxed) < most => {
                refuse(&mut stream, state, frame.id, &mut open)?;
            }
            Manners::Takes(most) => {
                whole.insert(frame.id);
                if whole.len() == most as usize {
                    answer_all(&mut stream, state, &mut open, &mut whole)?;
                }
            }
            _ => {
                whole.insert(frame.id);
                answer_all(&mut stream, state, &mut open, &mut whole)?;
            }
        }
    }
}

fn refuse(stream: &mut TcpStream, state: &State, id: u32, open: &mut BTreeSet<u32>) -> std::io::Result<()> {
    state.refused.fetch_add(1, Ordering::Relaxed);
    open.remove(&id);
    send(stream, RST_STREAM, 0, id, &REFUSED_STREAM.to_be_bytes())
}

fn answer_all(
    stream: &mut TcpStream,
    state: &State,
    open: &mut BTreeSet<u32>,
    whole: &mut BTreeSet<u32>,
) -> std::io::Result<()> {
    for id in std::mem::take(whole) {
        open.remove(&id);
        state.answered.fetch_add(1, Ordering::Relaxed);
        send(stream, HEADERS, END_STREAM | END_HEADERS, id, &answer())?;
    }
    Ok(())
}
