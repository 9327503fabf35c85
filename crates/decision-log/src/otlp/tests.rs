use std::sync::Mutex;

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceResponse};
use tonic::{Request, Response, Status};

use super::*;

/// A collector that answers with these one after the other, then with yes.
#[derive(Clone, Default)]
struct Collector {
    answers: Arc<Mutex<Vec<Result<i64, Code>>>>,
    got: Arc<Mutex<Vec<ExportLogsServiceRequest>>>,
}

#[tonic::async_trait]
impl LogsService for Collector {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let answer = self.answers.lock().unwrap().pop().unwrap_or(Ok(0));
        let rejected_log_records = answer.map_err(|code| Status::new(code, "as told"))?;
        self.got.lock().unwrap().push(request.into_inner());
        let partial = ExportLogsPartialSuccess { rejected_log_records, error_message: String::new() };
        Ok(Response::new(ExportLogsServiceResponse { partial_success: Some(partial) }))
    }
}

async fn collector(answers: Vec<Result<i64, Code>>) -> (Collector, Exporter) {
    let collector = Collector { answers: Arc::new(Mutex::new(answers)), ..Default::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder().add_service(LogsServiceServer::new(collector.clone()));
    tokio::spawn(server.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
    let source = Source { namespace: "prod".into(), name: "board".into(), instance: "board-1".into() };
    (collector, Exporter::start(&url, source).unwrap())
}

const LINES: &[u8] = br#"{"time":"2026-11-24T16:18:06.250Z","decision":"deny","decision_id":"d1","action":"call","resource":"prod/board","method":"GET","path":"/x","attributes":{"query.tag":["a"]},"policies":[{"id":"p","file":"policies/x.cedar","line":3}],"reason":"forbid policies/x.cedar:3","commit":"c0ffee","policy_version":"1","trace_id":"0af7651916cd43dd8448eb211c80319c","micros":1.5}
{"time":"2026-11-24T16:18:07.000Z","decision":"allow","decision_id":"d2","action":"call","resource":"prod/board","reason":"permit policies/x.cedar:1","commit":"c0ffee","policy_version":"1"}
"#;

#[tokio::test]
async fn decisions_are_log_records_of_their_service() {
    let (collector, exporter) = collector(vec![]).await;
    exporter.copy()(LINES);
    exporter.end().await;
    let got = collector.got.lock().unwrap();
    let logs = &got[0].resource_logs[0];
    let resource = logs.resource.as_ref().unwrap();
    assert_eq!(resource.attributes[1], attribute("service.name", text("board")));
    let records = &logs.scope_logs[0].log_records;
    assert_eq!(records.len(), 2);
    let denial = &records[0];
    assert_eq!(denial.time_unix_nano, 1_795_537_086_250_000_000);
    assert_eq!((denial.severity_number(), &*denial.severity_text), (SeverityNumber::Warn, "WARN"));
    assert_eq!(denial.body, Some(text("forbid policies/x.cedar:3")));
    assert_eq!(denial.trace_id[..2], [0x0a, 0xf7]);
    let find = |key: &str| denial.attributes.iter().find(|attribute| attribute.key == key).cloned();
    assert_eq!(find("decision_id"), Some(attribute("decision_id", text("d1"))));
    assert_eq!(find("micros"), Some(attribute("micros", AnyValue { value: Some(Value::DoubleValue(1.5)) })));
    assert_eq!(find("time"), None);
    assert!(matches!(find("attributes").unwrap().value.unwrap().value, Some(Value::KvlistValue(_))));
    assert_eq!(records[1].severity_number(), SeverityNumber::Info);
}

#[tokio::test]
async fn what_may_be_sent_again_is_and_what_is_refused_is_counted() {
    // The last comes first.
    let (collector, exporter) = collector(vec![Ok(1), Err(Code::Unavailable)]).await;
    let mut copy = exporter.copy();
    copy(LINES);
    let wait = async {
        while collector.got.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it is sent again");
    let lost = exporter.lost();
    collector.answers.lock().unwrap().push(Err(Code::InvalidArgument));
    copy(LINES);
    exporter.end().await;
    assert_eq!(lost.load(Ordering::Relaxed), 3, "one of the first two, then both");
    assert_eq!(collector.got.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_collector_that_is_away_costs_records_and_no_time() {
    let source = Source { namespace: String::new(), name: String::new(), instance: String::new() };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let exporter = Exporter::start(&format!("http://{free}"), source.clone()).unwrap();
    let mut copy = exporter.copy();
    for _ in 0..QUEUED * 2 {
        copy(LINES);
    }
    assert!(exporter.lost().load(Ordering::Relaxed) >= QUEUED as u64);
    exporter.end().await;
    for url in ["", "127.0.0.1:4317", "https://collector:4317", "http://"] {
        assert!(Exporter::start(url, source.clone()).is_err(), "{url}");
    }
}
