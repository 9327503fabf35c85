//! How deep a policy may go, judged by its text before Cedar sees it.
//!
//! Cedar parses, validates, evaluates and even drops an expression by recursion, and a stack that ends takes the process with
//! it. Depth comes from brackets, from `if` within `if`, and from operands in a row (`a || b || c`, `a.b.c`); all three are
//! counted here. The control plane judges what people write, and a sidecar judges its bundle again: it trusts nobody with its life.

use crate::split::end_of_string;

/// Most brackets open at once, together with the `if`s of the policy so far.
pub(crate) const MAX_NESTING: usize = 64;
/// Most names, numbers and strings in a row: those of all open brackets that no `,` has ended.
pub(crate) const MAX_ROW: usize = 2_000;
/// Cedar refuses more than four `!` or `-` before one operand.
const MAX_SIGNS: usize = 4;
/// Levels that Cedar evaluates on a thread's usual 2 MiB, of which it needs some 4 KiB each.
const USUAL_LEVELS: usize = 200;
/// Stack for everything else. Nothing within the bounds was seen to use more than a quarter; only what is used is touched.
const STACK: usize = 32 << 20;

/// A policy that goes too deep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooDeep {
    /// Where the bound is passed, in bytes of the policy's text.
    pub(crate) offset: usize,
    /// What the policy has too much of.
    pub(crate) what: Depth,
}

/// What makes a policy deep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Brackets and `if`s.
    Nesting,
    /// Operands in a row.
    Row,
}

impl TooDeep {
    /// One sentence.
    pub(crate) fn message(self) -> String {
        match self.what {
            Depth::Nesting => format!("the policy is nested more than {MAX_NESTING} levels deep"),
            Depth::Row => format!("the policy has more than {MAX_ROW} names, numbers and strings in a row"),
        }
    }

    /// What to do about it.
    pub(crate) fn hint(self) -> &'static str {
        match self.what {
            Depth::Nesting => {
                "brackets that are open at once and `if`s count: take some away, or write several policies"
            }
            Depth::Row => "compare with a list, `[\"a\", \"b\"].contains(x)`, or write several policies",
        }
    }
}

/// Whether Cedar can be given the text of one policy. Linear in the text, which need not be a policy.
///
/// # Errors
/// The first place at which the policy is too deep.
pub(crate) fn check(policy: &str) -> Result<(), TooDeep> {
    levels(policy).map(drop)
}

/// True for a policy within the bounds that is nevertheless to be evaluated [on a stack of its own](with_stack).
pub(crate) fn is_deep(policy: &str) -> bool {
    levels(policy).is_ok_and(|levels| levels > USUAL_LEVELS)
}

/// The deepest recursion that the text can lead to.
fn levels(policy: &str) -> Result<usize, TooDeep> {
    let bytes = policy.as_bytes();
    let mut open = Open { ifs: 0, brackets: Vec::new(), row: 0, words: 0 };
    let (mut at, mut levels) = (0, 0);
    while at < bytes.len() {
        let offset = at;
        at += 1;
        match bytes[offset] {
            b'/' if bytes.get(at) == Some(&b'/') => at = end_of(bytes, at, |byte| byte != b'\n' && byte != b'\r'),
            b'(' => open.bracket(b')'),
            b'[' => open.bracket(b']'),
            b'{' => open.bracket(b'}'),
            closing @ (b')' | b']' | b'}') => open.close(closing),
            b',' => open.next(),
            b'"' => {
                at = end_of_string(bytes, offset);
                open.word(b"");
            }
            byte if is_word(byte) => {
                at = end_of(bytes, at, is_word);
                open.word(&bytes[offset..at]);
            }
            _ => {}
        }
        if let Some(what) = open.too_deep() {
            return Err(TooDeep { offset, what });
        }
        levels = levels.max(open.words + MAX_SIGNS * (1 + open.nesting()));
    }
    Ok(levels)
}

/// What is open at one place of a policy.
struct Open {
    ifs: usize,
    /// What closes each open bracket, and the words of the row that it interrupts.
    brackets: Vec<(u8, usize)>,
    /// Words of the innermost row.
    row: usize,
    /// Words of all rows that are open.
    words: usize,
}

impl Open {
    fn word(&mut self, word: &[u8]) {
        self.ifs += usize::from(word == b"if");
        self.row += 1;
        self.words += 1;
    }

    /// What is in brackets is one word of the row around: `a[0][0][0]` is a row too.
    fn bracket(&mut self, closing: u8) {
        self.word(b"");
        self.brackets.push((closing, std::mem::take(&mut self.row)));
    }

    /// A bracket that does not fit closes nothing; Cedar will say so.
    fn close(&mut self, closing: u8) {
        if let Some((_, row)) = self.brackets.pop_if(|(expected, _)| *expected == closing) {
            self.words -= self.row;
            self.row = row;
        }
    }

    fn next(&mut self) {
        self.words -= std::mem::take(&mut self.row);
    }

    fn nesting(&self) -> usize {
        self.brackets.len() + self.ifs
    }

    fn too_deep(&self) -> Option<Depth> {
        if self.nesting() > MAX_NESTING { Some(Depth::Nesting) } else { (self.words > MAX_ROW).then_some(Depth::Row) }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The first place from `at` on whose byte is not of a kind.
fn end_of(bytes: &[u8], at: usize, kind: impl Fn(u8) -> bool) -> usize {
    bytes[at..].iter().position(|byte| !kind(*byte)).map_or(bytes.len(), |length| at + length)
}

/// Runs Cedar on a stack that a policy within the bounds does not end, whatever the thread's own is.
pub(crate) fn with_stack<T>(cedar: impl FnOnce() -> T) -> T {
    stacker::grow(STACK, cedar)
}

/// The same, for what goes so many levels deep; on the thread's own stack where that is enough.
pub(crate) fn with_stack_for<T>(levels: usize, evaluate: impl FnOnce() -> T) -> T {
    if levels > USUAL_LEVELS { with_stack(evaluate) } else { evaluate() }
}

#[cfg(test)]
mod tests;
