//! `weft identity`: join tokens, certificates for programs that are no sidecars, and the keys that vouch for all of them.

mod asked;
mod bans;
mod federation;
mod keys;
mod root;
mod shown;

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use weft_control::admin;
use weft_control::status::{JoinTokenAnswer, JoinTokenRequest};
use weft_identity::JoinToken;
use weft_model::{AgentName, ServiceName, Subject};

use crate::http::Api;
use crate::output::{Format, hinted, say, span, unix_now};

/// Join tokens and certificates
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Identity {
    /// Make a one-time join token, with which a sidecar becomes a service, or a machine's agent itself. Run it on the control plane's machine, as its user
    #[command(alias = "token")]
    JoinToken(JoinTokenArgs),
    /// Show who has a certificate that lives, until when, and who is late or banned
    List(shown::ListArgs),
    /// Show the certificates of one service, machine or serial number, and what became of it last
    Show(shown::ShowArgs),
    /// Show what became of identities: tokens, attestations, renewals, refusals, bans and keys
    Log(shown::LogArgs),
    /// Show the roots that the mesh vouches with, and who does not hold the newest bundle yet
    Tree(keys::TreeArgs),
    /// Show the other trust domains, and how it is going with their bundles
    Federation(federation::Args),
    /// Print the trust bundle as other trust domains get it: a SPIFFE bundle document
    Bundle(federation::BundleArgs),
    /// Replace the root, by plan or because its key is in wrong hands, while calls go on. Run it on the control plane's machine, as its user
    Rotate(keys::RotateArgs),
    /// Take a service, a certificate or a machine out of the mesh at once: nothing is issued to it, nobody takes it, its open connections are cut
    Ban(bans::BanArgs),
    /// Lift a ban
    Unban(bans::UnbanArgs),
    /// Show which identities the process that runs this has by the agent of its machine, or by another SPIFFE Workload API
    Ask(asked::AskArgs),
    /// Keep the mesh's root apart from its servers, and sign their issuing CAs by hand
    #[command(subcommand)]
    Root(root::Root),
    /// Exchange a join token for a certificate, a key and the trust bundle as PEM files
    Fetch(FetchArgs),
}

