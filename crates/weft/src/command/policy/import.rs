//! `weft policy import istio`: `AuthorizationPolicy` documents as Cedar policies, and what could not be carried over.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use weft_control::check::{Look, check, render};
use weft_control::git::{read_dir, safe};
use weft_import::istio::{Options, import};
use weft_import::{CedarFile, Import, Input};
use weft_model::source::{MAX_FILE_BYTES, MAX_FILES, MAX_FOLDERS, is_hidden};
use weft_model::{Finding, Intent, ServiceName, SourceFile};

use crate::output::{Format, hinted, print_error, say};

/// The name of standard input among the files.
const STDIN: &str = "-";
/// What cannot be read ends with this, and nothing is written.
const UNREADABLE: u8 = 2;

/// Write Istio's AuthorizationPolicy documents as Cedar policies, and say what could not be carried over
///
/// What is written never allows more than the original: what cannot be said is left out of a rule that allows, and makes a rule that denies deny more.
/// Exit code 0 if all was carried over, 1 if something was not, 2 if the input cannot be read; then nothing is written.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Files of Kubernetes documents, folders whose YAML files are read, or - for standard input; what is no AuthorizationPolicy is passed over
    #[arg(required = true, value_name = "FILE|FOLDER")]
    inputs: Vec<PathBuf>,
    /// Folder for one .cedar file a policy; without it they are printed, and the report goes to standard error
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Overwrite files in --out that have another content
    #[arg(long, requires = "out")]
    force: bool,
    /// Folder of the intent that the policies are for: services and namespaces are checked against it
    #[arg(long, value_name = "FOLDER")]
    mesh: Option<PathBuf>,
    /// Namespace of documents that name none
    #[arg(long, short, value_name = "NAMESPACE", default_value = "default")]
    namespace: String,
    /// Istio's root namespace: its policies are for the whole mesh
    #[arg(long, value_name = "NAMESPACE", default_value = "istio-system")]
    root_namespace: String,
    /// Istio's trust domain, and again for each alias
    #[arg(long = "trust-domain", value_name = "DOMAIN", default_value = "cluster.local")]
    trust_domains: Vec<String>,
    /// A label of workloads that has the service's name, before app and the usual others
    #[arg(long = "service-label", value_name = "LABEL")]
    service_labels: Vec<String>,
    /// A service account or workload that is called otherwise here; again for each service that it is
    #[arg(long = "rename", value_name = "NAMESPACE/NAME=NAMESPACE/NAME", value_parser = rename)]
    renames: Vec<(String, ServiceName)>,
    /// Let everyone call what no ALLOW policy is for, as Istio does
    #[arg(long)]
    default_allow: bool,
    /// How the report is printed: as JSON it has the policies too, where there is no --out
    #[arg(long, short, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match done(args) {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::FAILURE),
        Err(error) => {
            print_error(&error);
            Ok(ExitCode::from(UNREADABLE))
        }
    }
}

/// True if everything was carried over.
fn done(args: &Args) -> Result<bool> {
    let mesh = args.mesh.as_deref().map(mesh).transpose()?;
    let inputs = read(&args.inputs)?;
    let imported = import(&inputs, &options(args), mesh.as_ref()).map_err(|findings| unreadable(&findings, &inputs))?;
    if let Some(out) = &args.out {
        write(&imported.files, out, args.force)?;
    }
    report(args, &imported);
    Ok(imported.report.is_whole())
}

fn options(args: &Args) -> Options {
    let mut options = Options {
        namespace: args.namespace.clone(),
        root_namespace: args.root_namespace.clone(),
        trust_domains: args.trust_domains.clone(),
        default_allow: args.default_allow,
        ..Options::default()
    };
    options.service_labels.splice(0..0, args.service_labels.iter().cloned());
    let mut renamed: BTreeMap<String, Vec<ServiceName>> = BTreeMap::new();
    for (from, to) in &args.renames {
        renamed.entry(from.clone()).or_default().push(to.clone());
    }
    options.renamed = renamed;
    options
}

/// `default/bookinfo-web=prod/web`.
fn rename(text: &str) -> Result<(String, ServiceName), String> {
    let form = "write NAMESPACE/NAME=NAMESPACE/NAME, there and here, like default/acme-web=prod/web";
    let (from, to) = text.split_once('=').ok_or(form)?;
    let is_name = from.split('/').count() == 2 && from.split('/').all(|part| !part.is_empty());
    if !is_name {
        return Err(form.to_owned());
    }
    Ok((from.to_owned(), to.parse().map_err(|error: weft_model::NameError| error.to_string())?))
}

/// The intent in a folder, if it is sound.
fn mesh(dir: &Path) -> Result<Intent> {
    let files =
        read_dir(dir).map_err(|error| hinted(safe(&error.to_string()), "name the folder of a mesh with --mesh"))?;
    let checked = check(&files);
    checked.intent.ok_or_else(|| {
        eprint!("{}", render(&checked.findings, &files, look()));
        hinted(format!("the intent in {} has errors", dir.display()), "repair them first; `weft check` shows them too")
    })
}

