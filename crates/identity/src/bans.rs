//! Who is banned: identities, machines and single certificates that nobody takes any more, whatever their life. And who is there on open
//! connections, to be cut off when that happens.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use weft_model::SpiffeId;

use crate::certificate::{check_leaf, machine_in, parse, serial_in};
use crate::fault::PeerError;
use crate::machine::MachineId;
use crate::saved::write_private;

/// The most bans at a time. All of them go to every workload, and each is some hundred bytes.
pub const MOST: usize = 4096;
/// The most open connections that are remembered without looking for those that have ended.
const SWEPT_FROM: usize = 256;
const FILE: &str = "bans.json";

/// Who is banned. Its text is a SPIFFE ID, `serial:` and a number or `machine:` and a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Banned {
    /// Everybody of this identity.
    Identity(SpiffeId),
    /// Whoever shows the certificate of this serial number, upper-case hexadecimal.
    Serial(String),
    /// Whatever was issued to this machine.
    Machine(MachineId),
}

impl fmt::Display for Banned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(id) => id.fmt(f),
            Self::Serial(serial) => write!(f, "serial:{serial}"),
            Self::Machine(machine) => write!(f, "machine:{machine}"),
        }
    }
}

impl FromStr for Banned {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(serial) = text.strip_prefix("serial:") {
            // As `openssl` and browsers write it, with colons or without.
            let digits: String = serial.chars().filter(|digit| *digit != ':').collect();
            let digits = digits.trim_start_matches('0').to_ascii_uppercase();
            let is_number =
                !digits.is_empty() && digits.len() <= 40 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
            // Whole bytes, as a certificate has them.
            let even = if digits.len().is_multiple_of(2) { digits } else { format!("0{digits}") };
            return if is_number {
                Ok(Self::Serial(even))
            } else {
                Err(format!("`{serial}` is no serial number of a certificate: 1 to 40 hexadecimal digits"))
            };
        }
        if let Some(machine) = text.strip_prefix("machine:") {
            let is_name =
                !machine.is_empty() && machine.len() <= 64 && machine.bytes().all(|byte| byte.is_ascii_alphanumeric());
            return if is_name {
                Ok(Self::Machine(machine.to_owned()))
            } else {
                Err(format!("`{machine}` is no machine: its name is hexadecimal digits"))
            };
        }
        text.parse().map(Self::Identity).map_err(|error: weft_model::NameError| error.to_string())
    }
}

impl Serialize for Banned {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Banned {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Why somebody is banned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// In words.
    pub reason: String,
    /// Since when, in seconds after the epoch.
    pub since: u64,
}

/// All bans of a mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Bans(BTreeMap<Banned, Ban>);

impl Bans {
    /// These, in any order.
    pub fn new(all: impl IntoIterator<Item = (Banned, Ban)>) -> Self {
        Self(all.into_iter().collect())
    }

    /// Each with who it is about.
    pub fn iter(&self) -> impl Iterator<Item = (&Banned, &Ban)> {
        self.0.iter()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The ban of this very subject.
    pub fn get(&self, banned: &Banned) -> Option<&Ban> {
        self.0.get(banned)
    }

    /// Why nobody of this identity is taken, whatever the certificate.
    pub fn of_identity(&self, id: &SpiffeId) -> Option<&Ban> {
        if self.is_empty() { None } else { self.0.get(&Banned::Identity(id.clone())) }
    }

    /// Why whoever shows such a certificate is not taken.
    pub fn of(&self, leaf: &Leaf) -> Option<&Ban> {
        if self.is_empty() {
            return None;
        }
        let serial = || self.0.get(&Banned::Serial(leaf.serial.clone()));
        let machine = || self.0.get(&Banned::Machine(leaf.machine.clone()?));
        self.of_identity(&leaf.id).or_else(serial).or_else(machine)
    }

    /// The same of a certificate.
    pub(crate) fn check(&self, leaf: &CertificateDer<'_>) -> Result<(), PeerError> {
        if self.is_empty() {
            return Ok(());
        }
        let leaf = Leaf::of(leaf)?;
        match self.of(&leaf) {
            None => Ok(()),
            Some(ban) => Err(PeerError::Banned { id: leaf.id, reason: ban.reason.clone() }),
        }
    }

    /// Kept for the next start, which may be without a control plane.
    pub(crate) fn save(&self, folder: &Path) -> std::io::Result<()> {
        write_private(&folder.join(FILE), &serde_json::to_vec(self)?)
    }

    /// What was kept; nothing if there is nothing to be read.
    pub fn load(folder: &Path) -> Self {
        let path = folder.join(FILE);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                tracing::warn!(path = %path.display(), %error, "the saved bans cannot be read; the control plane tells of them anew");
                Self::default()
            }),
            Err(_) => Self::default(),
        }
    }
}

