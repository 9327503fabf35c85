//! A CA whose certificate and key are in files.

use std::os::unix::fs::PermissionsExt;

use super::*;

const RATE: u64 = 50;

/// A root and a CA below it. Their names have two domain components, and no certificate says anything of SPIFFE.
fn organization(folder: &Path, name: &str) -> Ca {
    let root = Ca::root(
        folder,
        &format!("{name}-root"),
        Kind { subject: &format!("/DC=com/DC=example/CN={name} root"), ..Kind::default() },
    );
    let subject = format!("/DC=com/DC=example/OU=one/OU=two/CN={name} CA");
    root.below(name, Kind { subject: &subject, constraints: "CA:TRUE,pathlen:1", ..Kind::default() })
}

fn options(ca: &Ca) -> [String; 6] {
    ["--upstream-ca-cert", path(&ca.chain), "--upstream-ca-key", path(&ca.key), "--upstream-bundle", path(&ca.root)]
        .map(str::to_owned)
}

fn start(ca: &Ca) -> Mesh {
    let options = options(ca);
    Mesh::start_with_options(&options.each_ref().map(String::as_str), |_| {})
}

fn calls(caller: DataPlane, callee: DataPlane) {
    let folder = folder();
    let ca = organization(folder.path(), "org");
    let mesh = start(&ca);
    let pair = Pair::start(&mesh, caller, callee);
    let root = active(&mesh);
    assert_eq!(root["source"], path(&ca.chain), "{root}");
    let tree = text(&mesh.weft(&["identity", "tree"]));
    assert!(
        tree.contains(&format!("; of {}", ca.chain.display())) && tree.contains("issuing CAs are signed by"),
        "{tree}"
    );

    // What a workload shows leads to the organization's root, by the strictest rules of somebody else.
    let svid = mesh.svid("prod/web", "svid");
    let bundle = std::fs::read_to_string(&svid.bundle).expect("it was fetched");
    assert_eq!(bundle.trim(), certificate(&ca.root), "the bundle is the organization's root");
    let shown = run(Command::new("openssl")
        .args(["verify", "-x509_strict", "-purpose", "sslserver", "-CAfile"])
        .arg(&ca.root)
        .arg("-untrusted")
        .arg(&svid.certificate)
        .arg(&svid.certificate));
    assert!(shown.contains(": OK"), "{shown}");
    let certificates = std::fs::read_to_string(&svid.certificate).expect("it was fetched");
    assert_eq!(certificates.matches("BEGIN CERTIFICATE").count(), 3, "leaf, issuing CA, the organization's CA");
    drop(pair);
}

/// The first certificate of a file, as PEM without what openssl may have written around it.
fn certificate(file: &Path) -> String {
    run(Command::new("openssl").arg("x509").arg("-in").arg(file)).trim().to_owned()
}

#[test]
fn a_ca_of_the_organization_signs_and_calls_go() {
    calls(DataPlane::Weft, DataPlane::Weft);
}

#[test]
fn envoys_take_the_chain_of_an_organization_too() {
    calls(DataPlane::Envoy, DataPlane::Envoy);
}

#[test]
fn envoy_and_weft_take_it_from_each_other() {
    calls(DataPlane::Weft, DataPlane::Envoy);
}

#[test]
fn a_ca_that_cannot_sign_is_refused_at_the_start_with_what_to_do() {
    let folder = folder();
    let mesh = Mesh::start();
    let at = folder.path();
    let root = Ca::root(at, "root", Kind::default());
    let sub = |name: &str, constraints: &str, extensions: &str| {
        root.below(name, Kind { subject: &format!("/CN={name}"), constraints, extensions, ..Kind::default() })
    };
    let good = sub("good", "CA:TRUE", "");
    let open = sub("open", "CA:TRUE", "");
    std::fs::set_permissions(&open.key, std::fs::Permissions::from_mode(0o644)).expect("it was made");
    let other = Ca { key: root.key.clone(), ..good.clone() };
    let short = sub("short", "CA:TRUE,pathlen:0", "");
    let leaf = sub("leaf", "CA:FALSE", "");
    let elsewhere = sub("elsewhere", "CA:TRUE", "nameConstraints=critical,permitted;URI:.example.com");
    let here = sub("here", "CA:TRUE", "nameConstraints=critical,permitted;URI:test.internal");
    let foreign = sub("foreign", "CA:TRUE", "subjectAltName=URI:spiffe://other.internal");
    let lonely = Ca { root: good.chain.clone(), ..short.clone() };
    for (ca, why) in [
        (&open, "chmod 600"),
        (&other, "it is not the key of"),
        (&short, "path length 0"),
        (&leaf, "CA:TRUE"),
        (&elsewhere, "exclude the trust domain test.internal"),
        (&here, "name constraints on URIs"),
        (&foreign, "spiffe://other.internal"),
        (&lonely, "is missing"),
    ] {
        let options = options(ca);
        let told = refused(&mesh, &options.each_ref().map(String::as_str));
        assert!(told.contains(why), "{} should say `{why}`: {told}", ca.chain.display());
    }
}

