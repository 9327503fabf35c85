//! How else an app may read a path that is normal to us. `docs/reference/paths.md` has who was seen to do what.

/// What some app makes of a normal path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The path as that app sees it.
    pub path: String,
    /// How it differs: bits, by the order of [`WAYS`].
    ways: u8,
}

/// One way to read a path otherwise. They are taken in this order.
struct Way {
    read: fn(&str) -> String,
    /// A rule that permits one spelling need not permit the other.
    lenient: bool,
    told: &'static str,
}

/// `%2F` is said to be data to the app; and `%3B`, `%3F`, `%23` and a slash at the end mostly are what they seem, so a call may not be denied
/// for want of a rule that permits the other reading. A rule that forbids it counts.
const WAYS: [Way; 5] = [
    Way { read: decode, lenient: true, told: SLASH },
    Way { read: end, lenient: true, told: "nothing from %3F or %23 on" },
    Way { read: cut_parameters, lenient: false, told: "no parameters after ;" },
    Way { read: merge_slashes, lenient: false, told: "several slashes as one" },
    Way { read: trim, lenient: true, told: "no slash at the end" },
];

const SLASH: &str = "%2F as a slash";

impl Reading {
    /// Whether it must only not be forbidden. Otherwise it must be permitted too.
    pub fn is_lenient(&self) -> bool {
        self.taken().any(|way| way.lenient)
    }

    /// What whoever reads `path` so takes for what.
    pub fn how(&self, path: &str) -> String {
        let told = |way: &Way| match way.told {
            SLASH if !path.contains("%2F") => "%3B as ;",
            told => told,
        };
        self.taken().map(told).collect::<Vec<_>>().join(", ")
    }

    fn taken(&self) -> impl Iterator<Item = &'static Way> + use<> {
        let ways = self.ways;
        WAYS.iter().enumerate().filter(move |(bit, _)| ways & 1 << bit != 0).map(|(_, way)| way)
    }
}

/// How else a normal path without its query may be read. Mostly in no other way; at most in 31.
pub fn readings(path: &str) -> impl Iterator<Item = Reading> {
    let mut seen = vec![];
    let usable = usable(path);
    (1..1 << WAYS.len()).filter(move |ways: &u8| ways & !usable == 0).filter_map(move |wanted| {
        let mut reading = Reading { path: path.to_owned(), ways: 0 };
        for (bit, way) in WAYS.iter().enumerate().filter(|(bit, _)| wanted & 1 << bit != 0) {
            let other = (way.read)(&reading.path);
            if other != reading.path {
                reading = Reading { path: other, ways: reading.ways | 1 << bit };
            }
        }
        let is_new = reading.path != path && !seen.contains(&reading.path);
        if is_new {
            seen.push(reading.path.clone());
        }
        is_new.then_some(reading)
    })
}

/// The ways that can make a difference, alone or after others. Of nearly all paths none can, and one look at each byte says so.
fn usable(path: &str) -> u8 {
    let mut before = 0;
    let has_mark = path.bytes().any(|byte| {
        let is_mark = matches!(byte, b'%' | b';') || byte == b'/' && before == b'/';
        before = byte;
        is_mark
    });
    if !has_mark && (path.len() <= 1 || !path.ends_with('/')) {
        return 0;
    }
    let has = |part: &str| path.contains(part);
    let encoded = has("%2F") || has("%3B");
    let ended = has("%3F") || has("%23");
    let cut = has(";") || has("%3B");
    let merged = has("//") || encoded;
    let trimmed = path.len() > 1 && path.ends_with('/') || encoded || ended || cut;
    [encoded, ended, cut, merged, trimmed].into_iter().rev().fold(0, |ways, usable| ways << 1 | u8::from(usable))
}

fn decode(path: &str) -> String {
    path.replace("%2F", "/").replace("%3B", ";")
}

/// As where something decodes a path and sends it on: the query begins at `?`, and `#` ends all.
fn end(path: &str) -> String {
    let ends = [path.find("%3F"), path.find("%23")];
    let end = ends.into_iter().flatten().min().unwrap_or(path.len());
    path[..end].to_owned()
}

fn cut_parameters(path: &str) -> String {
    let segments: Vec<&str> = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    segments.join("/")
}

/// A slash at the end stays one.
pub(super) fn merge_slashes(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !merged.ends_with('/') {
            merged.push(character);
        }
    }
    merged
}

/// Without slashes at the end; the root stays.
fn trim(path: &str) -> String {
    match path.trim_end_matches('/') {
        "" if path.starts_with('/') => "/".to_owned(),
        trimmed => trimmed.to_owned(),
    }
}