fn unreadable(findings: &[Finding], inputs: &[Input]) -> anyhow::Error {
    let file = |input: &Input| SourceFile::new(input.path.clone(), input.text.as_bytes());
    let files: Vec<SourceFile> = inputs.iter().map(file).collect();
    eprint!("{}", render(findings, &files, look()));
    hinted("the input cannot be read, so nothing was written", "repair it, or name only the files that are meant")
}

fn look() -> Look {
    Look { color: std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(), ..Look::default() }
}

fn report(args: &Args, imported: &Import) {
    let report = imported.report.to_text();
    match (args.output, &args.out) {
        (Format::Json, None) => {
            let file = |file: &CedarFile| (file.name.to_string(), serde_json::Value::from(file.text.as_str()));
            let cedar: serde_json::Map<_, _> = imported.files.iter().map(file).collect();
            let mut json = serde_json::json!(imported.report);
            json["cedar"] = cedar.into();
            say(format_args!("{json:#}\n"));
        }
        (Format::Json, Some(_)) => say(format_args!("{:#}\n", serde_json::json!(imported.report))),
        (Format::Text, None) => {
            let texts: Vec<&str> = imported.files.iter().map(|file| file.text.as_str()).collect();
            say(texts.join("\n"));
            eprint!("{report}");
        }
        (Format::Text, Some(out)) => say(format_args!("{report}written to {}\n", out.display())),
    }
}

/// All files or, where one would overwrite another content, none.
fn write(files: &[CedarFile], out: &Path, force: bool) -> Result<()> {
    let failed = |path: &Path, error: &std::io::Error| hinted(format!("cannot write {}: {error}", path.display()), "");
    let mut changed = Vec::new();
    for file in files {
        let path = out.join(&*file.name);
        match fs::read(&path) {
            Ok(bytes) if bytes == file.text.as_bytes() => {}
            Ok(_) if !force => {
                let what = format!("{} is there already, with another content", path.display());
                return Err(hinted(what, "keep it elsewhere, or overwrite it with --force"));
            }
            Ok(_) => changed.push((path, &file.text)),
            Err(error) if error.kind() == ErrorKind::NotFound => changed.push((path, &file.text)),
            Err(error) => return Err(failed(&path, &error)),
        }
    }
    fs::create_dir_all(out).map_err(|error| failed(out, &error))?;
    changed.iter().try_for_each(|(path, text)| fs::write(path, text).map_err(|error| failed(path, &error)))
}

/// Files as they are named, and the YAML files in folders, sorted. Two names of one file are one.
fn read(paths: &[PathBuf]) -> Result<Vec<Input>> {
    let mut files = Vec::new();
    for path in paths {
        if path.as_os_str() == STDIN {
            files.push(path.clone());
            continue;
        }
        let meta = fs::metadata(path).map_err(|error| cannot_read(path, &error.to_string()))?;
        if meta.is_dir() {
            let before = files.len();
            walk(path, 0, &mut files)?;
            if files.len() == before {
                return Err(hinted(
                    format!("{} has no YAML files", path.display()),
                    "name files, or a folder with .yaml or .yml files",
                ));
            }
        } else {
            files.push(path.clone());
        }
    }
    let mut seen = std::collections::HashSet::new();
    files.retain(|path| seen.insert(path.canonicalize().unwrap_or_else(|_| path.clone())));
    files.iter().map(|path| one(path)).collect()
}

fn walk(dir: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(dir).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let mut entries = entries.map_err(|error| cannot_read(dir, &error.to_string()))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let kind = entry.file_type().map_err(|error| cannot_read(&path, &error.to_string()))?;
        if is_hidden(&name) {
            continue;
        }
        if kind.is_dir() {
            if depth >= MAX_FOLDERS {
                return Err(cannot_read(&path, "it is too many folders deep"));
            }
            walk(&path, depth + 1, files)?;
        } else if kind.is_file() && [".yaml", ".yml"].iter().any(|end| name.ends_with(end)) {
            if files.len() >= MAX_FILES {
                return Err(cannot_read(dir, &format!("it has more than {MAX_FILES} YAML files")));
            }
            files.push(path);
        }
    }
    Ok(())
}

fn one(path: &Path) -> Result<Input> {
    let (name, mut file): (_, Box<dyn Read>) = if path.as_os_str() == STDIN {
        ("standard input".to_owned(), Box::new(std::io::stdin()))
    } else {
        let file = fs::File::open(path).map_err(|error| cannot_read(path, &error.to_string()))?;
        (path.display().to_string(), Box::new(file))
    };
    let mut bytes = Vec::new();
    file.by_ref()
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| cannot_read(path, &error.to_string()))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(cannot_read(path, &format!("it is larger than {} KiB", MAX_FILE_BYTES >> 10)));
    }
    let text = String::from_utf8(bytes).map_err(|_| cannot_read(path, "it is not UTF-8"))?;
    Ok(Input { path: name.into(), text })
}

fn cannot_read(path: &Path, why: &str) -> anyhow::Error {
    hinted(format!("cannot read {}: {why}", path.display()), "name files or folders with AuthorizationPolicy documents")
}
