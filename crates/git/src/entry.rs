//! Which entries of a folder are intent: one answer for a commit and for a work tree, so that `weft check` and the control plane
//! look at the same files. Pure.

use weft_model::source::{Content, MAX_FOLDERS, is_hidden, is_intent_file};

/// What stands under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File,
    /// A symbolic link, to whatever.
    Link,
    /// A submodule, or a repository within the work tree: to Git, a commit of another repository.
    Module,
    /// A pipe, a socket or a device.
    Other,
}

/// What is done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// A folder to look into.
    Enter,
    /// An intent file to read.
    Read,
    /// It is in the place of intent, and is not read.
    Refuse(Content),
    /// Not intent, and nobody's business here.
    Pass,
}

/// Judges an entry by its name and kind; `depth` counts the folders above it, from the root of the intent.
pub(super) fn look(name: &str, kind: Kind, depth: usize) -> Look {
    match kind {
        _ if is_hidden(name) => Look::Pass,
        Kind::Folder if depth >= MAX_FOLDERS => {
            Look::Refuse(Content::Unreadable(format!("folders are nested deeper than {MAX_FOLDERS}").into()))
        }
        Kind::Folder => Look::Enter,
        _ if !is_intent_file(name) => Look::Pass,
        Kind::File => Look::Read,
        Kind::Link => Look::Refuse(Content::Symlink),
        Kind::Module => Look::Refuse(Content::Submodule),
        Kind::Other => Look::Refuse(Content::Unreadable("it is a pipe, a socket or a device".into())),
    }
}

/// Judges what stands at the end of a path, which is not looked at either when a folder on the way is not.
pub(super) fn look_along(path: &str, kind: Kind) -> Look {
    let mut depth = 0;
    let mut rest = path;
    while let Some((folder, below)) = rest.split_once('/') {
        match look(folder, Kind::Folder, depth) {
            Look::Enter => (rest, depth) = (below, depth + 1),
            other => return other,
        }
    }
    look(rest, kind, depth)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 5] = [Kind::Folder, Kind::File, Kind::Link, Kind::Module, Kind::Other];

    #[test]
    fn only_what_is_in_the_place_of_intent_can_be_refused() {
        for kind in KINDS {
            assert_eq!(look(".hidden.yaml", kind, 0), Look::Pass, "{kind:?}");
            for name in ["README", "README.md", "services", "vendor"] {
                let expected = if kind == Kind::Folder { Look::Enter } else { Look::Pass };
                assert_eq!(look(name, kind, 0), expected, "{name} {kind:?}");
            }
        }
        for name in ["mesh.yaml", "board.yml", "abac.cedar"] {
            assert_eq!(look(name, Kind::Folder, 0), Look::Enter);
            assert_eq!(look(name, Kind::File, MAX_FOLDERS), Look::Read);
            assert_eq!(look(name, Kind::Link, 0), Look::Refuse(Content::Symlink));
            assert_eq!(look(name, Kind::Module, 0), Look::Refuse(Content::Submodule));
            assert!(matches!(look(name, Kind::Other, 0), Look::Refuse(Content::Unreadable(_))));
        }
    }

    #[test]
    fn a_path_is_judged_folder_by_folder() {
        assert_eq!(look_along("a/b/mesh.yaml", Kind::File), Look::Read);
        assert_eq!(look_along("a/.b/mesh.yaml", Kind::File), Look::Pass);
        assert_eq!(look_along("a/b/notes.txt", Kind::File), Look::Pass);
        let deep = |folders| format!("{}mesh.yaml", "a/".repeat(folders));
        assert_eq!(look_along(&deep(MAX_FOLDERS), Kind::File), Look::Read);
        assert!(matches!(look_along(&deep(MAX_FOLDERS + 1), Kind::File), Look::Refuse(_)));
    }
}
