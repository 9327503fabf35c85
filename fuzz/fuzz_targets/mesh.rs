//! A commit that is nearly good: what the check accepts, the compiler compiles and every proxy takes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_fuzz::{apply, compiled, edited, snapshot, text};
use weft_model::Severity;
use weft_model::parse::parse;
use weft_model::source::SourceFile;
use weft_proxy_config::Builder;

fuzz_target!(|edits: &[u8]| {
    let (intent, findings) = parse(&[SourceFile::new("mesh.yaml", edited(text().as_bytes(), edits))]);
    let Some(intent) = intent.filter(|_| findings.iter().all(|finding| finding.severity != Severity::Error)) else {
        return;
    };
    if weft_policy::check(&intent).iter().any(|finding| finding.severity == Severity::Error) {
        return;
    }
    let mesh = compiled(intent);
    for service in mesh.intent().services.keys() {
        let snapshot = snapshot(&mesh, service.as_str());
        assert_eq!(apply(&mut Builder::default(), &snapshot), [], "{service}");
    }
});
