//! The admin token: who can read the control plane's state folder may make join tokens, and nobody else.
//!
//! A loopback address proves nothing: every local user, every container on the host's network and every forwarded port has one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::HeaderMap;
use http::header::AUTHORIZATION;

/// Its file in the state folder, mode 0600.
const FILE: &str = "admin.token";
/// 32 random bytes in hexadecimal digits.
const LENGTH: usize = 64;

/// Where the admin token of a control plane with this state folder is.
pub fn path(state: &Path) -> PathBuf {
    state.join(FILE)
}

/// The admin token in the state folder of a control plane, for a command that runs beside it.
///
/// # Errors
/// The file is not there, is not readable for this user, or is no token (`InvalidData`).
pub fn read(state: &Path) -> io::Result<String> {
    let text = fs::read_to_string(path(state))?.trim().to_owned();
    let whole = text.len() == LENGTH && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    whole.then_some(text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "this is no admin token"))
}

/// What the API compares with. Never `Debug`: it is a secret.
#[derive(Clone)]
pub(crate) struct AdminToken(String);

impl AdminToken {
    /// The token in the state folder. It is made anew if it is missing, damaged, or was readable for others.
    pub(crate) fn open(state: &Path) -> io::Result<Self> {
        let path = path(state);
        match fs::metadata(&path) {
            Ok(file) if file.permissions().mode() & 0o077 == 0 => match read(state) {
                Ok(token) => return Ok(Self(token)),
                Err(error) => tracing::warn!(file = %path.display(), %error, "making a new admin token"),
            },
            Ok(_) => tracing::warn!(file = %path.display(), "others could read the admin token; making a new one"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut secret = [0; LENGTH / 2];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| io::Error::other("the system gives no random numbers"))?;
        let token: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let draft = path.with_extension("new");
        let _ = fs::remove_file(&draft); // of a run that was cut off, if there is one
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        writeln!(file, "{token}")?;
        file.sync_all()?;
        fs::rename(&draft, &path)?;
        Ok(Self(token))
    }

    /// Whether a request has `Authorization: Bearer` (RFC 6750 s.2.1) with this token; compared in constant time.
    pub(crate) fn allows(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.split_once(' '));
        given.is_some_and(|(scheme, token)| {
            scheme.eq_ignore_ascii_case("bearer")
                && verify_slices_are_equal(token.trim().as_bytes(), self.0.as_bytes()).is_ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(text: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, text.parse().expect("legal"))])
    }

    #[test]
    fn the_token_lasts_and_is_for_its_owner_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = AdminToken::open(folder.path()).expect("it can be made");
        assert_eq!(fs::metadata(path(folder.path())).expect("a file").permissions().mode() & 0o777, 0o600);
        let text = read(folder.path()).expect("it can be read");
        assert_eq!(AdminToken::open(folder.path()).expect("it is there").0, text);
        assert!(made.allows(&bearer(&format!("Bearer {text}"))));
        for wrong in [format!("Basic {text}"), "Bearer ".to_owned(), format!("Bearer {text}0"), text.clone()] {
            assert!(!made.allows(&bearer(&wrong)), "{wrong}");
        }
        assert!(!made.allows(&HeaderMap::new()));
    }

    #[test]
    fn one_that_others_could_read_or_that_is_damaged_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = AdminToken::open(folder.path()).expect("it can be made").0;
        fs::set_permissions(path(folder.path()), fs::Permissions::from_mode(0o644)).expect("chmod");
        let second = AdminToken::open(folder.path()).expect("it can be made").0;
        assert_ne!(first, second);
        fs::write(path(folder.path()), "short").expect("written");
        assert!(read(folder.path()).is_err());
        assert_ne!(AdminToken::open(folder.path()).expect("it can be made").0, second);
    }
}
