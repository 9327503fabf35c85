//! A root that is kept apart: the ceremony, with everything that people may do wrong in it.

use std::path::PathBuf;

use super::*;

/// `weft identity root …`, where no server is.
fn root(args: &[&str]) -> std::process::Output {
    Command::new(peers::weft()).args(["identity", "root"]).args(args).output().expect("it runs")
}

#[track_caller]
fn made(folder: &Path, passphrase: &Path) -> PathBuf {
    let domain = ["--trust-domain", "test.internal", "--passphrase-file", path(passphrase)];
    let output = root(&[&["make", "--out", path(folder)], &domain[..]].concat());
    assert!(output.status.success(), "{}", text(&output));
    folder.join("root.pem")
}

#[track_caller]
fn sign(folder: &Path, passphrase: &Path, request: &Path, out: &Path) -> String {
    let files = ["--passphrase-file", path(passphrase), "--out", path(out)];
    let output = root(&[&["sign", "--root", path(folder), path(request)], &files[..]].concat());
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

fn install(mesh: &Mesh, chain: &Path) -> std::process::Output {
    let state = mesh.state();
    mesh.weft(&["identity", "root", "install", path(chain), "--state-dir", path(&state)])
}

/// The request that a server says it has written.
#[track_caller]
fn request(mesh: &Mesh) -> PathBuf {
    wait::until("a request", Duration::from_secs(30), || {
        let trust = mesh.api("/api/identity")?;
        trust["upstream"]["request"].as_str().map(PathBuf::from).ok_or_else(|| trust.to_string())
    })
}

fn start(roots: &Path) -> Mesh {
    Mesh::launch_with_options(&["--offline-root", path(roots)], |_| {})
}

#[test]
fn a_root_that_is_kept_apart_signs_by_hand_and_is_followed_by_another() {
    let apart = folder();
    let passphrase = apart.path().join("passphrase");
    std::fs::write(&passphrase, "five words taken at random\n").expect("the folder can be written");
    let first = made(&apart.path().join("first"), &passphrase);
    let roots = apart.path().join("roots.pem");
    std::fs::copy(&first, &roots).expect("it was made");

    // The server waits, and says for what.
    let mut mesh = start(&roots);
    let asked = request(&mesh);
    let tree = text(&mesh.weft(&["identity", "tree"]));
    assert!(tree.contains("waits to be signed") && tree.contains(path(&asked)), "{tree}");
    let status = text(&mesh.weft(&["status"]));
    assert!(status.contains("waits to be signed"), "{status}");
    let signed = apart.path().join("signed.pem");
    // A stranger's root, and a file that is none.
    let stranger = made(&apart.path().join("stranger"), &passphrase);
    sign(stranger.parent().expect("a folder"), &passphrase, &asked, &signed);
    let told = install(&mesh, &signed);
    assert!(!told.status.success() && text(&told).contains("is missing"), "{}", text(&told));
    let told = install(&mesh, &roots);
    assert!(!told.status.success() && text(&told).contains("is not for the request that waits"), "{}", text(&told));
    // The server may be started anew meanwhile: the request is the same.
    let before = std::fs::read_to_string(&asked).expect("it was written");
    mesh.kill_server();
    mesh.launch_server();
    request(&mesh);
    assert_eq!(std::fs::read_to_string(&asked).expect("it was written"), before);
    let told = sign(first.parent().expect("a folder"), &passphrase, &asked, &signed);
    assert!(told.contains("signed issuing CA"), "{told}");
    let told = install(&mesh, &signed);
    assert!(told.status.success(), "{}", text(&told));
    mesh.wait_serving();
    let pair = Pair::start(&mesh, DataPlane::Weft, DataPlane::Envoy);
    let one = active(&mesh);
    let told = install(&mesh, &signed);
    assert!(!told.status.success() && text(&told).contains("no request waits"), "{}", text(&told));

    // The next root: published first, then it signs, and the first one leaves.
    let (load, begun) = (Load::start(pair.target(), 50), Instant::now());
    let second = made(&apart.path().join("second"), &passphrase);
    let both = [std::fs::read(&first), std::fs::read(&second)].map(|root| root.expect("it was made"));
    std::fs::write(&roots, both.concat()).expect("the folder can be written");
    let asked = request(&mesh);
    sign(second.parent().expect("a folder"), &passphrase, &asked, &signed);
    let told = install(&mesh, &signed);
    assert!(told.status.success(), "{}", text(&told));
    let two = wait::until("the second root to sign", Duration::from_secs(60), || {
        let now = active(&mesh);
        if now["id"] == one["id"] { Err(trust(&mesh).to_string()) } else { Ok(now) }
    });
    load.stop().assert_clean(50, begun.elapsed());
    mesh.kill_server();
    mesh.start_server();
    assert_eq!(active(&mesh)["id"], two["id"]);
    drop(pair);
}

#[test]
fn the_key_of_a_root_is_openssls_to_read_and_closed_without_its_passphrase() {
    let apart = folder();
    let passphrase = apart.path().join("passphrase");
    std::fs::write(&passphrase, "five words taken at random").expect("the folder can be written");
    let folder = apart.path().join("root");
    made(&folder, &passphrase);
    let key = folder.join("root.key");
    let pass = format!("file:{}", passphrase.display());
    let public = run(Command::new("openssl").args(["pkey", "-pubout", "-passin", &pass, "-in"]).arg(&key));
    let expected = run(Command::new("openssl").args(["x509", "-noout", "-pubkey", "-in"]).arg(folder.join("root.pem")));
    assert_eq!(public, expected);
    // What openssl writes is read, too.
    let copy = apart.path().join("copy"); // of one file openssl would read the second passphrase as its second line
    std::fs::copy(&passphrase, &copy).expect("the folder can be written");
    let out = format!("file:{}", copy.display());
    run(Command::new("openssl")
        .args(["pkcs8", "-topk8", "-passin", &pass, "-passout", &out, "-in"])
        .arg(&key)
        .arg("-out")
        .arg(apart.path().join("again")));
    std::fs::copy(apart.path().join("again"), &key).expect("it was made");
    let csr = apart.path().join("csr");
    run(Command::new("openssl")
        .args([
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/CN=x",
            "-keyout",
            "/dev/null",
        ])
        .arg("-out")
        .arg(&csr));
    sign(&folder, &passphrase, &csr, &apart.path().join("out"));
    for (args, why) in [
        (&["sign", "--root", path(&folder), path(&csr)][..], "--passphrase-file"),
        (&["sign", "--root", path(&folder), path(&csr), "--passphrase-file", path(&csr)], "one line"),
        (&["make", "--out", path(&folder), "--trust-domain", "test.internal", "--plain"], "root.key"),
        (&["make", "--out", path(&folder), "--trust-domain", "test.internal"], "--plain"),
    ] {
        let output = root(args);
        assert!(!output.status.success() && text(&output).contains(why), "{args:?}: {}", text(&output));
    }
}
