//! What is asked about a call, and the policies that it is asked of: those of a folder, as the commit would have them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Result;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::Method;
use serde_json::Value;
use weft_control::check::{Look, check, render};
use weft_control::git::{GitConfig, GitError, GitSource, read_dir, safe};
use weft_model::intent::{Intent, Protocol};
use weft_model::source::SourceFile;
use weft_model::{PLAIN_TEXT, ServiceName, SpiffeId};
use weft_policy::{BreakGlass, Concern, Engine, PolicyModel, PolicyRef, Probe, User, Who};

use crate::output::{hinted, print_error, shown};

/// Nothing could be told.
const UNTOLD: u8 = 2;

/// A call that somebody asks about, beside who calls whom.
#[derive(Debug, clap::Args)]
pub(crate) struct Call {
    /// Its method; a connection to a tcp service has none
    #[arg(requires = "target")]
    pub(crate) method: Option<String>,
    /// Its path, and query if it has one
    pub(crate) target: Option<String>,
    #[command(flatten)]
    pub(crate) facts: Facts,
}

/// What a call brings with it.
#[derive(Debug, clap::Args)]
pub(crate) struct Facts {
    /// A header field of the call; again for each
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(Arc<str>, Arc<str>)>,
    /// The address that it comes from
    #[arg(long, value_name = "ADDRESS")]
    source: Option<IpAddr>,
    /// The host that it names; the service's own if it is not said
    #[arg(long)]
    host: Option<String>,
    /// When it comes, like 2026-03-29T09:00:00+02:00; now if it is not said
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<SystemTime>,
    /// HTTP/1.1 or HTTP/2; if it is not said, HTTP/2 between sidecars and HTTP/1.1 in plain text
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    protocol: Option<Arc<str>>,
    /// As if the glass were broken
    #[arg(long)]
    pub(crate) break_glass: bool,
    /// The JWT of the user for whom it is made. It is taken at its word: neither signature nor times are checked
    #[arg(long, value_name = "TOKEN")]
    user: Option<String>,
}

/// The intent of a folder, sound, with its policies.
pub(crate) struct Asked {
    pub(crate) files: Vec<SourceFile>,
    pub(crate) intent: Intent,
    pub(crate) model: Arc<PolicyModel>,
}

