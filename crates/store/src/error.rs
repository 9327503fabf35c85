//! What can go wrong with the store, for the person who runs it.

use std::path::PathBuf;

/// Why the store refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or folder could not be used.
    #[error("cannot {what} {}: {source}", .path.display())]
    File {
        /// What was being done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Another process has the database open.
    #[error("{} is in use by another process; stop the other `weft server` or give this one its own state folder", .0.display())]
    InUse(PathBuf),
    /// The file is no database of ours, or is damaged.
    #[error(
        "{} is damaged or no store of weft ({why}); put a copy of the whole state folder back, or move the folder away to begin a new mesh, which every sidecar has to join again", .path.display()
    )]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// The engine's words.
        why: String,
    },
    /// The database itself failed.
    #[error("the store failed: {0}")]
    Database(#[from] Box<redb::Error>),
    /// The root key can be read by others.
    #[error("{} can be read by other users (mode {mode:o}); run: chmod 600 {}", .path.display(), .path.display())]
    ExposedRootKey {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The root key file does not hold a key.
    #[error("{} holds no root key: it must be 64 hexadecimal digits", .0.display())]
    BadRootKey(PathBuf),
    /// The root key is not the one that sealed this store.
    #[error("the root key in {} is not the one that sealed this store; put the original file back", .0.display())]
    WrongRootKey(PathBuf),
    /// The root key is gone.
    #[error("{} is missing, and this store cannot be opened without it; put a copy of it back", .0.display())]
    NoRootKey(PathBuf),
    /// No member of the etcd answers.
    #[error(
        "etcd does not answer; tried {tried} ({why}): a majority of its members has to run, and to be reached from this machine"
    )]
    Etcd {
        /// All members.
        tried: String,
        /// What each of them said last.
        why: String,
    },
    /// etcd answered that it will not do it.
    #[error("etcd at {member} refuses: {why}")]
    EtcdRefused {
        /// Which member.
        member: String,
        /// Its own words.
        why: String,
    },
    /// More than etcd takes.
    #[error("the value of `{key}` is too large for etcd: {size} bytes with its key, and at most {most} are possible")]
    TooLarge {
        /// What was to be written.
        key: String,
        /// Key and value, in bytes.
        size: usize,
        /// The most, in bytes.
        most: usize,
    },
    /// TLS without anybody to trust.
    #[error("etcds:// needs the certificate of etcd's authority: name its file with --store-ca")]
    NoEtcdAuthority,
    /// A certificate without its key, or the other way round.
    #[error("a client's certificate for etcd needs both --store-cert and --store-cert-key")]
    HalfEtcdCertificate,
    /// A file for TLS cannot be used.
    #[error("cannot use {} for TLS to etcd: {why}", .path.display())]
    EtcdFile {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// The key that the other servers have is not here.
    #[error(
        "{} is missing: all servers that share an etcd seal with one key; copy the file from another server (mode 0600)", .0.display()
    )]
    NoSharedKey(PathBuf),
    /// Another server sealed with another key.
    #[error(
        "the key in {} is not the one that sealed the folder `{folder}` of this etcd: copy the file from the server that began it, or name a folder of this mesh's own (etcd://HOST:PORT/FOLDER)", .path.display()
    )]
    WrongSharedKey {
        /// The key's file.
        path: PathBuf,
        /// The folder of etcd.
        folder: String,
    },
    /// Sealed bytes do not open under their key path: corrupted, moved or forged.
    #[error(
        "the sealed value `{0}` does not open: it was changed, moved from another key or sealed with another root key"
    )]
    Tampered(String),
    /// The work was cut off by the runtime's shutdown.
    #[error("the store is shutting down")]
    ShuttingDown,
}

impl StoreError {
    pub(crate) fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    pub(crate) fn database(error: impl Into<redb::Error>) -> Self {
        Self::Database(Box::new(error.into()))
    }
}