#[test]
fn an_issuing_ca_ends_with_the_ca_above_it() {
    let folder = folder();
    let root = Ca::root(folder.path(), "root", Kind::default());
    let soon = root.below("soon", Kind { subject: "/CN=soon", days: 3, ..Kind::default() });
    let mut mesh = start(&soon);
    let renewed = trust(&mesh)["issuing_renewed_at"].as_u64().expect("a time");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    assert!(renewed < now + 2 * 86_400, "half of three days: {}", renewed - now);
    let log = mesh.server().output();
    assert!(log.contains("that ends with it"), "{log}");
}

/// The operator puts a CA under another root in the place of the first: under load, and without a restart.
fn replaced(data_plane: DataPlane) {
    let folder = folder();
    let (one, two) = (organization(folder.path(), "one"), organization(folder.path(), "two"));
    let ca = Ca {
        chain: folder.path().join("ca.pem"),
        key: folder.path().join("ca.key"),
        root: folder.path().join("roots.pem"),
        ..one.clone()
    };
    one.replace(&ca);
    std::fs::copy(&one.root, &ca.root).expect("it was made");
    let mut mesh = start(&ca);
    let pair = Pair::start(&mesh, data_plane, data_plane);
    let first = active(&mesh);

    let (load, begun) = (Load::start(pair.target(), RATE), Instant::now());
    // Both roots, as an operator would have it: what is there goes on, what comes is known.
    let roots = [std::fs::read(&one.root), std::fs::read(&two.root)].map(|root| root.expect("it was made"));
    std::fs::write(&ca.root, roots.concat()).expect("the folder can be written");
    two.replace(&ca);
    let second = wait::until("the other root to sign", Duration::from_secs(60), || {
        let now = active(&mesh);
        if now["id"] == first["id"] { Err(trust(&mesh).to_string()) } else { Ok(now) }
    });
    let tree = text(&mesh.weft(&["identity", "tree"]));
    assert!(tree.contains(&format!("{}  retired", first["id"].as_str().expect("an id"))), "{tree}");
    // Everybody comes to have a certificate under it, as after a stolen key.
    let state = mesh.state();
    let id = first["id"].as_str().expect("an id");
    let output = mesh.weft(&[
        "identity",
        "rotate",
        "--wait",
        "1m",
        "--state-dir",
        path(&state),
        "--reason",
        "it was stolen",
        "--compromised",
        id,
    ]);
    assert!(output.status.success(), "{}", text(&output));
    let until = Instant::now() + Duration::from_secs(2);
    wait::until(
        "some more requests",
        Duration::from_secs(10),
        || if Instant::now() >= until { Ok(()) } else { Err("") },
    );
    load.stop().assert_clean(RATE, begun.elapsed());
    // The file still names the first one. That it was stolen is not forgotten, also after a restart.
    mesh.kill_server();
    mesh.start_server();
    let roots = trust(&mesh)["roots"].as_array().expect("roots").clone();
    assert!(roots.len() == 1 && roots[0]["id"] == second["id"], "{roots:?}");
    drop(pair);
}

#[test]
fn another_ca_in_the_same_files_takes_over_under_load() {
    replaced(DataPlane::Weft);
}

#[test]
fn envoys_go_over_to_another_ca_under_load_too() {
    replaced(DataPlane::Envoy);
}

#[test]
fn a_mesh_with_roots_of_its_own_comes_under_a_ca_and_back() {
    let folder = folder();
    let ca = organization(folder.path(), "org");
    let mut mesh = Mesh::start();
    let pair = Pair::start(&mesh, DataPlane::Weft, DataPlane::Weft);
    let own = active(&mesh);
    assert!(own["source"].is_null(), "{own}");
    let (load, begun) = (Load::start(pair.target(), RATE), Instant::now());
    mesh.kill_server();
    mesh.options = options(&ca).to_vec();
    mesh.start_server();
    wait::until("the organization's root to sign", Duration::from_secs(60), || {
        let root = active(&mesh);
        if root["source"] == path(&ca.chain) { Ok(()) } else { Err(trust(&mesh).to_string()) }
    });
    mesh.kill_server();
    mesh.options.clear();
    mesh.start_server();
    wait::until("a root of the mesh's own to sign", Duration::from_secs(60), || {
        let root = active(&mesh);
        if root["source"].is_null() && root["id"] != own["id"] { Ok(()) } else { Err(trust(&mesh).to_string()) }
    });
    load.stop().assert_clean(RATE, begun.elapsed());
}

#[test]
fn files_that_become_unusable_change_nothing_and_are_told() {
    let folder = folder();
    let ca = organization(folder.path(), "org");
    let mut mesh = start(&ca);
    let before = trust(&mesh);
    std::fs::write(&ca.chain, "nothing").expect("the folder can be written");
    wait::until("a warning", Duration::from_secs(20), || {
        let warnings = mesh.api("/api/status")?["warnings"].to_string();
        if warnings.contains("has no successor") && warnings.contains("no certificate") {
            Ok(())
        } else {
            Err(warnings)
        }
    });
    // It goes on, also after a restart.
    mesh.kill_server();
    mesh.start_server();
    let after = trust(&mesh);
    assert_eq!((&before["issuing"], &before["roots"]), (&after["issuing"], &after["roots"]));
    drop(mesh.svid("prod/web", "svid"));
}
