//! Why an upstream CA has not signed.

use std::path::PathBuf;

/// Why an upstream CA has not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// A file cannot be used.
    #[error("cannot use {}: {why}", file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why not, and what to do.
        why: String,
    },
    /// The CA may not, or cannot, sign what is needed.
    #[error("{what} cannot sign issuing CAs of this mesh: {why}")]
    Unfit {
        /// Which CA.
        what: String,
        /// Why not, and what to do.
        why: String,
    },
    /// It cannot be reached, or is not able to answer now.
    #[error("{url} does not answer: {why}")]
    Away {
        /// Where it should be.
        url: String,
        /// Why not.
        why: String,
    },
    /// It answered no.
    #[error("{url} refused to {what}: {why}")]
    Refused {
        /// Where.
        url: String,
        /// What was asked.
        what: &'static str,
        /// Its own words.
        why: String,
    },
    /// Somebody has to sign the request by hand.
    #[error(
        "the request in {} waits to be signed by the offline root: see `weft identity root sign`, then `weft identity root install`",
        request.display()
    )]
    Waiting {
        /// The request, PEM.
        request: PathBuf,
    },
}

impl UpstreamError {
    /// Whether the same attempt may succeed later without anybody having corrected something here.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Away { .. } | Self::Waiting { .. })
    }

    pub(crate) fn file(file: &std::path::Path, why: impl ToString) -> Self {
        Self::File { file: file.to_owned(), why: why.to_string() }
    }
}