/// Arguments of `weft identity join-token`.
#[derive(Debug, clap::Args)]
pub(crate) struct JoinTokenArgs {
    /// Which service it may become
    #[arg(long, value_name = "NAMESPACE/NAME", required_unless_present = "agent")]
    service: Option<ServiceName>,
    /// Which machine's agent (`weft agent`) it may become
    #[arg(long, value_name = "NAME", conflicts_with = "service")]
    agent: Option<AgentName>,
    /// How long it can be redeemed, from 1s to 24h
    #[arg(long, default_value = "10m")]
    ttl: String,
    /// The control plane's API
    #[arg(long, value_name = "HOST:PORT", env = "WEFT_API", default_value = "127.0.0.1:7000")]
    server: String,
    /// The control plane's state folder, which has the admin token
    #[arg(long, alias = "state", value_name = "FOLDER", env = "WEFT_SERVER_STATE", default_value = "weft-server")]
    state_dir: PathBuf,
    /// How it is printed: as text, the token alone on standard output
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// Arguments of `weft identity fetch`.
#[derive(Debug, clap::Args)]
pub(crate) struct FetchArgs {
    /// Which service this is
    #[arg(long, value_name = "NAMESPACE/NAME")]
    service: ServiceName,
    /// The token from `weft identity join-token`
    #[arg(long, value_name = "TOKEN", env = "WEFT_JOIN_TOKEN", hide_env_values = true)]
    join_token: String,
    /// Folder for cert.pem, key.pem and bundle.pem
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    out: PathBuf,
    /// The control plane's xDS and identity port
    #[arg(long, alias = "xds", value_name = "HOST:PORT", env = "WEFT_SERVER", default_value = "127.0.0.1:15010")]
    server: String,
    /// How the result is printed
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(crate) async fn run(command: Identity) -> Result<()> {
    match command {
        Identity::JoinToken(args) => join_token(args).await,
        Identity::List(args) => shown::list(args).await,
        Identity::Show(args) => shown::show(args).await,
        Identity::Log(args) => shown::log(args).await,
        Identity::Tree(args) => keys::tree(args).await,
        Identity::Federation(args) => federation::show(args).await,
        Identity::Bundle(args) => federation::bundle(args).await,
        Identity::Rotate(args) => keys::rotate(args).await,
        Identity::Ban(args) => bans::ban(args).await,
        Identity::Unban(args) => bans::unban(args).await,
        Identity::Ask(args) => asked::ask(args).await,
        Identity::Root(command) => root::run(command).await,
        Identity::Fetch(args) => fetch(args).await,
    }
}

async fn join_token(args: JoinTokenArgs) -> Result<()> {
    let admin = admin_token(&args.state_dir)?;
    let subject = args.agent.map(Subject::Agent).or_else(|| args.service.map(Subject::Service));
    let wanted = JoinTokenRequest { service: subject.map_or_else(String::new, |it| it.to_string()), ttl: args.ttl };
    let answer: JoinTokenAnswer = Api::new(args.server).post("/api/join-tokens", &admin, &wanted).await?;
    match args.output {
        Format::Json => say(format_args!("{}\n", serde_json::to_string_pretty(&answer)?)),
        Format::Text => {
            say(format_args!("{}\n", answer.token));
            let left = span(answer.expires_at.saturating_sub(unix_now()));
            let who = if answer.service.parse::<ServiceName>().is_ok() { "sidecar" } else { "machine" };
            eprintln!("one {who} can become {} with it within {left}", answer.service);
        }
    }
    Ok(())
}

/// The admin token of the control plane with this state folder.
pub(crate) fn admin_token(state: &Path) -> Result<String> {
    admin::read(state).map_err(|error| {
        let file = admin::path(state);
        let hint = match (error.kind(), owner(state)) {
            (ErrorKind::PermissionDenied, Some(owner)) => format!("run this as the user of `weft server`: {owner}"),
            (ErrorKind::NotFound, _) => "name the state folder of `weft server` on this machine with --state-dir or \
                 WEFT_SERVER_STATE; the server makes the token when it starts"
                .to_owned(),
            (ErrorKind::InvalidData, _) => "start `weft server` again, which makes a new one".to_owned(),
            _ => "run this as the user of `weft server`, and name its state folder with --state-dir".to_owned(),
        };
        hinted(format!("cannot read the admin token {}: {error}", file.display()), hint)
    })
}

/// Name or number of the user whose folder it is.
fn owner(folder: &Path) -> Option<String> {
    let uid = std::fs::metadata(folder).ok()?.uid();
    let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
    Some(user.map_or_else(|| uid.to_string(), |user| user.name))
}

async fn fetch(args: FetchArgs) -> Result<()> {
    if args.join_token.trim().is_empty() {
        return Err(hinted(
            "there is no join token",
            "make one with `weft identity join-token` and give it with --join-token",
        ));
    }
    let token: JoinToken = parse_token(&args.join_token)?;
    let (files, obtained) =
        weft_identity::files::fetch_to_files(&args.server, &args.service, &token, &args.out).await?;
    let expires = weft_control::status::unix_seconds(obtained.svid.not_after());
    match args.output {
        Format::Json => {
            let answer = serde_json::json!({
                "id": obtained.svid.id(), "serial": obtained.svid.serial(), "expires_at": expires,
                "cert": files.cert, "key": files.key, "bundle": files.bundle,
            });
            say(format_args!("{answer:#}\n"));
        }
        Format::Text => {
            say(format_args!("{} for {}\n", obtained.svid.id(), span(expires.saturating_sub(unix_now()))));
            say(format_args!("  {}\n  {}\n  {}\n", files.cert.display(), files.key.display(), files.bundle.display()));
            say(format_args!("nothing renews these files: they are for one life of the certificate\n"));
        }
    }
    Ok(())
}

/// A join token as a person pasted it.
pub(crate) fn parse_token(text: &str) -> Result<JoinToken> {
    text.trim().parse().map_err(|error: weft_identity::MalformedToken| {
        hinted(error.to_string(), "give the whole line that `weft identity join-token` printed; it begins with weft.")
    })
}