impl Asked {
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let files = read_dir(dir).map_err(|error| {
            hinted(safe(&error.to_string()), "name the folder of the mesh's repository with --repo")
        })?;
        Self::of(files)
    }

    /// The same of the newest commit of a branch.
    pub(crate) fn read_branch(dir: &Path, branch: &str) -> Result<Self> {
        let in_none =
            || hinted(format!("{} is in no Git repository", dir.display()), "name the mesh's repository with --repo");
        let config = GitConfig::discover(dir, std::env::temp_dir()).ok_or_else(in_none)?;
        let read = || {
            let mut source = GitSource::open(GitConfig { branch: Some(branch.to_owned()), ..config })?;
            let head = source.head()?;
            source.files(&head)
        };
        let files = read().map_err(|error: GitError| {
            hinted(safe(&error.to_string()), "name a branch of the mesh's repository with --against")
        })?;
        Self::of(files)
    }

    fn of(files: Vec<SourceFile>) -> Result<Self> {
        let checked = check(&files);
        let Some(intent) = checked.intent else {
            let told = render(&checked.findings, &files, Look::default());
            return Err(hinted(format!("the intent has errors\n\n{told}"), "mend them; weft check shows them too"));
        };
        let model = weft_policy::compile(&intent, "")
            .map_err(|findings| hinted(render(&findings, &files, Look::default()), ""))?;
        Ok(Self { files, intent, model: Arc::new(model) })
    }

    /// A service of the mesh.
    pub(crate) fn service(&self, text: &str) -> Result<ServiceName> {
        let known = text.parse::<ServiceName>().ok().filter(|name| self.intent.services.contains_key(name));
        known.ok_or_else(|| {
            let by_name = self.intent.services.keys().find(|name| name.name() == text || name.host() == text);
            let hint = match by_name {
                Some(name) => format!("did you mean {name}?"),
                None => {
                    let names: Vec<&str> = self.intent.services.keys().map(ServiceName::as_str).take(12).collect();
                    format!("services of this mesh are {}", names.join(", "))
                }
            };
            hinted(format!("there is no service {}", shown(text)), hint)
        })
    }

    /// A service of the mesh, any SPIFFE ID, or `plain-text`.
    pub(crate) fn caller(&self, text: &str) -> Result<Who> {
        if text == PLAIN_TEXT {
            return Ok(Who::PlainText);
        }
        if text.starts_with("spiffe://") {
            return text.parse().map(Who::Id).map_err(|error: weft_model::NameError| hinted(error.to_string(), ""));
        }
        Ok(Who::Id(SpiffeId::for_service(&self.intent.mesh.trust_domain, &self.service(text)?)))
    }

    /// The service that calls, if it is one of this mesh: one of another trust domain may have the same name.
    pub(crate) fn own(&self, caller: &Who) -> Option<ServiceName> {
        match caller {
            Who::Id(id) => id.service().filter(|_| id.trust_domain() == self.intent.mesh.trust_domain),
            Who::PlainText => None,
        }
    }

    /// The policies that could have a say in calls by it.
    pub(crate) fn concerning(&self, caller: &Who, callee: &ServiceName) -> Vec<Concern> {
        match (caller, self.own(caller)) {
            (Who::PlainText, _) => self.model.concerning_plain_text(callee),
            (Who::Id(_), Some(name)) => self.model.concerning(&name, callee),
            (Who::Id(id), None) => self.model.concerning_foreign(id, callee),
        }
    }

    /// What decides about calls to `callee`, with the glass whole or broken.
    pub(crate) fn engine(&self, callee: &ServiceName, broken: bool) -> Result<Engine> {
        let glass = broken.then(BreakGlass::always);
        Engine::new(&self.model.bundle_with(callee, glass.as_ref())).map_err(|error| hinted(error.to_string(), ""))
    }

    /// The call as the callee's sidecar would see it.
    pub(crate) fn probe(&self, caller: Who, callee: &ServiceName, call: &Call) -> Result<Probe> {
        let is_tcp = self.intent.services.get(callee).is_some_and(|service| service.protocol == Protocol::Tcp);
        let (method, target) = match (is_tcp, &call.method, &call.target) {
            (true, None, None) => ("", ""),
            (true, ..) => return Err(hinted(format!("{callee} is a tcp service"), "leave method and path out")),
            (false, Some(_), Some(target)) if target.contains('#') => {
                let hint = "clients send nothing of it: leave it out, or write %23 for a # of the path";
                return Err(hinted(format!("{} has a fragment", shown(target)), hint));
            }
            (false, Some(method), Some(_)) if Method::from_bytes(method.as_bytes()).is_err() => {
                return Err(hinted(format!("{} is no method", shown(method)), "a method is one word, like GET"));
            }
            (false, Some(method), Some(target)) if target.starts_with('/') => (method.as_str(), target.as_str()),
            (false, Some(_), Some(target)) => {
                return Err(hinted(format!("{} is no path", shown(target)), "a path begins with /, like /api/pins"));
            }
            (false, ..) => {
                return Err(hinted("a call has a method and a path", format!("like {callee} GET /api/pins")));
            }
        };
        let facts = &call.facts;
        let is_odd = method.bytes().any(|byte| byte.is_ascii_lowercase());
        if is_odd {
            let hint = format!("write {}", method.to_ascii_uppercase());
            return Err(hinted(format!("methods are case-sensitive, and {} is none", shown(method)), hint));
        }
        let mut headers = BTreeMap::new();
        for (name, value) in &facts.headers {
            headers
                .entry(name.clone())
                .and_modify(|known: &mut Arc<str>| *known = format!("{known},{value}").into())
                .or_insert_with(|| value.clone());
        }
        let user = facts.user.as_deref().map(|token| user(token, &self.intent.mesh.policy.claims)).transpose()?;
        Ok(Probe {
            caller,
            method: method.into(),
            target: target.into(),
            host: facts.host.clone().unwrap_or_else(|| if is_tcp { String::new() } else { callee.host() }),
            headers,
            source: facts.source,
            user,
            at: facts.at.unwrap_or_else(SystemTime::now),
            protocol: facts.protocol.clone(),
            server_name: None,
        })
    }

    /// The lines of a policy or of an `access` entry, as they are written; at most `most` of them.
    pub(crate) fn excerpt(&self, place: &PolicyRef, most: usize) -> Vec<String> {
        let file = self.files.iter().find(|file| *file.path == *place.file).and_then(SourceFile::text);
        let lines = file.unwrap_or_default().lines().skip(place.line.saturating_sub(1) as usize);
        let is_cedar = place.file.ends_with(".cedar");
        let depth = |line: &str| line.len() - line.trim_start().len();
        let (mut excerpt, mut first) = (Vec::new(), None);
        for line in lines.take(most) {
            // What belongs to an entry of a list stands deeper than its dash.
            if !is_cedar && first.is_some_and(|first| depth(line) <= first) {
                break;
            }
            first = first.or(Some(depth(line)));
            excerpt.push(shown(line.trim_end()).into_owned());
            if is_cedar && line.trim_end().ends_with(';') {
                break;
            }
        }
        excerpt
    }
}

