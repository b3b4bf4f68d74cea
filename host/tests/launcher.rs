//! The launcher against a zygote that these tests play, and against none.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::JoinHandle;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const LAUNCHER: &str = env!("CARGO_BIN_EXE_containerd-shim-spin-v2");
const ADDRESS: &str = "/run/test/containerd.sock";

/// Tells what it was given, so that a test sees that the fallback got all of it.
const SHIM: &str = "#!/bin/sh\necho \"shim: $0 $*\"\ncat\nexit 7\n";

/// A folder with the launcher, a stand-in for the Python shim, and a place for the socket.
struct Install(TempDir);

impl Install {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(LAUNCHER, folder.path().join("launcher")).unwrap();
        std::fs::create_dir(folder.path().join("zygote")).unwrap();
        let install = Self(folder);
        let shim = install.path("spinwheel-shim");
        std::fs::write(&shim, SHIM).unwrap();
        std::fs::set_permissions(shim, std::fs::Permissions::from_mode(0o755)).unwrap();
        install
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(name)
    }

    fn socket(&self, address: &str) -> PathBuf {
        let exe = self.path("launcher");
        let file = std::fs::metadata(&exe).unwrap();
        let mtime = i128::from(file.mtime()) * 1_000_000_000 + i128::from(file.mtime_nsec());
        let identity = format!("{address}\n{}\n{}\n{mtime}", exe.display(), file.ino());
        let digest = format!("{:x}", Sha256::digest(identity));
        self.path("zygote").join(format!("{}.sock", &digest[..16]))
    }

    fn spawn(&self, args: &[&str]) -> Child {
        Command::new(self.path("launcher"))
            .args(args)
            .env("SPINWHEEL_RUN_DIR", self.0.path())
            .env("NAMESPACE", "k8s.io")
            .env("SECRET", "1")
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    fn run(&self, args: &[&str], stdin: &[u8]) -> Output {
        let mut child = self.spawn(args);
        // A launcher that does not read its stdin may be gone by now.
        _ = child.stdin.take().unwrap().write_all(stdin);
        child.wait_with_output().unwrap()
    }

    /// Answers one call with `answer`, and returns what the launcher sent.
    fn zygote(&self, answer: Vec<u8>) -> JoinHandle<(Value, Vec<u8>)> {
        let listener = UnixListener::bind(self.socket(ADDRESS)).unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let call = serde_json::from_slice(&block(&mut stream)).unwrap();
            let stdin = block(&mut stream);
            stream.write_all(&answer).unwrap();
            (call, stdin)
        })
    }
}

fn block(stream: &mut UnixStream) -> Vec<u8> {
    let mut len = [0; 4];
    stream.read_exact(&mut len).unwrap();
    let mut block = vec![0; u32::from_be_bytes(len) as usize];
    stream.read_exact(&mut block).unwrap();
    block
}

fn answer(code: u32, stdout: &str, stderr: &str) -> Vec<u8> {
    let mut bytes = code.to_be_bytes().to_vec();
    for stream in [stdout, stderr] {
        bytes.extend(u32::try_from(stream.len()).unwrap().to_be_bytes());
        bytes.extend(stream.as_bytes());
    }
    bytes
}

fn start() -> [&'static str; 5] {
    ["-namespace", "k8s.io", "-address", ADDRESS, "start"]
}

fn delete() -> [&'static str; 3] {
    ["-address", ADDRESS, "delete"]
}

