//! The machines that were enrolled: by which key a workload that was here once comes back, and how long it may be away.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use weft_identity::MachineId;
use weft_model::Subject;
use weft_store::{Store, StoreError, Swap};

const FOLDER: &str = "machine/";
/// That a machine was seen is written this many times in the life that it may be away, and not at each renewal.
const NOTED: u32 = 60;

/// Why a machine gets nothing.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// No such machine.
    #[error("machine {0} is not enrolled here; start the workload with a new join token")]
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
        "machine {machine} was away for {away} s, longer than `Mesh.identity.machineLife` ({life} s); start the workload with a new join token"
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
}

/// The machines of a mesh.
#[derive(Clone, Debug)]
pub struct Machines {
    store: Store,
}

impl Machines {
    /// Machines in `store`.
    pub fn new(store: Store) -> Self {
        Self { store }
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

    /// Enrols a machine that came with a join token; one that was enrolled before begins anew.
    ///
    /// # Errors
    /// It is another service's.
    pub async fn enrol(&self, id: &MachineId, subject: &Subject, now: SystemTime) -> Result<(), MachineError> {
        let now = seconds(now);
        let machine = Machine { service: subject.clone(), enrolled: now, seen: now };
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

    #[tokio::test]
    async fn a_machine_may_be_away_for_its_life_and_no_longer() {
        let folder = tempfile::tempdir().unwrap();
        let machines = Machines::new(Store::open(folder.path()).unwrap());
        let (board, web): (Subject, Subject) = ("prod/board".parse().unwrap(), "prod/web".parse().unwrap());
        let id = "00112233445566aa".to_owned();
        let unknown = machines.returns(&id, &board, LIFE, at(0)).await.unwrap_err();
        assert!(matches!(unknown, MachineError::Unknown(_)), "{unknown}");
        machines.enrol(&id, &board, at(0)).await.unwrap();
        machines.returns(&id, &board, LIFE, at(600)).await.unwrap();
        machines.seen(&id, &board, LIFE, at(1_200)).await.unwrap();
        machines.seen(&id, &board, LIFE, at(1_205)).await.unwrap(); // not written: too soon
        let away = machines.returns(&id, &board, LIFE, at(1_801)).await.unwrap_err();
        assert!(matches!(away, MachineError::Away { away: 601, life: 600, .. }), "{away}");
        let other = machines.returns(&id, &web, LIFE, at(1_300)).await.unwrap_err();
        assert!(matches!(other, MachineError::OtherService { .. }), "{other}");
        assert!(machines.may_enrol(&id, &web).await.is_err() && machines.enrol(&id, &web, at(1_300)).await.is_err());
        machines.enrol(&id, &board, at(5_000)).await.unwrap();
        machines.returns(&id, &board, LIFE, at(5_600)).await.unwrap();
    }
}