impl Facts {
    /// What the call does not say, of what policies read: the answer can be another one where it does.
    pub(crate) fn leave_open(&self, read: &str, target: Option<&str>) -> bool {
        let name = read.strip_prefix("context.").unwrap_or(read);
        match name.split('.').next().unwrap_or(name) {
            "headers" => self.headers.iter().all(|(known, _)| name.strip_prefix("headers.") != Some(known)),
            "query" => !target.is_some_and(|target| target.contains('?')),
            "grpc" => self.headers.iter().all(|(known, _)| **known != *"content-type"),
            "sourceIp" => self.source.is_none(),
            "time" | "now" => self.at.is_none(),
            "user" => self.user.is_none(),
            "breakGlass" => !self.break_glass,
            // Of a connection to a tcp service there is only one, and one cannot be said.
            "protocol" => self.protocol.is_none() && target.is_some(),
            // It names the subset, which the caller's sidecar chooses; and others name what they like.
            "tls" => name == "tls.sni",
            _ => false,
        }
    }
}

fn header(text: &str) -> Result<(Arc<str>, Arc<str>), String> {
    let (name, value) = text.split_once(':').ok_or("write it like `x-tenant: acme`")?;
    let name = name.trim().to_ascii_lowercase();
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(format!("`{name}` is no name of a header field"));
    }
    Ok((name.into(), value.trim().into()))
}

fn protocol(text: &str) -> Result<Arc<str>, String> {
    match text.to_ascii_uppercase().as_str() {
        known @ ("HTTP/1.0" | "HTTP/1.1" | "HTTP/2") => Ok(known.into()),
        _ => Err("policies see HTTP/1.0, HTTP/1.1 or HTTP/2".to_owned()),
    }
}

fn time(text: &str) -> Result<SystemTime, String> {
    weft_model::time::parse(text).ok_or_else(|| "write it with its offset, like 2026-03-29T09:00:00+02:00".to_owned())
}

/// What a token says, unchecked.
fn user(token: &str, claims: &[Arc<str>]) -> Result<User> {
    let unreadable = || hinted("the token cannot be read", "give a JWT: three parts with dots between them");
    let payload = token.split('.').nth(1).ok_or_else(unreadable)?;
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload.trim_end_matches('=')).map_err(|_| unreadable())?;
    let payload: Value = serde_json::from_slice(&payload).map_err(|_| unreadable())?;
    let text = |name: &str| payload[name].as_str().unwrap_or_default().to_owned();
    let list = |name: &str| match &payload[name] {
        Value::String(words) => words.split_whitespace().map(str::to_owned).collect(),
        Value::Array(items) => items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => Vec::new(),
    };
    let scopes = if payload["scope"].is_null() { list("scp") } else { list("scope") };
    let claims = claims.iter().filter_map(|name| Some((name.clone(), payload[&**name].as_str()?.to_owned())));
    let (subject, issuer, groups) = (text("sub"), text("iss"), list("groups"));
    Ok(User { subject, issuer, scopes, groups, claims: claims.collect() })
}

/// The exit code of a question: what `answer` says, or 2 when nothing could be told.
pub(crate) fn exit(answer: Result<bool>) -> ExitCode {
    match answer {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            print_error(&error);
            ExitCode::from(UNTOLD)
        }
    }
}

/// The folder of the intent.
#[derive(Debug, clap::Args)]
pub(crate) struct Repo {
    /// Folder of the intent
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub(crate) repo: PathBuf,
}
