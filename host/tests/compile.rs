//! `compile`, `fingerprint` and `--version` as a caller sees them: streams and exit codes.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const HOST: &str = env!("CARGO_BIN_EXE_spinwheel-host");

fn host(args: &[&str]) -> Output {
    Command::new(HOST).args(args).env_clear().output().unwrap()
}

fn line(bytes: &[u8]) -> String {
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert_eq!(text.matches('\n').count(), 1, "one line: {text:?}");
    text.trim_end().to_owned()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_report_and_the_fingerprint_command_agree() {
    let folder = tempfile::tempdir().unwrap();
    let wasm = wat::parse_str(include_str!("guests/p2.wat")).unwrap();
    let input = write(folder.path(), "in.wasm", &wasm);
    for target in ["native", "x86_64-linux", "aarch64-linux"] {
        let output = folder.path().join(target).to_str().unwrap().to_owned();
        let compiled = host(&["compile", "--target", target, &input, &output]);
        assert!(compiled.status.success(), "{compiled:?}");
        let report: Value = serde_json::from_str(&line(&compiled.stdout)).unwrap();
        assert_eq!(report["target"], target);
        assert_eq!(report["handler"], "wasi:http/incoming-handler@0.2.0");
        assert_eq!(report["fingerprint"], line(&host(&["fingerprint", "--target", target]).stdout));
        assert_eq!(report["size"], std::fs::metadata(&output).unwrap().len());
    }
    // e_machine of an ELF file: 0xb7 is AArch64.
    assert_eq!(std::fs::read(folder.path().join("aarch64-linux")).unwrap()[18], 0xb7);
}

/// `spinwheel node` has no tool that reads text: it ships these bytes. Write them again with `wat::parse_str`.
#[test]
fn the_probe_is_what_its_text_says() {
    let made = wat::parse_str(include_str!("guests/probe.wat")).unwrap();
    assert!(made == include_bytes!("../../shim/node/probe.wasm"), "probe.wasm is of another text");
}

#[test]
fn bad_input_is_one_line_and_65() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out").to_str().unwrap().to_owned();
    for bytes in [&b"hello"[..], b"\x7fELF", &wat::parse_str("(module)").unwrap()] {
        let input = write(folder.path(), "in", bytes);
        let refused = host(&["compile", &input, &output]);
        assert_eq!(refused.status.code(), Some(65));
        assert!(line(&refused.stderr).contains("wanted a WebAssembly component"));
        assert!(refused.stdout.is_empty());
    }
    assert!(!Path::new(&output).exists());
}

#[test]
fn usage_and_files_have_their_own_codes() {
    assert_eq!(host(&["compile", "only-one"]).status.code(), Some(2));
    let missing = host(&["compile", "/nowhere/in", "/nowhere/out"]);
    assert_eq!(missing.status.code(), Some(74));
    assert!(line(&missing.stderr).contains("/nowhere/in"));
}

#[test]
fn the_version_names_wasmtime() {
    assert_eq!(line(&host(&["--version"]).stdout), "spinwheel-host 0.1.0 (wasmtime 48.0.8)");
}
