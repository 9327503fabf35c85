//! The machines that were enrolled: by what, by which key a workload that was here once comes back, and how long it may be away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use weft_identity::MachineId;
use weft_identity::schedule::Sweeps;
use weft_model::Subject;
use weft_store::{Store, StoreError, Swap};

const FOLDER: &str = "machine/";
/// That a machine was seen is written this many times in the life that it may be away, and not at each renewal.
const NOTED: u32 = 60;
/// How often those that cannot come back any more are looked for.
const SWEEP: Duration = Duration::from_secs(3_600);

/// Why a machine gets nothing.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// No such machine.
    #[error(
        "machine {0} is not enrolled here; start the workload with a new join token, or with what else its machine can prove by"
    )]
    Unknown(MachineId),
    /// For somebody else.
    #[error(
        "machine {machine} is enrolled for {enrolled}, not for {asked}; give each workload a state folder of its own. An identity that an agent gave is renewed by that agent alone"
    )]
    OtherService {
        /// Which.
        machine: MachineId,
        /// What it was enrolled for.
        enrolled: Subject,
        /// What it asked for.
        asked: Subject,
    },
    /// It was away for too long.
    #[error(
        "machine {machine} was away for {away} s, longer than `Mesh.identity.machineLife` ({life} s); start the workload with a new join token, or with what else its machine can prove by"
    )]
    Away {
        /// Which.
        machine: MachineId,
        /// For how long, in seconds.
        away: u64,
        /// How long it may be, in seconds.
        life: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the store holds of a machine; times are in seconds after the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// What it was enrolled for.
    pub(crate) service: Subject,
    /// When.
    pub(crate) enrolled: u64,
    /// When it was last here, give or take a sixtieth of the time that it may be away.
    pub(crate) seen: u64,
    /// By what it was enrolled; `None` of an older version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<By>,
}

/// By what a machine was enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// `token`, `x509pop` or `oidc`.
    pub way: String,
    /// Whoever can prove this again is the same machine, whichever key it comes with; `None` of a join token, which is good for once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// The machines of a mesh.
#[derive(Clone, Debug)]
pub struct Machines {
    store: Store,
    sweeps: Arc<Mutex<Sweeps>>,
}

impl Machines {
    /// Machines in `store`.
    pub fn new(store: Store) -> Self {
        Self::begun(store, (Instant::now(), SystemTime::now()))
    }

    fn begun(store: Store, begun: (Instant, SystemTime)) -> Self {
        Self { store, sweeps: Arc::new(Mutex::new(Sweeps::every(SWEEP, begun))) }
    }

    /// Whether a machine can be enrolled for a service: it is new, or was enrolled for that very service before.
    ///
    /// # Errors
    /// It is another service's.
    pub async fn may_enrol(&self, id: &MachineId, subject: &Subject) -> Result<(), MachineError> {
        match self.get(id).await? {
            Some((machine, _)) => check(id, &machine, subject),
            None => Ok(()),
        }
    }

    /// Enrols a machine that has proved by a join token or otherwise who it is; one that was enrolled before begins anew.
    ///
    /// # Errors
    /// It is another service's.
    pub async fn enrol(&self, id: &MachineId, subject: &Subject, by: By, now: SystemTime) -> Result<(), MachineError> {
        let now = seconds(now);
        let machine = Machine { service: subject.clone(), enrolled: now, seen: now, by: Some(by) };
        loop {
            let present = self.get(id).await?;
            if let Some((present, _)) = &present {
                check(id, present, subject)?;
            }
            if self.put(id, &machine, present.map(|(_, revision)| revision)).await? {
                return Ok(());
            }
        }
    }

    /// A machine comes back after it was away.
    ///
    /// # Errors
    /// It was never here, is another service's, or was away for longer than `life`.
    pub async fn returns(
        &self,
        id: &MachineId,
        subject: &Subject,
        life: Duration,
        now: SystemTime,
    ) -> Result<(), MachineError> {
        self.get(id).await?.ok_or_else(|| MachineError::Unknown(id.clone()))?;
        self.seen(id, subject, life, now).await
    }

