//! Where an etcd is, as a person writes it.

use std::path::PathBuf;
use std::str::FromStr;

/// Under which folder of etcd a mesh keeps its keys, unless the address says another.
const DEFAULT_FOLDER: &str = "weft";

/// `etcd://HOST:PORT,HOST:PORT,…[/FOLDER]`, or `etcds://…` for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdAddress {
    /// Its members, `host:port`, in the order in which they are tried.
    pub members: Vec<String>,
    /// Every key of this mesh starts with this and a slash. Meshes that share an etcd have different ones.
    pub folder: String,
    /// Whether members are talked to by TLS.
    pub tls: bool,
}

/// What TLS to etcd needs: PEM files.
#[derive(Clone, Debug, Default)]
pub struct EtcdFiles {
    /// Certificates of the authorities that etcd's certificate may be signed by.
    pub ca: Option<PathBuf>,
    /// The client's certificate chain, where etcd demands one.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// Why a text is no address of an etcd.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` {why}; write etcd://HOST:PORT,HOST:PORT,HOST:PORT, with /FOLDER at its end if several meshes share it"
)]
pub struct BadEtcdAddress {
    text: String,
    why: &'static str,
}

impl FromStr for EtcdAddress {
    type Err = BadEtcdAddress;

    fn from_str(text: &str) -> Result<Self, BadEtcdAddress> {
        let bad = |why| BadEtcdAddress { text: text.to_owned(), why };
        let (tls, rest) = match (text.strip_prefix("etcd://"), text.strip_prefix("etcds://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(bad("is no address of an etcd")),
        };
        if rest.contains('@') {
            let why = "has a user name: etcd knows a client by the common name of its certificate (etcds:// and --store-cert)";
            return Err(BadEtcdAddress { text: "the address".to_owned(), why }); // what stands there may be a password
        }
        let (members, folder) = rest.split_once('/').unwrap_or((rest, DEFAULT_FOLDER));
        let folder = if folder.is_empty() { DEFAULT_FOLDER } else { folder };
        if !folder.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            return Err(bad("has a folder that is not of letters, digits, `-`, `_` and `.`"));
        }
        let members: Vec<String> = members.split(',').map(str::to_owned).collect();
        if !members.iter().all(|member| is_host_and_port(member)) {
            return Err(bad("has a member that is not HOST:PORT"));
        }
        Ok(Self { members, folder: folder.to_owned(), tls })
    }
}

fn is_host_and_port(member: &str) -> bool {
    let plain = |host: &str| !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    let is_host = |host: &str| match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => plain(host),
    };
    member.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_members_folder_and_tls() {
        let address: EtcdAddress = "etcd://a:2379,10.0.0.2:2379,[::1]:2379".parse().unwrap();
        assert_eq!(address.members, ["a:2379", "10.0.0.2:2379", "[::1]:2379"]);
        assert_eq!((&*address.folder, address.tls), ("weft", false));
        let address: EtcdAddress = "etcds://a:2379/acme".parse().unwrap();
        assert_eq!((&*address.folder, address.tls), ("acme", true));
        assert_eq!("etcd://a:1/".parse::<EtcdAddress>().unwrap().folder, "weft");
    }

    #[test]
    fn a_bad_address_says_how_to_write_it_and_tells_no_password() {
        for text in ["", "http://a:2379", "etcd://", "etcd://a", "etcd://a:0", "etcd://a:1,", "etcd://a:1/b/c"] {
            let error = text.parse::<EtcdAddress>().unwrap_err().to_string();
            assert!(error.contains(text) && error.contains("etcd://HOST:PORT"), "{error}");
        }
        let error = "etcd://root:hunter2@a:1".parse::<EtcdAddress>().unwrap_err().to_string();
        assert!(!error.contains("hunter2") && error.contains("--store-cert"), "{error}");
    }
}
