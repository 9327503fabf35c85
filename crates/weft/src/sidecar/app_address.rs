//! Where the app is. A name may have addresses of both families, of which the app listens on one, and may get others later.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::{sleep, timeout};

use crate::address::{loopback, prefer_v4, split};

/// How long one address may take to accept a connection before the next is tried.
const CONNECT_BOUND: Duration = Duration::from_secs(1);
/// How long the start waits for a resolver that does not answer.
const GUESS_BOUND: Duration = Duration::from_secs(2);
/// Between two looks at what a name stands for.
const LOOK: Duration = Duration::from_secs(5);
/// Stands for a name without an address. Nobody is sent here meanwhile; who comes all the same finds nobody (port 1 of this machine).
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

/// `IP:PORT`, or `NAME:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AppAddress {
    /// Stays what it is.
    Ip(SocketAddr),
    /// Is resolved, again and again.
    Name(String, u16),
}

impl FromStr for AppAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let address = match text.parse() {
            Ok(address) => Self::Ip(address),
            Err(_) => split(text).map(|(name, port)| Self::Name(name.to_owned(), port))?,
        };
        if address.port() == 0 { Err("nothing can listen on port 0".to_owned()) } else { Ok(address) }
    }
}

impl fmt::Display for AppAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

impl AppAddress {
    pub(crate) fn port(&self) -> u16 {
        match self {
            Self::Ip(address) => address.port(),
            Self::Name(_, port) => *port,
        }
    }

    /// Every address, IPv4 first.
    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Ip(address) => Ok(vec![*address]),
            Self::Name(name, port) => match loopback(name, *port) {
                Some(both) => Ok(both.to_vec()),
                None => lookup_host((name.as_str(), *port)).await.map(prefer_v4),
            },
        }
    }

    /// Where the app may well be, before anybody has asked it.
    pub(crate) async fn guess(&self) -> SocketAddr {
        self.first().await.unwrap_or(NOWHERE) // told by whoever waits for the app
    }

    /// The first of its addresses, if it has one now.
    pub(crate) async fn first(&self) -> Option<SocketAddr> {
        timeout(GUESS_BOUND, self.addresses()).await.ok()?.ok()?.first().copied()
    }

    /// Waits until something accepts connections at one of its addresses, and gives that one.
    pub(crate) async fn listening(&self) -> SocketAddr {
        let mut pause = Duration::from_millis(20);
        let mut told = false;
        loop {
            let found = self.addresses().await;
            if let Some(address) = first_open(found.as_deref().unwrap_or_default()).await {
                return address;
            }
            if !told && pause >= Duration::from_millis(500) {
                match found {
                    Ok(_) => {
                        tracing::info!(app = %self, "waiting for the app to listen before the endpoint is registered")
                    }
                    Err(error) => {
                        tracing::warn!(app = %self, %error, "the app's name has no address; looking again until it has")
                    }
                }
                told = true;
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    /// Waits until something listens at another address of the name than at `current`, where the name no longer points or the app is
    /// gone. For ever with an IP address.
    pub(crate) async fn moved(&self, current: SocketAddr, is_gone: &Cell<bool>) -> SocketAddr {
        if let Self::Ip(_) = self {
            return std::future::pending().await;
        }
        loop {
            sleep(LOOK).await;
            // A resolver that is away says nothing about the app.
            let Ok(addresses) = self.addresses().await else { continue };
            if (is_gone.get() || has_left(current, &addresses))
                && let Some(address) = first_open(&addresses).await
                && address != current
            {
                return address;
            }
        }
    }
}

fn has_left(current: SocketAddr, now: &[SocketAddr]) -> bool {
    !now.is_empty() && !now.contains(&current)
}

async fn first_open(addresses: &[SocketAddr]) -> Option<SocketAddr> {
    for address in addresses {
        if let Ok(Ok(_)) = timeout(CONNECT_BOUND, TcpStream::connect(address)).await {
            return Some(*address);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn names_are_kept_and_addresses_understood() {
        let parse = |text: &str| text.parse::<AppAddress>();
        assert_eq!(parse("127.0.0.1:80"), Ok(AppAddress::Ip(([127, 0, 0, 1], 80).into())));
        assert_eq!(parse("localhost:80"), Ok(AppAddress::Name("localhost".to_owned(), 80)));
        assert_eq!(parse("app.internal:80").expect("a name").to_string(), "app.internal:80");
        for wrong in ["localhost", "localhost:0", "127.0.0.1:0", "127.0.0.1", "unix:/run/app"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_app_has_left_when_its_name_stands_for_others_only() {
        let [a, b] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        assert!(has_left(a, &[b]));
        assert!(!has_left(a, &[b, a]));
        assert!(!has_left(a, &[]), "a name without an address says nothing");
    }

    #[tokio::test]
    async fn the_address_at_which_something_listens_is_taken() {
        for host in ["127.0.0.1", "::1"] {
            let listener = TcpListener::bind((host, 0)).await.expect("a port");
            let address = listener.local_addr().expect("it listens");
            let app = AppAddress::Name("localhost".to_owned(), address.port());
            let found = timeout(Duration::from_secs(20), app.listening()).await.expect("it listens");
            // The kernel may have given the same port of the other family to somebody else.
            assert_eq!(found.port(), address.port());
            assert_eq!(first_open(&[([127, 0, 0, 1], 1).into(), address]).await, Some(address));
        }
    }
}
