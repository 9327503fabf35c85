//! `weft identity ban` and `weft identity unban`.

use std::path::PathBuf;

use anyhow::Result;
use weft_control::status::{BanRequest, TrustStatus};

use super::{admin_token, keys};
use crate::http::Api;
use crate::output::Format;

/// Arguments of `weft identity ban`.
#[derive(Debug, clap::Args)]
pub(crate) struct BanArgs {
    #[command(flatten)]
    who: Who,
    /// Why, for whoever is refused and for those who read the log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    at: At,
}

/// Arguments of `weft identity unban`.
#[derive(Debug, clap::Args)]
pub(crate) struct UnbanArgs {
    #[command(flatten)]
    who: Who,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Who {
    /// A service like prod/web, or a SPIFFE ID: all that have this identity
    who: Option<String>,
    /// The certificate of this serial number, in hexadecimal; whoever has it may get another
    #[arg(long, value_name = "HEX")]
    serial: Option<String>,
    /// A machine, by the name that its sidecar's log and its certificate have: it cannot come back either
    #[arg(long, value_name = "NAME")]
    machine: Option<String>,
}

#[derive(Debug, clap::Args)]
struct At {
    /// The control plane's API
    #[arg(long, value_name = "HOST:PORT", env = "WEFT_API", default_value = "127.0.0.1:7000")]
    server: String,
    /// The control plane's state folder, which has the admin token
    #[arg(long, alias = "state", value_name = "FOLDER", env = "WEFT_SERVER_STATE", default_value = "weft-server")]
    state_dir: PathBuf,
    /// How it is printed
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

impl Who {
    fn text(self) -> String {
        let serial = self.serial.map(|serial| format!("serial:{serial}"));
        let machine = self.machine.map(|machine| format!("machine:{machine}"));
        self.who.or(serial).or(machine).unwrap_or_default()
    }
}

pub(super) async fn ban(args: BanArgs) -> Result<()> {
    post("/api/identity/ban", args.who, args.reason, args.at).await
}

pub(super) async fn unban(args: UnbanArgs) -> Result<()> {
    post("/api/identity/unban", args.who, String::new(), args.at).await
}

async fn post(path: &str, who: Who, reason: String, at: At) -> Result<()> {
    let admin = admin_token(&at.state_dir)?;
    let wanted = BanRequest { who: who.text(), reason };
    let trust: TrustStatus = Api::new(at.server).post(path, &admin, &wanted).await?;
    keys::print(&trust, at.output)
}
