//! `src/proto.rs` is what `proto/` says. After a change of `proto/`: run this test with `WEFT_GENERATE=1`.

use std::path::Path;

#[test]
fn the_generated_code_is_what_the_proto_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = protox::compile(["workload.proto"], [root.join("proto")]).expect("the proto compiles");
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A private key is never `Debug`.
    let settings = tonic_prost_build::configure().skip_debug(["X509SVID"]);
    settings.out_dir(folder.path()).compile_fds(files).expect("code is generated");
    let generated = std::fs::read_to_string(folder.path().join("_.rs")).expect("one file for what has no package");
    let kept = root.join("src/proto.rs");
    if std::env::var_os("WEFT_GENERATE").is_some() {
        std::fs::write(&kept, &generated).expect("the source tree can be written");
    }
    let same = std::fs::read_to_string(&kept).is_ok_and(|kept| kept == generated);
    assert!(same, "{} is older than proto/: run this test with WEFT_GENERATE=1", kept.display());
}