    /// A machine is here. One that nothing is known of was enrolled in a store that is gone, and goes on while its certificates are renewed.
    ///
    /// # Errors
    /// It is another service's, or was away for longer than `life`.
    pub async fn seen(
        &self,
        id: &MachineId,
        subject: &Subject,
        life: Duration,
        now: SystemTime,
    ) -> Result<(), MachineError> {
        let now = seconds(now);
        loop {
            let Some((mut machine, revision)) = self.get(id).await? else { return Ok(()) };
            check(id, &machine, subject)?;
            let away = now.saturating_sub(machine.seen);
            if away > life.as_secs() {
                return Err(MachineError::Away { machine: id.clone(), away, life: life.as_secs() });
            }
            if away < (life / NOTED).as_secs() {
                return Ok(());
            }
            machine.seen = now;
            if self.put(id, &machine, Some(revision)).await? {
                return Ok(());
            }
        }
    }

    /// By what each machine was enrolled, as far as that is known.
    ///
    /// # Errors
    /// The store failed.
    pub async fn ways(&self) -> Result<BTreeMap<MachineId, String>, StoreError> {
        let way = |(key, entry): (String, weft_store::Entry)| {
            let machine: Machine = serde_json::from_slice(&entry.value).ok()?;
            Some((key.strip_prefix(FOLDER)?.to_owned(), machine.by?.way))
        };
        Ok(self.store.list(FOLDER).await?.into_iter().filter_map(way).collect())
    }

    /// The first of these machines that was enrolled by the same proof.
    ///
    /// # Errors
    /// The store failed.
    pub async fn enrolled_by(&self, node: &str, of: &[MachineId]) -> Result<Option<MachineId>, StoreError> {
        for id in of {
            let Some(entry) = self.store.get(&format!("{FOLDER}{id}")).await? else { continue };
            let by = serde_json::from_slice::<Machine>(&entry.value).ok().and_then(|machine| machine.by?.node);
            if by.as_deref() == Some(node) {
                return Ok(Some(id.clone()));
            }
        }
        Ok(None)
    }

    /// Forgets, now and then, machines that were away for so long that a day ago they could not have come back; of a banned one it must stay
    /// known by what it came. Not while the clock is being set ([`Sweeps`]). Where machines are made by the hour, each with a key of its own, there would be no end of them.
    ///
    /// # Errors
    /// The store failed.
    pub async fn sweep(&self, life: Duration, banned: &[MachineId], now: SystemTime) -> Result<(), StoreError> {
        const DAY: u64 = 24 * 3_600;
        if !self.sweeps.lock().unwrap_or_else(PoisonError::into_inner).is_time((Instant::now(), now)) {
            return Ok(());
        }
        for (key, entry) in self.store.list(FOLDER).await? {
            let id = key.strip_prefix(FOLDER).unwrap_or_default();
            let seen = serde_json::from_slice::<Machine>(&entry.value).map_or(0, |machine| machine.seen);
            if seen + life.as_secs() + DAY < seconds(now) && !banned.iter().any(|banned| banned == id) {
                self.store.compare_and_swap(&key, Some(entry.revision), None).await?;
            }
        }
        Ok(())
    }

    async fn get(&self, id: &MachineId) -> Result<Option<(Machine, u64)>, MachineError> {
        let key = format!("{FOLDER}{id}");
        let Some(entry) = self.store.get(&key).await? else { return Ok(None) };
        let machine = serde_json::from_slice(&entry.value).map_err(|_| MachineError::Unknown(id.clone()))?;
        Ok(Some((machine, entry.revision)))
    }

    /// Whether it was written: else somebody else has written it since `revision`.
    async fn put(&self, id: &MachineId, machine: &Machine, revision: Option<u64>) -> Result<bool, MachineError> {
        let value = serde_json::to_vec(machine).expect("strings and numbers are JSON");
        let swap = self.store.compare_and_swap(&format!("{FOLDER}{id}"), revision, Some(value)).await?;
        Ok(matches!(swap, Swap::Done(_)))
    }
}

