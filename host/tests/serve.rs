//! A real server process, asked over real sockets.

mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::Server;

fn status(response: &str) -> &str {
    response.split(' ').nth(1).unwrap_or(response)
}

fn body(response: &str) -> &str {
    response.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

#[test]
fn a_guest_answers_and_the_ready_line_has_every_step() {
    let server = Server::start(|_| {});
    assert_eq!(status(&server.get("/")), "200");
    let ready: Value = serde_json::from_str(server.ready.strip_prefix("ready ").unwrap()).unwrap();
    let steps: Vec<&str> =
        ready["steps"].as_array().unwrap().iter().map(|step| step[0].as_str().unwrap()).collect();
    assert_eq!(steps, ["main", "plan", "engine", "components", "linked", "bound"]);
}

#[test]
fn the_banner_lists_the_routes() {
    let server = Server::start(|_| {});
    let out = server.wait_for("stdout", "wildcard");
    let address = &server.address;
    assert_eq!(
        out,
        format!(
            "Serving http://{address}\nAvailable Routes:\n  guest: http://{address} (wildcard)\n"
        )
    );
}

#[test]
fn reserved_paths_are_the_hosts() {
    let server = Server::start(|plan| plan["app"]["oci_image_digest"] = json!("sha256:1"));
    assert_eq!(body(&server.get("/.well-known/spin/health")), "OK");
    let info: Value = serde_json::from_str(body(&server.get("/.well-known/spin/info"))).unwrap();
    assert_eq!(info, json!({"name": "test", "version": "1.0", "oci_image_digest": "sha256:1"}));
    assert_eq!(status(&server.get("/.well-known/spin/else")), "404");
}

#[test]
fn an_unknown_route_is_an_empty_404() {
    let server = Server::start(|plan| plan["triggers"][0]["route"] = json!("/only"));
    assert_eq!(status(&server.get("/only")), "200");
    let response = server.get("/other");
    assert_eq!((status(&response), body(&response)), ("404", ""));
}

#[test]
fn a_trap_is_an_empty_500_and_the_log_has_the_reason() {
    let server = Server::start(|_| {});
    let response = server.get("/trap");
    assert_eq!((status(&response), body(&response)), ("500", ""));
    let log = server.wait_for("stderr", "unreachable");
    assert!(log.contains("component=guest") && log.contains("request=1"), "{log}");
    assert_eq!(status(&server.get("/")), "200");
}

#[test]
fn a_missing_response_is_a_500() {
    let server = Server::start(|_| {});
    assert_eq!(status(&server.get("/none")), "500");
    server.wait_for("stderr", "gave no response");
}

#[test]
fn a_guest_that_spins_gets_a_504_while_others_are_served() {
    let server = Server::start(|_| {});
    let mut spinning: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for stream in &mut spinning {
        stream.write_all(b"GET /spin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    }
    let asked = Instant::now();
    assert_eq!(status(&server.get("/")), "200");
    assert!(asked.elapsed() < Duration::from_millis(900), "{:?}", asked.elapsed());
    for mut stream in spinning {
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        assert_eq!(status(&response), "504");
    }
    server.wait_for("stderr", "no response in time");
}

#[test]
fn memory_beyond_the_limit_is_refused_to_the_guest() {
    assert_eq!(status(&Server::start(|_| {}).get("/grow")), "500");
    let roomy = Server::start(|plan| plan["limits"]["memory_bytes"] = Value::Null);
    assert_eq!(status(&roomy.get("/grow")), "200");
}

#[test]
fn beyond_max_concurrency_clients_are_told_to_come_back() {
    let server = Server::start(|plan| plan["limits"]["max_concurrency"] = json!(1));
    let mut spinning = server.connect();
    spinning.write_all(b"GET /spin HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let response = server.get("/");
    assert_eq!(status(&response), "503");
    assert!(response.to_lowercase().contains("retry-after: 1"), "{response}");
    spinning.read_to_string(&mut String::new()).unwrap();
    assert_eq!(status(&server.get("/")), "200");
}

#[test]
fn a_request_without_a_host_or_with_two_is_refused() {
    let server = Server::start(|_| {});
    for head in ["GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n"] {
        let response = server.raw(&format!("{head}Connection: close\r\n\r\n"));
        assert_eq!(status(&response), "400", "{head}");
    }
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let server = Server::start(|_| {});
    let many: String = (0..101).map(|n| format!("x{n}: 1\r\n")).collect();
    let response =
        server.raw(&format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{many}\r\n"));
    assert_eq!(status(&response), "431");
}

#[test]
fn a_path_that_is_too_long_is_refused() {
    let server = Server::start(|_| {});
    assert_eq!(status(&server.get(&format!("/{}", "a".repeat(17 << 10)))), "414");
}

#[test]
fn planted_and_contradicting_headers_do_not_break_a_request() {
    let server = Server::start(|_| {});
    let planted = "Spin-Client-Addr: me\r\nHost: other.spin.internal\r\nConnection: close\r\n";
    assert_eq!(status(&server.raw(&format!("GET / HTTP/1.1\r\n{planted}\r\n"))), "200");
    let absolute = "GET http://a/ HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&server.raw(absolute)), "400");
}

#[test]
fn a_port_in_use_is_the_answer_on_the_ready_pipe() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let mut server = Server::start(|plan| plan["listen"] = json!(address));
    let error: Value = serde_json::from_str(server.ready.strip_prefix("error ").unwrap()).unwrap();
    assert_eq!(error["kind"], "listen");
    assert!(error["message"].as_str().unwrap().contains(&address), "{error}");
    assert_eq!(server.exit_code(), Some(1));
}

#[test]
fn code_that_is_none_is_the_answer_on_the_ready_pipe() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("guest.aot"), "not code").unwrap();
    let mut server = Server::spawn(folder, &support::plan("127.0.0.1:0"));
    let error: Value = serde_json::from_str(server.ready.strip_prefix("error ").unwrap()).unwrap();
    assert_eq!(error["kind"], "component");
    assert!(error["message"].as_str().unwrap().contains("component guest"), "{error}");
    assert_eq!(server.exit_code(), Some(1));
}

#[test]
fn sigterm_finishes_what_is_in_flight_and_ends_with_0() {
    let mut server = Server::start(|_| {});
    let mut slow = server.connect();
    slow.write_all(b"GET /spin HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut idle = server.connect();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    server.signal("TERM");
    server.wait_for("stderr", "stopping");
    server.wait_until_it_refuses();
    let mut response = String::new();
    slow.read_to_string(&mut response).unwrap();
    assert_eq!(status(&response), "504", "the request in flight has its answer");
    assert_eq!(server.exit_code(), Some(0));
}

#[test]
fn the_grace_time_ends() {
    let mut server = Server::start(|plan| {
        plan["limits"]["request_timeout_ms"] = json!(60_000);
        plan["limits"]["shutdown_grace_ms"] = json!(200);
    });
    let mut slow = server.connect();
    slow.write_all(b"GET /spin HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    server.signal("TERM");
    let asked = Instant::now();
    assert_eq!(server.exit_code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
}

#[test]
fn a_second_signal_does_not_wait() {
    let mut server = Server::start(|plan| plan["limits"]["request_timeout_ms"] = json!(60_000));
    let mut slow = server.connect();
    slow.write_all(b"GET /spin HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_millis(200));
    server.signal("TERM");
    server.wait_for("stderr", "stopping");
    server.signal("INT");
    assert_eq!(server.exit_code(), Some(130));
}
