//! The door, knocked at in every way that clients have: HTTP/2, TLS, upgrades, silence, and too many at once.

mod support;

use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use serde_json::{Value, json};
use support::Server;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

fn status(response: &str) -> &str {
    response.split(' ').nth(1).unwrap_or(response)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Speaks HTTP/2 without being asked to, and sends one request.
async fn two(server: &Server, request: Request<()>) -> StatusCode {
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let (response, _) = client.send_request(request, true).unwrap();
    let status = response.await.unwrap().status();
    driver.abort();
    status
}

fn get(path: &str) -> http::request::Builder {
    Request::get(format!("http://test{path}"))
}

/// HTTP/2 by prior knowledge and HTTP/1.1 are told apart on one port (H4).
#[test]
fn both_versions_are_spoken_on_one_port() {
    let server = Server::start(|_| {});
    assert_eq!(runtime().block_on(two(&server, get("/").body(()).unwrap())), 200);
    assert_eq!(status(&server.get("/")), "200");
    let mut split = server.connect();
    split.write_all(b"P").unwrap();
    std::thread::sleep(Duration::from_millis(50));
    split.write_all(b"OST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    split.read_to_string(&mut response).unwrap();
    assert_eq!(status(&response), "200", "a method that begins as the preface does");
}

/// HTTP/2 can be turned off; its preface is then no request (H4).
#[test]
fn http2_can_be_turned_off() {
    let server = Server::start(|plan| plan["http"]["http2"] = json!(false));
    let answer = server.raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert!(
        answer.is_empty() || status(&answer).starts_with('4') || status(&answer).starts_with('5')
    );
    assert_eq!(status(&server.get("/")), "200");
}

/// The limits of a head hold for HTTP/2, too (faults H4).
#[test]
fn a_head_that_is_too_large_is_refused_in_http2() {
    let server = Server::start(|_| {});
    let many = (0..101).fold(get("/"), |head, n| head.header(format!("x{n}"), "1"));
    assert_eq!(runtime().block_on(two(&server, many.body(()).unwrap())), 431);
    let long = get(&format!("/{}", "a".repeat(17 << 10))).body(()).unwrap();
    assert_eq!(runtime().block_on(two(&server, long)), 414);
}

/// A client that half-closes gets its answer all the same (H4).
#[test]
fn half_a_connection_is_enough_for_an_answer() {
    let server = Server::start(|_| {});
    let mut stream = server.connect();
    stream.write_all(b"GET /spin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert_eq!(status(&response), "504");
}

/// A web socket is refused in words; an offer of `h2c`, which may be ignored, is ignored (H4).
#[test]
fn an_upgrade_is_refused_in_words() {
    let server = Server::start(|_| {});
    let ask = |protocol: &str| {
        server.raw(&format!(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: {protocol}\r\n\r\n"
        ))
    };
    let refused = ask("WebSocket");
    assert_eq!(status(&refused), "501");
    assert!(refused.contains("switches to no other protocol"), "{refused}");
    assert_eq!(status(&ask("h2c")), "200");
    assert_eq!(status(&server.raw("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n")), "501");
}

/// A static response needs no component, and of two equal routes the later one counts (H13, H17).
#[test]
fn a_static_response_displaces_an_equal_route() {
    let server = Server::start(|plan| {
        let response = json!({"status": 301, "headers": [["location", "/new"]], "body": "moved"});
        plan["triggers"] = json!([
            {"id": "a", "route": "/old", "component": "guest", "static_response": null},
            {"id": "b", "route": "/old", "component": null, "static_response": response},
        ]);
    });
    let response = server.get("/old");
    assert_eq!(status(&response), "301");
    assert!(
        response.contains("location: /new") && response.ends_with("\r\n\r\nmoved"),
        "{response}"
    );
    let log = server.wait_for("stderr", "same route");
    assert!(log.contains("route=/old") && log.contains("ignored=guest"), "{log}");
}

/// Beyond the permits a bounded number waits; the surplus is 503 with Retry-After at once (faults H8).
#[test]
fn a_bounded_number_waits_for_its_turn() {
    let server = Server::start(|plan| {
        plan["limits"]["max_concurrency"] = json!(1);
        plan["limits"]["max_queue"] = json!(1);
        plan["limits"]["queue_timeout_ms"] = json!(10_000);
    });
    let mut spinning = server.connect();
    spinning.write_all(b"GET /spin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let mut waiting = server.connect();
    waiting.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let asked = Instant::now();
    let surplus = server.get("/");
    assert_eq!(status(&surplus), "503");
    assert!(surplus.to_lowercase().contains("retry-after: 1"), "{surplus}");
    assert!(asked.elapsed() < Duration::from_millis(300), "{:?}", asked.elapsed());
    let mut response = String::new();
    waiting.read_to_string(&mut response).unwrap();
    assert_eq!(status(&response), "200");
}

/// Who waits in the queue does not wait for longer than it is told to (faults H8).
#[test]
fn the_queue_has_a_time_limit() {
    let server = Server::start(|plan| {
        plan["limits"]["max_concurrency"] = json!(1);
        plan["limits"]["max_queue"] = json!(1);
        plan["limits"]["queue_timeout_ms"] = json!(100);
    });
    let mut spinning = server.connect();
    spinning.write_all(b"GET /spin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let asked = Instant::now();
    assert_eq!(status(&server.get("/")), "503");
    assert!((100..600).contains(&asked.elapsed().as_millis()), "{:?}", asked.elapsed());
}

/// A silent client and a slow head are closed in time (faults H1).
#[test]
fn who_says_nothing_is_shown_out() {
    let server = Server::start(|_| {});
    let first: [&[u8]; 4] = [b"", b"G", b"GET / HTTP/1.1\r\nHost: a\r\nx: ", b"PR"];
    let mut clients: Vec<_> = first.map(|_| server.connect()).into();
    for (client, bytes) in clients.iter_mut().zip(first) {
        client.write_all(bytes).unwrap();
    }
    let asked = Instant::now();
    for client in &mut clients {
        // What it gets before the end (settings, a 408) does not matter, nor does a reset.
        _ = client.read_to_end(&mut Vec::new());
        assert!((9..12).contains(&asked.elapsed().as_secs()), "{:?}", asked.elapsed());
    }
    assert_eq!(status(&server.get("/")), "200");
}

/// Writes `tls.crt` and `tls.key` for the name `localhost`, with `subject` in the former.
fn certify(folder: &Path, subject: &str) {
    let done = Command::new("openssl")
        .current_dir(folder)
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-keyout", "tls.key", "-out", "tls.crt", "-days", "1"])
        .args(["-subj", &format!("/CN={subject}"), "-addext", "subjectAltName=DNS:localhost"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(done.success(), "openssl");
}

/// A server with TLS from files in `folder`.
fn secure(folder: &Path) -> Server {
    let files = json!({"cert": folder.join("tls.crt"), "key": folder.join("tls.key")});
    Server::start(|plan| plan["http"]["tls"] = files)
}

/// Asks over TLS with the certificate of `folder` as the only one that is trusted.
async fn over_tls(server: &Server, folder: &Path, protocol: &[u8]) -> Option<StatusCode> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("tls.crt")).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.into()];
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
    let (mut client, connection) = h2::client::handshake(stream).await.ok()?;
    tokio::spawn(connection);
    let request = Request::get("https://localhost/").body(()).unwrap();
    Some(client.send_request(request, true).unwrap().0.await.unwrap().status())
}

/// TLS is served from PEM files, and new ones are taken up while old connections stay (H3).
#[test]
fn certificates_are_taken_up_when_they_change() {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path(), "one");
    let server = secure(folder.path());
    let ask = || runtime().block_on(over_tls(&server, folder.path(), b"h2"));
    assert_eq!(ask(), Some(StatusCode::OK));
    std::thread::sleep(Duration::from_millis(1100));
    certify(folder.path(), "two");
    assert_eq!(ask(), Some(StatusCode::OK), "the new certificate is served");
    std::thread::sleep(Duration::from_millis(1100));
    std::fs::write(folder.path().join("tls.key"), "no key").unwrap();
    assert_eq!(ask(), Some(StatusCode::OK), "half of a change changes nothing");
    server.wait_for("stderr", "keeping the certificate");
}

/// Files that are none are the answer on the ready pipe, with the file's name (H3).
#[test]
fn tls_without_its_files_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = secure(folder.path());
    let error: Value = serde_json::from_str(server.ready.strip_prefix("error ").unwrap()).unwrap();
    assert!(error["message"].as_str().unwrap().contains("tls.crt"), "{error}");
    assert_eq!(server.exit_code(), Some(1));
}

/// A client that shakes no hands is shown out after five seconds, and others are served (faults H3).
#[test]
fn an_unfinished_handshake_has_five_seconds() {
    let folder = tempfile::tempdir().unwrap();
    certify(folder.path(), "one");
    let server = secure(folder.path());
    let mut silent: Vec<_> = (0..20).map(|_| server.connect()).collect();
    let asked = Instant::now();
    assert_eq!(runtime().block_on(over_tls(&server, folder.path(), b"h2")), Some(StatusCode::OK));
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    for client in &mut silent {
        _ = client.read_to_end(&mut Vec::new());
    }
    assert!((4..7).contains(&asked.elapsed().as_secs()), "{:?}", asked.elapsed());
}
