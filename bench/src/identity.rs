//! What a certificate costs the control plane: renewals over its real API (mutual TLS, gRPC, the store), in CPU time of the server alone.
//! Beside it, what cannot be had for less: a bare signature, and a bare handshake with certificates on both ends.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, ServerConnection};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use weft_identity::ca::KeyRequest;
use weft_identity::proto::RenewRequest;
use weft_identity::proto::identity_client::IdentityClient;
use weft_identity::{ClientAuth, JoinToken, LiveIdentity, PeerMatch, client, connect, schedule, tls};
use weft_model::ServiceName;
use weft_tests::mesh::Mesh;
use weft_tests::peers;

use crate::spread::{ends, median};
use crate::{crowd, meter, report, root};

/// Connections to the server, and renewals under way on each.
const CONNECTIONS: usize = 8;
const AT_ONCE: usize = 4;
/// Workloads that are renewed in turns.
const WORKLOADS: usize = 10_000;
/// Bare signatures and handshakes of one round.
const SIGNATURES: u32 = 2_000;
const HANDSHAKES: u32 = 300;
/// The life of a certificate, if nobody says otherwise.
const LIFE: Duration = Duration::from_secs(3600);

/// How much is measured.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Rounds, each of all three
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Renewals of one round
    #[arg(long, default_value_t = 5_000)]
    renewals: usize,
}

/// Of each round.
#[derive(Default)]
struct Seen {
    /// Certificates per second of the server's CPU.
    svids: Vec<f64>,
    /// Microseconds of CPU of one signature.
    signature: Vec<f64>,
    /// Of one handshake, both ends.
    handshake: Vec<f64>,
}

/// Measures, prints, and writes the results.
pub(crate) fn run(options: &Options) -> Result<()> {
    ensure!(options.rounds > 0 && options.renewals > 0, "rounds and renewals must be at least 1");
    let mut mesh = Mesh::start_program(&peers::weft(), &root().join("bench/mesh"), |_| {});
    let server = mesh.server().id();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let workload = runtime.block_on(attest(&mesh))?;
    // Made beforehand: a key and a request of its own are the workload's cost.
    let requests: Vec<Vec<u8>> =
        (0..64).map(|_| Ok(KeyRequest::new()?.csr)).collect::<Result<_, weft_identity::CaError>>()?;
    let requests = Arc::new(requests);
    let mut seen = Seen::default();
    // The first round is for warming up.
    for round in 0..=options.rounds {
        let before = meter::cpu(server)?;
        let first = round * options.renewals;
        runtime.block_on(renew(&mesh.xds.to_string(), &workload, &requests, first, options.renewals))?;
        let svids = options.renewals as f64 / (meter::cpu(server)? - before).as_secs_f64();
        let (signature, handshake) = (signatures()?, handshakes(&workload)?);
        if round > 0 {
            println!(
                "round {round} of {}: {svids:>6.0} SVIDs per CPU-second of the server; a signature {signature:.1} us, a handshake {handshake:.0} us of both ends",
                options.rounds
            );
            seen.svids.push(svids);
            seen.signature.push(signature);
            seen.handshake.push(handshake);
        }
    }
    let rss = meter::rss_kib(server)?;
    drop(mesh);
    let agent = crowd::agent_rss_kib()?;
    let folder = root().join("target/bench");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("identity.json");
    std::fs::write(&file, format!("{:#}\n", json(&seen, rss, agent)))?;
    println!("\n{}wrote {}", table(&seen, rss, agent), file.display());
    if options.rounds >= 7 && options.renewals >= 5_000 {
        let page = root().join("docs/benchmarks.md");
        report::put(&page, "identity", &format!("On {}.\n\n{}", report::machine(), table(&seen, rss, agent)))?;
        println!("wrote the table into {}", page.display());
    }
    Ok(())
}

/// One workload's identity, as its first certificate has it.
async fn attest(mesh: &Mesh) -> Result<Arc<LiveIdentity>> {
    let token: JoinToken = mesh.token("bench/client").parse()?;
    let service: ServiceName = "bench/client".parse()?;
    let obtained = client::attest(&mesh.xds.to_string(), &service, &token).await?;
    let live = LiveIdentity::empty();
    live.set(obtained.svid, obtained.bundle);
    Ok(live)
}