fn check(id: &MachineId, machine: &Machine, subject: &Subject) -> Result<(), MachineError> {
    if machine.service != *subject {
        return Err(MachineError::OtherService {
            machine: id.clone(),
            enrolled: machine.service.clone(),
            asked: subject.clone(),
        });
    }
    Ok(())
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(600);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn token() -> By {
        By { way: "token".to_owned(), node: None }
    }

    #[tokio::test]
    async fn a_machine_may_be_away_for_its_life_and_no_longer() {
        let folder = tempfile::tempdir().unwrap();
        let machines = Machines::new(Store::open(folder.path()).unwrap());
        let (board, web): (Subject, Subject) = ("prod/board".parse().unwrap(), "prod/web".parse().unwrap());
        let id = "00112233445566aa".to_owned();
        let unknown = machines.returns(&id, &board, LIFE, at(0)).await.unwrap_err();
        assert!(matches!(unknown, MachineError::Unknown(_)), "{unknown}");
        machines.enrol(&id, &board, token(), at(0)).await.unwrap();
        machines.returns(&id, &board, LIFE, at(600)).await.unwrap();
        machines.seen(&id, &board, LIFE, at(1_200)).await.unwrap();
        machines.seen(&id, &board, LIFE, at(1_205)).await.unwrap(); // not written: too soon
        let away = machines.returns(&id, &board, LIFE, at(1_801)).await.unwrap_err();
        assert!(matches!(away, MachineError::Away { away: 601, life: 600, .. }), "{away}");
        let other = machines.returns(&id, &web, LIFE, at(1_300)).await.unwrap_err();
        assert!(matches!(other, MachineError::OtherService { .. }), "{other}");
        assert!(
            machines.may_enrol(&id, &web).await.is_err()
                && machines.enrol(&id, &web, token(), at(1_300)).await.is_err()
        );
        machines.enrol(&id, &board, token(), at(5_000)).await.unwrap();
        machines.returns(&id, &board, LIFE, at(5_600)).await.unwrap();
    }

    #[tokio::test]
    async fn it_is_known_by_what_a_machine_came_until_it_cannot_come_back_or_as_long_as_it_is_banned() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let machines = Machines::new(store.clone());
        let board: Subject = "prod/board".parse().unwrap();
        let [one, other] = ["aa", "bb"].map(str::to_owned);
        let by = |node: &str| By { way: "x509pop".to_owned(), node: Some(node.to_owned()) };
        machines.enrol(&one, &board, by("x509pop:1"), at(0)).await.unwrap();
        machines.enrol(&other, &board, token(), at(0)).await.unwrap();
        // As an older version has written it.
        store
            .put("machine/cc", br#"{"service": "prod/board", "enrolled": 0, "seen": 1800000000}"#.to_vec())
            .await
            .unwrap();
        let ways = machines.ways().await.unwrap();
        assert_eq!(
            ways.into_iter().collect::<Vec<_>>(),
            [("aa".into(), "x509pop".into()), ("bb".into(), "token".into())]
        );
        let all = [other.clone(), "cc".to_owned(), "dd".to_owned(), one.clone()];
        assert_eq!(machines.enrolled_by("x509pop:1", &all).await.unwrap(), Some(one.clone()));
        assert_eq!(machines.enrolled_by("x509pop:2", &all).await.unwrap(), None);
        let late = LIFE.as_secs() + 24 * 3_600;
        let an_hour_ago = Instant::now() - SWEEP;
        let since = |wall: u64| Machines::begun(store.clone(), (an_hour_ago, at(wall) - SWEEP));
        since(late).sweep(LIFE, &[], at(late)).await.unwrap();
        assert_eq!(store.list(FOLDER).await.unwrap().len(), 3, "they could have come back a day ago");
        since(0).sweep(LIFE, &[], at(late + 1)).await.unwrap();
        assert_eq!(store.list(FOLDER).await.unwrap().len(), 3, "the clock was set");
        since(late + 1).sweep(LIFE, &[one], at(late + 1)).await.unwrap();
        let left: Vec<String> = store.list(FOLDER).await.unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(left, ["machine/aa"]);
    }
}
