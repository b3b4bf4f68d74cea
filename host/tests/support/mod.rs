//! A real server process for tests: on port 0, its plan and code on inherited descriptors, killed on drop.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

pub const HOST: &str = env!("CARGO_BIN_EXE_spinwheel-host");
const PATIENCE: Duration = Duration::from_secs(20);

/// Compiles `wat` to `folder/name.aot`.
pub fn compile(folder: &Path, name: &str, wat: &str) -> PathBuf {
    let (wasm, aot) = (folder.join(name), folder.join(format!("{name}.aot")));
    fs::write(&wasm, wat::parse_str(wat).unwrap()).unwrap();
    let status = Command::new(HOST)
        .arg("compile")
        .args([&wasm, &aot])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    aot
}

pub fn plan(listen: &str) -> Value {
    json!({
        "version": 1,
        "app": {"name": "test", "version": "1.0", "description": "", "oci_image_digest": ""},
        "listen": listen,
        "ready_fd": 4,
        "components": [{"id": "guest", "digest": "sha256:0", "aot": {"fd": 5}, "env": [],
                        "variables": {}, "files": null, "allowed_outbound_hosts": []}],
        "triggers": [{"id": "t", "component": "guest", "static_response": null, "route": "/..."}],
        "limits": {"memory_bytes": 33_554_432, "cpu_ms": null, "request_timeout_ms": 1000,
                   "max_concurrency": 4, "max_queue": 0, "queue_timeout_ms": 1000,
                   "max_instance_reuse_count": null, "max_instance_concurrent_reuse_count": null,
                   "idle_instance_timeout_ms": 1000, "shutdown_grace_ms": 3000},
        "http": {"find_free_port": false, "max_connections": 1024, "http1_max_buf_bytes": 65536,
                 "http2": true, "tls": null},
    })
}

pub struct Server {
    child: Child,
    folder: TempDir,
    pub address: String,
    pub ready: String,
}

impl Server {
    /// Starts a server of the WAT guest with the default plan as `change` leaves it.
    pub fn start(change: impl FnOnce(&mut Value)) -> Self {
        Self::of(include_str!("../guests/p2.wat"), change)
    }

    /// As `start`, with a guest of one's own.
    pub fn of(wat: &str, change: impl FnOnce(&mut Value)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        compile(folder.path(), "guest", wat);
        let mut document = plan("127.0.0.1:0");
        change(&mut document);
        Self::spawn(folder, &document)
    }

    /// Starts a server whose code is `folder/guest.aot`.
    pub fn spawn(folder: TempDir, plan: &Value) -> Self {
        fs::write(folder.path().join("plan"), plan.to_string()).unwrap();
        // The shell is the only way to place descriptors that needs no unsafe code; `exec` makes the
        // child's pid the server's.
        let child = Command::new("sh")
            .current_dir(folder.path())
            .args(["-c", "exec \"$0\" serve --plan-fd 3 3<plan 4>ready 5<guest.aot", HOST])
            .env("SECRET_OF_THE_HOST", "1")
            .stdin(Stdio::null())
            .stdout(fs::File::create(folder.path().join("stdout")).unwrap())
            .stderr(fs::File::create(folder.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let mut server = Self { child, folder, address: String::new(), ready: String::new() };
        server.ready = server.wait_for("ready", "\n");
        if let Some(json) = server.ready.strip_prefix("ready ") {
            let ready: Value = serde_json::from_str(json).unwrap();
            ready["listen"].as_str().unwrap().clone_into(&mut server.address);
        }
        server
    }

    /// Waits until a file of the server has `text`, and returns all of it.
    pub fn wait_for(&self, name: &str, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
            if found.contains(text) {
                return found;
            }
            assert!(Instant::now() < end, "no {text:?} in {name}: {found:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn get(&self, path: &str) -> String {
        self.raw(&format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"))
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Raw bytes in, raw bytes out, until the server closes.
    pub fn raw(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    pub fn wait_until_it_refuses(&self) {
        let end = Instant::now() + Duration::from_secs(1);
        while TcpStream::connect(&self.address).is_ok() {
            assert!(Instant::now() < end, "it still accepts");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Memory that the server has now.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    pub fn exit_code(&mut self) -> Option<i32> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the server does not end");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already, which is as good.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