/// So many renewals, over some connections at once; each is of another of the workloads, by the name that it calls itself.
async fn renew(
    server: &str,
    workload: &Arc<LiveIdentity>,
    requests: &Arc<Vec<Vec<u8>>>,
    first: usize,
    count: usize,
) -> Result<()> {
    let mut tasks = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let channel = connect(server, workload).await?;
        for lane in 0..AT_ONCE {
            let (mut client, requests) = (IdentityClient::new(channel.clone()), requests.clone());
            tasks.spawn(async move {
                for number in (connection * AT_ONCE + lane..count).step_by(CONNECTIONS * AT_ONCE) {
                    let csr = requests[number % requests.len()].clone();
                    let node_id = format!("bench/client~{}", (first + number) % WORKLOADS);
                    let answer = client.renew(RenewRequest { csr, node_id }).await?.into_inner();
                    ensure!(answer.chain.len() >= 2, "a chain of {}", answer.chain.len());
                }
                Ok(())
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

/// Microseconds of a bare ECDSA P-256 signature.
fn signatures() -> Result<f64> {
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
    let start = cpu_of_this_thread()?;
    for number in 0..SIGNATURES {
        std::hint::black_box(key.sign(&random, &number.to_ne_bytes())?);
    }
    Ok(per(cpu_of_this_thread()? - start, SIGNATURES))
}

/// Microseconds of a bare handshake as sidecars make it, both ends in one thread.
fn handshakes(workload: &Arc<LiveIdentity>) -> Result<f64> {
    let id = workload.id().context("it has attested")?;
    let server = tls::server_config(workload.clone(), ClientAuth::Required, &[b"h2"]);
    let client = tls::client_config(workload.clone(), PeerMatch::Exact(id), &[b"h2"]);
    let start = cpu_of_this_thread()?;
    for _ in 0..HANDSHAKES {
        let name = ServerName::try_from("client.bench")?;
        let (mut near, mut far) =
            (ClientConnection::new(client.clone(), name)?, ServerConnection::new(server.clone())?);
        let mut bytes = Vec::new();
        while near.is_handshaking() || far.is_handshaking() {
            near.write_tls(&mut bytes)?;
            far.read_tls(&mut &bytes[..])?;
            far.process_new_packets()?;
            bytes.clear();
            far.write_tls(&mut bytes)?;
            near.read_tls(&mut &bytes[..])?;
            near.process_new_packets()?;
            bytes.clear();
        }
    }
    Ok(per(cpu_of_this_thread()? - start, HANDSHAKES))
}

fn per(took: Duration, count: u32) -> f64 {
    took.as_secs_f64() * 1e6 / f64::from(count)
}

fn cpu_of_this_thread() -> Result<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    let used = text.split_ascii_whitespace().next().context("a number")?;
    Ok(Duration::from_nanos(used.parse()?))
}

/// How evenly workloads come back that all got their certificates in one moment: the busiest second over the mean of the seconds in which
/// any comes.
fn busiest_second() -> f64 {
    let issued = SystemTime::UNIX_EPOCH;
    let mut seconds = std::collections::BTreeMap::<u64, u32>::new();
    for _ in 0..WORKLOADS {
        let due = schedule::renewal(issued, issued + LIFE, rand::random());
        *seconds.entry(due.duration_since(issued).unwrap_or_default().as_secs()).or_default() += 1;
    }
    let most = seconds.values().copied().max().unwrap_or(0);
    f64::from(most) * seconds.len() as f64 / WORKLOADS as f64
}

fn json(seen: &Seen, rss: u64, agent: Option<u64>) -> Value {
    let round = |value: f64| (value * 10.0).round() / 10.0;
    json!({
        "svids_per_cpu_second": median(&seen.svids).round(),
        "signature_us": round(median(&seen.signature)),
        "handshake_us": round(median(&seen.handshake)),
        "server_rss_kib": rss,
        "workloads": WORKLOADS,
        "agent_rss_kib": agent,
        "agent_workloads": crowd::WORKLOADS,
        "busiest_second_over_mean": round(busiest_second()),
    })
}

fn table(seen: &Seen, rss: u64, agent: Option<u64>) -> String {
    let row = |what: &str, values: &[f64]| {
        let (least, most) = ends(values);
        format!("| {what} | {:.0} ({least:.0}-{most:.0}) |\n", median(values))
    };
    let agent =
        agent.map_or_else(|| "not measured: it takes root".to_owned(), |kib| format!("{:.1}", kib as f64 / 1024.0));
    let of_signature = 1e6 / median(&seen.svids) / median(&seen.signature);
    format!(
        "| | median (spread) |\n|---|---|\n{}{}{}| an SVID over the API / a bare signature | {of_signature:.1}x |\n\
         | resident memory of the server that knows {WORKLOADS} workloads, MiB | {:.1} |\n\
         | resident memory of an agent while {} processes hold a certificate each and listen, MiB | {agent} |\n\
         | busiest second of {WORKLOADS} renewals over the mean | {:.1}x |\n\n",
        row("SVIDs per CPU-second of the server", &seen.svids),
        row("a bare ECDSA P-256 signature, us of CPU", &seen.signature),
        row("a bare handshake with certificates on both ends, us of CPU of both", &seen.handshake),
        rss as f64 / 1024.0,
        crowd::WORKLOADS,
        busiest_second(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_medians_with_their_spread() {
        let seen = Seen { svids: vec![4_000.0, 2_000.0, 5_000.0], signature: vec![50.0], handshake: vec![900.0] };
        let text = table(&seen, 20_480, Some(30_720));
        assert!(text.contains("| SVIDs per CPU-second of the server | 4000 (2000-5000) |"), "{text}");
        assert!(
            text.contains("| an SVID over the API / a bare signature | 5.0x |")
                && text.contains("MiB | 20.0 |")
                && text.contains("MiB | 30.0 |"),
            "{text}"
        );
        let json = json(&seen, 7, None);
        assert_eq!((&json["svids_per_cpu_second"], &json["server_rss_kib"]), (&json!(4_000.0), &json!(7)));
        assert!((1.0..3.0).contains(&busiest_second()), "{}", busiest_second());
    }
}
