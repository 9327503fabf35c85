//! What a URL of a repository says, and what of it may be shown.

use std::path::Path;

use super::error::GitError;

/// Where a repository is.
#[derive(Debug)]
pub(super) enum Place<'a> {
    Local(&'a Path),
    Remote(&'a str),
}

/// Reads a URL; refuses what cannot be, or must not be, a source of intent.
pub(super) fn place(url: &str) -> Result<Place<'_>, GitError> {
    let refuse = |why| Err(GitError::Url { url: safe(url), why });
    if let Some(path) = url.strip_prefix("file://") {
        return match path.strip_prefix("localhost").unwrap_or(path) {
            path if path.starts_with('/') => Ok(Place::Local(Path::new(path))),
            _ => refuse("a file:// URL has three slashes and an absolute path, like file:///srv/intent.git"),
        };
    }
    if url.starts_with("https://") {
        return Ok(Place::Remote(url));
    }
    if let Some(rest) = url.strip_prefix("http://") {
        let host = rest.split(['/', '?']).next().unwrap_or_default();
        let host = host.rsplit('@').next().unwrap_or_default();
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        return match host {
            "localhost" | "127.0.0.1" | "[::1]" => Ok(Place::Remote(url)),
            _ => refuse("whoever can change what comes over http:// owns the mesh; use https://"),
        };
    }
    if url.contains("://") || (url.contains('@') && url.contains(':')) {
        return refuse("use a path, file:// or https://");
    }
    if url.is_empty() {
        return refuse("name a path, or a file:// or https:// URL");
    }
    Ok(Place::Local(Path::new(url)))
}

/// The URL without what logs in, for whoever reads logs and status.
pub fn safe(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://{host}{path}"),
        None => url.to_owned(),
    }
}

/// A text that may quote the URL, in whatever spelling, without what logs in.
pub(super) fn without_secrets(text: &str, url: &str) -> String {
    let mut text: String = text.split_inclusive(char::is_whitespace).map(safe).collect();
    let login = url
        .split_once("://")
        .and_then(|(_, rest)| rest.split('/').next())
        .and_then(|authority| authority.rsplit_once('@'))
        .map(|(login, _)| login);
    // GitHub takes a token as the user, without a password.
    let secret = login.map(|login| login.split_once(':').map_or(login, |(_, password)| password)).unwrap_or_default();
    let plain = gix::url::parse(url).ok().and_then(|url| url.password().map(str::to_owned)).unwrap_or_default();
    for secret in [secret, &plain] {
        if !secret.is_empty() {
            text = text.replace(secret, "***");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(safe("https://me:secret@h.example/x.git"), "https://h.example/x.git");
        assert_eq!(safe("https://h.example/a@b"), "https://h.example/a@b");
        assert_eq!(safe("/srv/a@b"), "/srv/a@b");
        let url = "https://me:secret@h.example/x.git";
        assert_eq!(
            without_secrets(&format!("could not reach {url} with secret"), url),
            "could not reach https://h.example/x.git with ***"
        );
        let encoded = "https://me:s%40fe@h.example/x.git";
        assert_eq!(without_secrets("s@fe, s%40fe (https://me:x@h/)", encoded), "***, *** (https://h/)");
        assert_eq!(without_secrets("bad token t0ken", "https://t0ken@h.example/x.git"), "bad token ***");
        assert_eq!(without_secrets("as it is", "https://h.example/x.git"), "as it is");
    }
}