/// What of a certificate can be banned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// Its serial number, upper-case hexadecimal.
    pub serial: String,
    /// The machine that it was issued to, if that is known.
    pub machine: Option<MachineId>,
}

impl Leaf {
    /// Reads a certificate.
    ///
    /// # Errors
    /// It is no leaf of a SPIFFE ID.
    pub fn of(leaf: &CertificateDer<'_>) -> Result<Self, PeerError> {
        let parsed = parse(leaf)?;
        Ok(Self { id: check_leaf(&parsed)?, serial: serial_in(&parsed), machine: machine_in(&parsed) })
    }
}

/// Ends when the peer of a connection is banned, or its trust domain is federated no more.
#[derive(Debug)]
pub struct CutOff(oneshot::Receiver<()>);

impl Future for CutOff {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match Pin::new(&mut self.0).poll(cx) {
            Poll::Ready(Ok(())) => Poll::Ready(()),
            // Nobody is left who could ban.
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
        }
    }
}

/// The peers of all open connections.
#[derive(Debug, Default)]
pub(crate) struct OpenPeers(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    peers: Vec<(Leaf, oneshot::Sender<()>)>,
    /// How many may be there before those are forgotten that have ended.
    swept_at: usize,
}

impl OpenPeers {
    /// One more, until what is returned is dropped.
    pub(crate) fn enter(&self, leaf: Leaf) -> CutOff {
        let (sender, receiver) = oneshot::channel();
        let mut open = self.open();
        if open.peers.len() >= open.swept_at {
            open.peers.retain(|(_, cut)| !cut.is_closed());
            open.swept_at = (2 * open.peers.len()).max(SWEPT_FROM);
        }
        open.peers.push((leaf, sender));
        CutOff(receiver)
    }

    /// Cuts off whoever is banned; returns how many.
    pub(crate) fn cut(&self, bans: &Bans) -> usize {
        self.cut_if(|leaf| bans.of(leaf).is_some())
    }

    /// Cuts off whomever this is true of; returns how many.
    pub(crate) fn cut_if(&self, is_out: impl Fn(&Leaf) -> bool) -> usize {
        let mut open = self.open();
        let out = open.peers.extract_if(.., |(leaf, _)| is_out(leaf));
        out.filter_map(|(_, cut)| cut.send(()).ok()).count()
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(name: &str, serial: &str, machine: Option<&str>) -> Leaf {
        let id = format!("spiffe://acme.internal/ns/prod/sa/{name}").parse().expect("legal");
        Leaf { id, serial: serial.to_owned(), machine: machine.map(str::to_owned) }
    }

    fn bans(of: &[&str]) -> Bans {
        let ban = |text: &&str| (text.parse().expect("legal"), Ban { reason: format!("for {text}"), since: 1 });
        Bans::new(of.iter().map(ban))
    }

    #[test]
    fn a_ban_is_of_an_identity_a_certificate_or_a_machine() {
        let web = leaf("web", "0A1B", Some("cafe01"));
        for of in
            ["spiffe://acme.internal/ns/prod/sa/web", "serial:0a1b", "serial:0A:1B", "serial:A1B", "machine:cafe01"]
        {
            let bans = bans(&[of]);
            assert!(bans.of(&web).is_some(), "{of}");
            assert!(bans.of(&leaf("board", "0A1C", None)).is_none(), "{of}");
            let text = serde_json::to_string(&bans).expect("JSON");
            assert_eq!(serde_json::from_str::<Bans>(&text).expect("JSON"), bans, "{text}");
        }
        for (wrong, why) in [
            ("serial:xyz", "no serial number"),
            ("serial:", "no serial number"),
            ("machine:../x", "no machine"),
            ("prod/web", ""),
        ] {
            let error = wrong.parse::<Banned>().expect_err(wrong);
            assert!(error.contains(why), "{error}");
        }
    }

    #[tokio::test]
    async fn whoever_is_banned_is_cut_off_and_nobody_else() {
        let open = OpenPeers::default();
        let (web, board) = (open.enter(leaf("web", "01", None)), open.enter(leaf("board", "02", None)));
        for _ in 0..10 * SWEPT_FROM {
            drop(open.enter(leaf("gone", "03", None)));
        }
        assert!(open.open().peers.len() <= 2 * SWEPT_FROM, "those that ended are forgotten");
        assert_eq!(open.cut(&bans(&["spiffe://acme.internal/ns/prod/sa/web", "serial:03"])), 1);
        web.await;
        tokio::select! {
            biased;
            () = board => panic!("nobody has banned it"),
            () = std::future::ready(()) => {}
        }
    }
}
