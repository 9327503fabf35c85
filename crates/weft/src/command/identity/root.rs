//! `weft identity root`: a root that is kept apart from all servers, and what it signs.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use weft_control::status::InstallRequest;
use weft_identity::ca::rfc3339;
use weft_identity::certificate::{parse, validity};
use weft_model::TrustDomain;
use weft_model::time::length;
use weft_upstream::{KeptRoot, is_sealed, kept_files, key_name, pem_text};

use super::admin_token;
use crate::http::Api;
use crate::output::{hinted, say};

/// What a passphrase has to have.
const SHORTEST: usize = 12;

/// A root that is kept apart
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Root {
    /// Make a root in a folder of its own: root.pem, which servers are started with (--offline-root), and root.key, which stays where it is
    Make(MakeArgs),
    /// Sign the request that a server has written. Run it where the root is
    Sign(SignArgs),
    /// Give a server what the root has signed. Run it on the control plane's machine, as its user
    Install(InstallArgs),
}

/// Arguments of `weft identity root make`.
#[derive(Debug, clap::Args)]
pub(crate) struct MakeArgs {
    /// The folder; made with mode 0700
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// The mesh's trust domain
    #[arg(long, value_name = "NAME")]
    trust_domain: TrustDomain,
    /// How long it lives
    #[arg(long, value_name = "TIME", default_value = "3650d", value_parser = length)]
    life: Duration,
    #[command(flatten)]
    key: NewKeyArgs,
}

/// How a new key is kept.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(crate) struct NewKeyArgs {
    /// A file with the passphrase that the key is put under, one line; - for standard input
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Without a passphrase, readable for its owner alone: for a medium that is locked away itself
    #[arg(long)]
    plain: bool,
}

/// Arguments of `weft identity root sign`.
#[derive(Debug, clap::Args)]
pub(crate) struct SignArgs {
    /// The folder of the root
    #[arg(long, value_name = "FOLDER")]
    root: PathBuf,
    /// The server's request, PEM
    request: PathBuf,
    /// How long the server's issuing CA lives; it asks for the next one at half of that
    #[arg(long, value_name = "TIME", default_value = "180d", value_parser = length)]
    life: Duration,
    /// A file with the passphrase of the root's key, one line; - for standard input
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Where the certificate is written [default: standard output]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Arguments of `weft identity root install`.
#[derive(Debug, clap::Args)]
pub(crate) struct InstallArgs {
    /// What the root has signed, PEM; after it those between it and the root, if there are any
    chain: PathBuf,
    /// The control plane's API
    #[arg(long, value_name = "HOST:PORT", env = "WEFT_API", default_value = "127.0.0.1:7000")]
    server: String,
    /// The control plane's state folder, which has the admin token
    #[arg(long, alias = "state", value_name = "FOLDER", env = "WEFT_SERVER_STATE", default_value = "weft-server")]
    state_dir: PathBuf,
}

pub(super) async fn run(command: Root) -> Result<()> {
    match command {
        Root::Make(args) => make(&args),
        Root::Sign(args) => sign(&args),
        Root::Install(args) => install(args).await,
    }
}

fn make(args: &MakeArgs) -> Result<()> {
    let passphrase = args.key.passphrase_file.as_deref().map(passphrase).transpose()?;
    if passphrase.as_ref().is_some_and(|passphrase| passphrase.len() < SHORTEST) {
        return Err(hinted(
            format!("the passphrase has less than {SHORTEST} characters"),
            "whoever gets the file can try as many as he likes: take five words at random",
        ));
    }
    let now = SystemTime::now();
    let root = KeptRoot::make(&args.out, &args.trust_domain, passphrase.as_deref(), args.life, now)?;
    let (certificate, key) = kept_files(&args.out);
    let name = key_name(root.certificate()).map_err(anyhow::Error::msg)?;
    say(format_args!("root {name} of {}, until {}\n", root.trust_domain(), rfc3339(root.not_after())));
    say(format_args!("  {}  for every server: weft server --offline-root\n", certificate.display()));
    let kept = if args.key.plain { "plain: lock it away" } else { "under its passphrase" };
    say(format_args!("  {}  stays here, {kept}\n", key.display()));
    Ok(())
}

fn sign(args: &SignArgs) -> Result<()> {
    let passphrase = match (&args.passphrase_file, is_sealed(&args.root)?) {
        (Some(file), _) => Some(passphrase(file)?),
        (None, false) => None,
        (None, true) => {
            return Err(hinted(
                "the root's key is under a passphrase",
                "give it with --passphrase-file, or - for standard input",
            ));
        }
    };
    let root = KeptRoot::open(&args.root, passphrase.as_deref())?;
    let request = read(&args.request)?;
    let signed = root.sign(&request, args.life, SystemTime::now()).map_err(|why| {
        hinted(
            format!("{} was not signed: {why}", args.request.display()),
            "take the file that `weft identity tree` of the server names",
        )
    })?;
    let end = validity(&parse(&signed)?).1;
    let name = key_name(&signed).map_err(anyhow::Error::msg)?;
    let pem = pem_text("CERTIFICATE", &signed);
    match &args.out {
        Some(file) => std::fs::write(file, pem).with_context(|| format!("writing {}", file.display()))?,
        None => say(format_args!("{pem}")),
    }
    eprintln!("signed issuing CA {name} of {}, until {}", root.trust_domain(), rfc3339(end));
    Ok(())
}

async fn install(args: InstallArgs) -> Result<()> {
    let admin = admin_token(&args.state_dir)?;
    let wanted = InstallRequest { chain: read(&args.chain)? };
    let _: serde_json::Value = Api::new(args.server).post("/api/identity/issuing", &admin, &wanted).await?;
    say(format_args!("installed; it signs when everybody holds its root: see `weft identity tree`\n"));
    Ok(())
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))
}

/// The one line of a file, or of standard input.
fn passphrase(file: &Path) -> Result<String> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("reading the passphrase")?;
        text
    } else {
        read(file)?
    };
    let line = text.trim_end_matches(['\r', '\n']);
    if line.is_empty() || line.contains(['\r', '\n']) {
        return Err(hinted("a passphrase is one line", "give the file or the input that has it alone"));
    }
    Ok(line.to_owned())
}
