//! How the command line speaks: aligned tables, errors with a hint, colour only on a terminal.

use std::borrow::Cow;
use std::fmt;
use std::io::{ErrorKind, IsTerminal, Write};

/// An error whose reader is told what to do.
#[derive(Debug)]
pub(crate) struct Hinted {
    what: String,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Hinted {}

/// An error with a hint.
pub(crate) fn hinted(what: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Hinted { what: what.into(), hint: hint.into() })
}

/// The error that ends a command, on standard error.
pub(crate) fn print_error(error: &anyhow::Error) {
    let (red, off) = if std::io::stderr().is_terminal() { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    eprintln!("{red}error{off}: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
    if let Some(Hinted { hint, .. }) = error.chain().find_map(|cause| cause.downcast_ref())
        && !hint.is_empty()
    {
        eprintln!("  hint: {hint}");
    }
}

/// Prints the answer of a command. A reader that has read enough (`weft status | head`) ends the command without a word, with the
/// exit code of a program that was stopped by SIGPIPE.
pub(crate) fn say(text: impl fmt::Display) {
    let mut out = std::io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(128 + 13),
        Err(error) => {
            eprintln!("cannot write to standard output: {error}");
            std::process::exit(1);
        }
    }
}

/// What a stranger wrote, for a terminal: control characters, and those that turn the direction of writing, become escapes.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let is_foul = |c: char| c.is_control() || turns(c);
    if !text.contains(is_foul) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if is_foul(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escape).collect())
}

/// Human table or JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Columns as wide as their widest cell, two spaces apart; no cell of the last column is padded. Cells are [`shown`].
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<Cow<'_, str>>> = rows.iter().map(|row| row.iter().map(|cell| shown(cell)).collect()).collect();
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut out = String::new();
        for (cell, width) in cells.zip(&widths) {
            out.push_str(cell);
            out.extend(std::iter::repeat_n(' ', width - cell.chars().count() + 2));
        }
        text.push_str(out.trim_end());
        text.push('\n');
    };
    line(&mut header.iter().copied());
    for row in &rows {
        line(&mut row.iter().map(AsRef::as_ref));
    }
    text
}

/// `1 role`, `2 roles`.
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// `12 s`, `34 min`, `5 h`, `2 d`.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..90 => format!("{seconds} s"),
        90..5400 => format!("{} min", seconds / 60),
        5400..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Seconds since the Unix epoch, now.
pub(crate) fn unix_now() -> u64 {
    weft_control::status::unix_seconds(std::time::SystemTime::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_align_and_do_not_trail() {
        let rows = [vec!["prod/board".to_owned(), "8080".to_owned()], vec!["a".to_owned(), String::new()]];
        assert_eq!(table(&["SERVICE", "PORT"], &rows), "SERVICE     PORT\nprod/board  8080\na\n");
    }

    #[test]
    fn what_a_stranger_wrote_moves_no_cursor() {
        assert_eq!(shown("prod/web~k3x9 é"), "prod/web~k3x9 é");
        assert_eq!(shown("x\u{1b}[31m\nforged\u{202e}"), r"x\u{1b}[31m\nforged\u{202e}");
        assert!(!table(&["A"], &[vec!["a\nb\u{9b}".to_owned()]]).trim_end_matches('\n').contains(['\u{9b}', '\u{1b}']));
    }
}
