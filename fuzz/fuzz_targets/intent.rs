//! An intent file from a stranger: parsing never panics, and every finding's place is in the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_model::parse::{SourceFile, parse};

fuzz_target!(|bytes: &[u8]| {
    let lines = bytes.split(|b| *b == b'\n').count() as u32;
    let (_, findings) = parse(&[SourceFile::new("mesh.yaml", bytes)]);
    for finding in findings {
        if let Some(span) = finding.span {
            assert!(span.line >= 1 && span.line <= lines + 1 && span.column >= 1, "{span} of {lines} lines");
        }
    }
});
