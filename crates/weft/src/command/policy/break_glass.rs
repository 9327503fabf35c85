//! `weft policy break-glass`: open what policies keep for an emergency, for a time, by name.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use ssh_key::PrivateKey;
use weft_control::glass::GlassAnswer;
use weft_control::glass::signed::{GlassRequest, NAMESPACE};
use weft_control::status::MeshStatus;
use weft_model::time::length;

use crate::http::Api;
use crate::output::{Format, count, hinted, say, span};

/// Break the glass: for a time, context.breakGlass is true to the policies that ask
///
/// Only for operators (`kind: Operator`) to whom a policy about Action::"breakGlass" permits it; they are known by a key of SSH. It is over by itself,
/// is shown by weft status and the dashboard, and stands in the decision log.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// For how long, like 30m, at most a day
    #[arg(long = "for", value_name = "TIME", value_parser = some_time, required_unless_present = "end")]
    time: Option<Duration>,
    /// End it now
    #[arg(long, conflicts_with = "time")]
    end: bool,
    /// Why, for those who read the log
    #[arg(long)]
    reason: String,
    /// Which operator this is
    #[arg(long = "as", value_name = "OPERATOR", env = "USER")]
    operator: String,
    /// The operator's key: a file of OpenSSH. One with a passphrase, or in an agent (then the .pub file), is used by ssh-keygen
    #[arg(long, value_name = "FILE", env = "WEFT_OPERATOR_KEY", default_value = "~/.ssh/id_ed25519")]
    key: PathBuf,
    /// The control plane's API
    #[arg(long, value_name = "HOST:PORT", env = "WEFT_API", default_value = "127.0.0.1:7000")]
    server: String,
    /// How it is printed
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

/// A length of time that is not none.
fn some_time(text: &str) -> Result<Duration, String> {
    match length(text)? {
        Duration::ZERO => Err("the glass cannot be broken for no time; --end makes it whole again".to_owned()),
        time => Ok(time),
    }
}

pub(crate) async fn run(args: &Args) -> Result<()> {
    let api = Api::new(args.server.clone());
    let mesh = api.get::<MeshStatus>("/api/status").await?.mesh;
    let mut request = GlassRequest {
        mesh,
        operator: args.operator.clone(),
        seconds: args.time.map_or(0, |time| time.as_secs()),
        reason: args.reason.clone(),
        at: u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?,
        signature: String::new(),
    };
    sign(&mut request, &home(&args.key))?;
    let answer: GlassAnswer = api.post_signed("/api/break-glass", &request).await?;
    match args.output {
        Format::Json => say(format_args!("{}\n", serde_json::to_string_pretty(&answer)?)),
        Format::Text if answer.until == 0 => say(format_args!("the glass is whole again ({})\n", answer.reason)),
        Format::Text => {
            let time = span(request.seconds);
            say(format_args!("the glass is broken for {time} ({})\n", answer.reason));
            match answer.services {
                0 => say("no policy asks for context.breakGlass: nothing is opened by it\n"),
                services => say(format_args!("policies of {} ask for it\n", count(services, "service"))),
            }
            say("weft policy break-glass --end ends it before\n");
        }
    }
    Ok(())
}

fn sign(request: &mut GlassRequest, key: &Path) -> Result<()> {
    let text = std::fs::read_to_string(key).map_err(|error| {
        let hint = "name the operator's private key with --key; ssh-keygen -t ed25519 makes one";
        hinted(format!("cannot read the key {}: {error}", key.display()), hint)
    })?;
    match PrivateKey::from_openssh(&text) {
        Ok(key) if !key.is_encrypted() => request.sign(&key).map_err(|why| hinted(why, "name another key with --key")),
        _ => {
            request.signature = by_ssh_keygen(key, &request.text())?;
            Ok(())
        }
    }
}

/// For keys that have a passphrase, or are in an agent or on a token.
fn by_ssh_keygen(key: &Path, text: &str) -> Result<String> {
    let mut child = Command::new("ssh-keygen")
        .args(["-Y", "sign", "-n", NAMESPACE, "-f"])
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| {
            hinted(
                format!("ssh-keygen cannot be run: {error}"),
                "install OpenSSH's client, or use a key without a passphrase",
            )
        })?;
    child.stdin.take().context("its standard input")?.write_all(text.as_bytes()).context("writing to ssh-keygen")?;
    let done = child.wait_with_output().context("waiting for ssh-keygen")?;
    if !done.status.success() {
        return Err(hinted(format!("ssh-keygen did not sign with {}", key.display()), "it has told why above"));
    }
    String::from_utf8(done.stdout).context("reading the signature")
}

/// With the home folder for `~`.
fn home(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => path.to_owned(),
    }
}
