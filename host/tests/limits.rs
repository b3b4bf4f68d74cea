//! Guests that want more than they may have: each gets its own error, and nobody else notices.

mod support;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::json;
use support::Server;

fn status(response: &str) -> &str {
    response.split(' ').nth(1).unwrap_or(response)
}

fn roomy(plan: &mut serde_json::Value) {
    plan["limits"]["max_concurrency"] = json!(64);
}

/// A request that runs for longer than its CPU time is out of time, long before its deadline (faults G1).
#[test]
fn cpu_time_ends_before_the_deadline() {
    let server = Server::start(|plan| {
        plan["limits"]["request_timeout_ms"] = json!(20_000);
        plan["limits"]["cpu_ms"] = json!(100);
    });
    let asked = Instant::now();
    assert_eq!(status(&server.get("/spin")), "504");
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    server.wait_for("stderr", "used up its CPU time");
}

/// The deadline of a request is drawn from its range (H8).
#[test]
fn a_deadline_may_be_a_range() {
    let server = Server::start(|plan| plan["limits"]["request_timeout_ms"] = json!([200, 400]));
    let asked = Instant::now();
    assert_eq!(status(&server.get("/spin")), "504");
    assert!((190..900).contains(&asked.elapsed().as_millis()), "{:?}", asked.elapsed());
}

/// Deep recursion is a trap of its own request, hundreds of times over, and memory stays flat (faults G4).
#[test]
fn recursion_costs_one_request_each_time() {
    let server = Server::start(roomy);
    for _ in 0..50 {
        assert_eq!(status(&server.get("/recurse")), "500");
    }
    let before = server.resident_kib();
    for _ in 0..300 {
        assert_eq!(status(&server.get("/recurse")), "500");
    }
    let grown = server.resident_kib().saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} KiB more");
    assert_eq!(status(&server.get("/")), "200");
}

/// Clients that leave at any moment leave nothing behind (faults H9).
#[test]
fn clients_may_leave_at_any_moment() {
    let server = Server::start(roomy);
    let request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    for end in (0..300).map(|n| n % (request.len() + 1)) {
        let mut stream = server.connect();
        stream.write_all(&request[..end]).unwrap();
        drop(stream);
    }
    let mut slow = server.connect();
    slow.write_all(b"GET /spin HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    drop(slow);
    let mut last = server.connect();
    last.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = String::new();
    last.read_to_string(&mut response).unwrap();
    assert_eq!(status(&response), "200");
    assert!(!server.wait_for("stdout", "Serving").contains("panicked"));
}