fn assert_fallback(install: &Install, output: &Output, args: &[&str], stdin: &str) {
    let shim = install.path("spinwheel-shim");
    let expected = format!("shim: {} {}\n{stdin}", shim.display(), args.join(" "));
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert_eq!(output.status.code(), Some(7));
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn the_zygotes_answer_is_delivered() {
    let install = Install::new();
    let zygote = install.zygote(answer(3, "unix:///run/x.sock", "a warning"));
    let output = install.run(&start(), b"options");
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(output.stdout, b"unix:///run/x.sock");
    assert_eq!(output.stderr, b"a warning");
    let (call, stdin) = zygote.join().unwrap();
    assert_eq!(stdin, b"options");
    assert_eq!(call["argv"], serde_json::json!(start()));
    assert_eq!(call["cwd"], "/");
    assert!(call["started_ns"].as_u64().unwrap() > 0);
}

#[test]
fn only_the_allowed_environment_is_sent() {
    let install = Install::new();
    let zygote = install.zygote(answer(0, "", ""));
    install.run(&start(), b"");
    let (call, _) = zygote.join().unwrap();
    let env = call["env"].as_object().unwrap();
    assert_eq!(env["NAMESPACE"], "k8s.io");
    assert!(env.contains_key("SPINWHEEL_RUN_DIR"));
    assert!(!env.contains_key("SECRET") && !env.contains_key("HOME"), "{env:?}");
}

#[test]
fn delete_does_not_wait_for_stdin() {
    let install = Install::new();
    let zygote = install.zygote(answer(0, "gone", ""));
    let mut child = install.spawn(&delete());
    // Held open: reading it to the end would never return.
    let stdin = child.stdin.take();
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    assert_eq!(output.stdout, b"gone");
    assert_eq!(zygote.join().unwrap().1, b"");
}

#[test]
fn without_a_zygote_the_shim_is_run_with_all_of_stdin() {
    let install = Install::new();
    let output = install.run(&start(), b"options");
    assert_fallback(&install, &output, &start(), "options");
}

#[test]
fn a_partial_answer_is_no_answer_and_stdin_is_replayed() {
    let whole = answer(0, "unix:///run/x.sock", "");
    for end in [0, 3, 4, 8, whole.len() - 1] {
        let install = Install::new();
        let zygote = install.zygote(whole[..end].to_vec());
        let output = install.run(&start(), b"options");
        assert_eq!(zygote.join().unwrap().1, b"options");
        assert_fallback(&install, &output, &start(), "options");
    }
}

#[test]
fn a_stale_socket_is_passed_over() {
    let install = Install::new();
    drop(UnixListener::bind(install.socket(ADDRESS)).unwrap());
    let output = install.run(&start(), b"options");
    assert_fallback(&install, &output, &start(), "options");
}

#[test]
fn a_silent_zygote_costs_delete_two_seconds_at_most() {
    let install = Install::new();
    let listener = UnixListener::bind(install.socket(ADDRESS)).unwrap();
    let asked = std::time::Instant::now();
    let output = install.run(&delete(), b"");
    assert!(asked.elapsed().as_millis() < 2500, "{:?}", asked.elapsed());
    assert_fallback(&install, &output, &delete(), "");
    drop(listener);
}

#[test]
fn more_stdin_than_a_zygote_takes_reaches_the_shim_whole() {
    let install = Install::new();
    let _listener = UnixListener::bind(install.socket(ADDRESS)).unwrap();
    let large = "x".repeat((10 << 20) + 4096);
    let args = start();
    let mut child = install.spawn(&args);
    let mut stdin = child.stdin.take().unwrap();
    let text = large.clone();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert_fallback(&install, &output, &args, &large);
}

#[test]
fn the_zygote_can_be_switched_off() {
    let install = Install::new();
    let _listener = UnixListener::bind(install.socket(ADDRESS)).unwrap();
    let output = Command::new(install.path("launcher"))
        .args(delete())
        .env("SPINWHEEL_RUN_DIR", install.0.path())
        .env("SPINWHEEL_NO_ZYGOTE", "1")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_fallback(&install, &output, &delete(), "");
}

#[test]
fn a_missing_shim_is_one_line_that_names_it() {
    let install = Install::new();
    let shim = install.path("spinwheel-shim");
    std::fs::remove_file(&shim).unwrap();
    let output = install.run(&delete(), b"");
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(message.lines().count(), 1);
    assert!(message.contains(shim.to_str().unwrap()), "{message}");
}

#[test]
fn a_symlink_leads_to_the_folder_of_the_real_program() {
    let install = Install::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("containerd-shim-spin-v2");
    std::os::unix::fs::symlink(install.path("launcher"), &link).unwrap();
    let output = Command::new(&link)
        .args(delete())
        .env("SPINWHEEL_RUN_DIR", install.0.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_fallback(&install, &output, &delete(), "");
}

#[test]
fn the_version_needs_nobody() {
    for flag in ["-v", "--version", "-version=true"] {
        let output = Command::new(LAUNCHER).arg(flag).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(
            text.starts_with("containerd-shim-spin-v2:\n  Version: 0.1.0\n  Revision: "),
            "{text}"
        );
        assert_eq!(text.lines().count(), 3);
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn no_wasmtime_is_linked() {
    let bytes = std::fs::read(Path::new(LAUNCHER)).unwrap();
    assert!(bytes.len() < 4 << 20, "{} bytes", bytes.len());
}
