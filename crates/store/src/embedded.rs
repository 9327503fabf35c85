//! The store in one file on this machine, by redb: copy on write, each commit on disk before it returns.

use std::fmt;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::{Mutex, PoisonError, RwLock};

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition, WriteTransaction};

use crate::entry::Expect;
use crate::watch::{Change, Event, Watchers};
use crate::{Entry, StoreError, Swap};

/// Key -> revision of its last write, value.
const VALUES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("values");
/// Counters of the store itself.
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
const REVISION: &str = "revision";

type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

pub(crate) struct Embedded {
    open: Box<dyn Fn() -> Result<Database, StoreError> + Send + Sync>,
    /// `None` between an error of the disk and the time when the file can be opened again.
    database: RwLock<Option<Database>>,
    /// Held from the start of a write until its event is out, so that watchers see writes in the order of their revisions.
    writing: Mutex<()>,
}

impl Embedded {
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let file = path.to_owned();
        Self::open_with(path, Box::new(move || Database::create(&file)))
    }

    fn open_with(path: &Path, open: Opener) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let open = Box::new(move || open().map_err(|error| explain(&path, error)));
        let database = open()?;
        let transaction = database.begin_write().map_err(StoreError::database)?;
        transaction.open_table(VALUES).map_err(StoreError::database)?;
        transaction.open_table(COUNTERS).map_err(StoreError::database)?;
        transaction.commit().map_err(StoreError::database)?;
        Ok(Self { open, database: RwLock::new(Some(database)), writing: Mutex::new(()) })
    }

    /// Does something with the database. After an error of the disk (it is full, say) redb refuses everything until it is opened again,
    /// which is then done first; what was committed before is all there.
    fn with<T>(&self, work: impl Fn(&Database) -> Result<T, StoreError>) -> Result<T, StoreError> {
        if let Some(database) = &*self.database.read().unwrap_or_else(PoisonError::into_inner) {
            match work(database) {
                Err(StoreError::Database(error)) if matches!(*error, redb::Error::PreviousIo) => {}
                result => return result,
            }
        }
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        drop(database.take()); // it holds the lock on the file
        let opened = (self.open)()?;
        tracing::info!("the store was opened again after an error of the disk");
        work(database.insert(opened))
    }

    pub(crate) fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.with(|database| Self::get_from(database, key))
    }

    fn get_from(database: &Database, key: &str) -> Result<Option<Entry>, StoreError> {
        let transaction = database.begin_read().map_err(StoreError::database)?;
        let values = transaction.open_table(VALUES).map_err(StoreError::database)?;
        let found = values.get(key).map_err(StoreError::database)?;
        Ok(found.map(|guard| Entry::from(guard.value())))
    }

    pub(crate) fn list(&self, prefix: &str) -> Result<Vec<(String, Entry)>, StoreError> {
        self.with(|database| Self::list_from(database, prefix))
    }

    fn list_from(database: &Database, prefix: &str) -> Result<Vec<(String, Entry)>, StoreError> {
        let transaction = database.begin_read().map_err(StoreError::database)?;
        let values = transaction.open_table(VALUES).map_err(StoreError::database)?;
        let mut found = Vec::new();
        for item in values.range(prefix..).map_err(StoreError::database)? {
            let (key, value) = item.map_err(StoreError::database)?;
            if !key.value().starts_with(prefix) {
                break;
            }
            found.push((key.value().to_owned(), Entry::from(value.value())));
        }
        Ok(found)
    }

    /// Writes `value` (`None` deletes) if the key is as expected, and tells the watchers.
    pub(crate) fn write(
        &self,
        key: &str,
        expect: Expect,
        value: Option<&[u8]>,
        watchers: &Watchers,
    ) -> Result<Swap, StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let swap = self.with(|database| Self::write_to(database, key, expect, value))?;
        if let Swap::Done(revision) = swap {
            let change = value.map_or(Change::Deleted, |bytes| Change::Put(bytes.into()));
            watchers.tell(Event { key: key.into(), revision, change });
        }
        Ok(swap)
    }

    fn write_to(database: &Database, key: &str, expect: Expect, value: Option<&[u8]>) -> Result<Swap, StoreError> {
        let transaction = database.begin_write().map_err(StoreError::database)?;
        let swap = Self::write_in(&transaction, key, expect, value)?;
        if let Swap::Done(_) = swap {
            transaction.commit().map_err(StoreError::database)?;
        }
        Ok(swap)
    }

    /// Writes all of them, whatever was there, in one transaction, and tells the watchers.
    pub(crate) fn write_all(
        &self,
        writes: &[(String, Option<Vec<u8>>)],
        watchers: &Watchers,
    ) -> Result<(), StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let done = self.with(|database| {
            let transaction = database.begin_write().map_err(StoreError::database)?;
            let write = |(key, value): &(String, Option<Vec<u8>>)| {
                Self::write_in(&transaction, key, Expect::Anything, value.as_deref())
            };
            let done = writes.iter().map(write).collect::<Result<Vec<_>, _>>()?;
            transaction.commit().map_err(StoreError::database)?;
            Ok(done)
        })?;
        for ((key, value), swap) in writes.iter().zip(done) {
            if let Swap::Done(revision) = swap {
                let change = value.as_deref().map_or(Change::Deleted, |bytes| Change::Put(bytes.into()));
                watchers.tell(Event { key: key.as_str().into(), revision, change });
            }
        }
        Ok(())
    }

    /// One write of a transaction, which is the caller's to commit.
    fn write_in(
        transaction: &WriteTransaction,
        key: &str,
        expect: Expect,
        value: Option<&[u8]>,
    ) -> Result<Swap, StoreError> {
        let mut values = transaction.open_table(VALUES).map_err(StoreError::database)?;
        let present = values.get(key).map_err(StoreError::database)?.map(|guard| Entry::from(guard.value()));
        if let Expect::Revision(expected) = expect
            && expected != present.as_ref().map(|entry| entry.revision)
        {
            return Ok(Swap::Conflict(present));
        }
        if value.is_none() && present.is_none() {
            return Ok(Swap::Conflict(None));
        }
        let mut counters = transaction.open_table(COUNTERS).map_err(StoreError::database)?;
        let last = counters.get(REVISION).map_err(StoreError::database)?.map_or(0, |guard| guard.value());
        let revision = last + 1;
        counters.insert(REVISION, revision).map_err(StoreError::database)?;
        match value {
            Some(bytes) => values.insert(key, (revision, bytes)).map_err(StoreError::database)?,
            None => values.remove(key).map_err(StoreError::database)?,
        };
        Ok(Swap::Done(revision))
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

fn explain(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse(path.to_owned()),
        DatabaseError::Storage(StorageError::Corrupted(why)) => StoreError::Corrupt { path: path.to_owned(), why },
        DatabaseError::Storage(StorageError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
            StoreError::Corrupt { path: path.to_owned(), why: error.to_string() }
        }
        other => StoreError::database(other),
    }
}

#[cfg(test)]
mod tests;
