//! `compile`: one wasm file in, one file of machine code out, one JSON line about it (none with output on stdout).
//!
//! Laws: the output is new (an existing file is never written to), complete or not there. The input
//! is read to a limit, whatever size it claims.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::Serialize;
use wasmtime::Engine;

use crate::engine::{self, Target};
use crate::error::Error;
use crate::{aot, inspect};

/// The largest component that is compiled (faults.md A13). Python apps have 25 MB.
const MAX_INPUT: u64 = 128 << 20;

/// What the control plane gets to know about the file that it asked for.
#[derive(Serialize)]
struct Outcome<'a> {
    fingerprint: String,
    target: &'a str,
    size: usize,
    handler: String,
    imports: Vec<String>,
}

pub fn run(target: Target, input: &Path, output: &Path) -> Result<String, Error> {
    let wasm = read(input)?;
    let shape = checked(&wasm)?;
    let engine = engine::compiler(target)?;
    let code = aot::compile(&engine, &wasm)?;
    write_new(output, &code)?;
    if output == Path::new("-") {
        return Ok(String::new()); // the code has the stream on which the report would go
    }
    let outcome = Outcome {
        fingerprint: engine::fingerprint(&engine, target),
        target: target.name(),
        size: code.len(),
        handler: shape.handler,
        imports: shape.imports,
    };
    serde_json::to_string(&outcome).map_err(|cause| Error::Internal(format!("no report: {cause}")))
}

fn checked(wasm: &[u8]) -> Result<inspect::Shape, Error> {
    let shape = inspect::inspect(wasm)?;
    // Wasmtime's own opinion on top of ours: should its format ever stop being ELF, this still holds.
    if Engine::detect_precompiled(wasm).is_some() {
        return Err(Error::Wasm(
            "wanted a WebAssembly component, found code that wasmtime compiled; push the .wasm file"
                .into(),
        ));
    }
    Ok(shape)
}

fn read(input: &Path) -> Result<Vec<u8>, Error> {
    let failed =
        |cause: std::io::Error| Error::Io(format!("cannot read {}: {cause}", input.display()));
    let source: File = if input == Path::new("-") {
        // A descriptor of our own, so that closing it does not close stdin for everyone.
        let owned: OwnedFd = rustix::io::dup(std::io::stdin()).map_err(|e| failed(e.into()))?;
        owned.into()
    } else {
        File::open(input).map_err(failed)?
    };
    let mut wasm = Vec::new();
    source.take(MAX_INPUT + 1).read_to_end(&mut wasm).map_err(failed)?;
    if wasm.len() as u64 > MAX_INPUT {
        return Err(Error::Wasm(format!(
            "{} has more than {} MiB; strip debug information from the component",
            input.display(),
            MAX_INPUT >> 20
        )));
    }
    Ok(wasm)
}

/// Creates `output` with `bytes`, and leaves nothing behind if that fails half-way.
fn write_new(output: &Path, bytes: &[u8]) -> Result<(), Error> {
    let failed = |cause: std::io::Error| {
        Error::Io(format!("cannot write {}: {cause}; name a new file", output.display()))
    };
    if output == Path::new("-") {
        let owned: OwnedFd = rustix::io::dup(std::io::stdout()).map_err(|e| failed(e.into()))?;
        return File::from(owned).write_all(bytes).map_err(failed);
    }
    // `/dev/fd/N` names what the caller opened: it exists, and the caller owns its cleanup.
    let inherited = is_descriptor(output);
    let mut options = OpenOptions::new();
    options.write(true).create_new(!inherited);
    let mut file = options.open(output).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.flush()).map_err(|cause| {
        if !inherited {
            _ = std::fs::remove_file(output);
        }
        failed(cause)
    })
}

fn is_descriptor(path: &Path) -> bool {
    let parent: Option<PathBuf> = path.parent().map(Path::to_path_buf);
    parent.is_some_and(|p| p == Path::new("/dev/fd") || p == Path::new("/proc/self/fd"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Vec<u8> {
        wat::parse_str(
            "(component (instance $i) (export \"wasi:http/incoming-handler@0.2.0\" (instance $i)))",
        )
        .unwrap()
    }

    #[test]
    fn the_report_has_every_promised_field() {
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::write(&input, hello()).unwrap();
        let line = run(Target::X86_64, &input, &output).unwrap();
        let report: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(report["target"], "x86_64-linux");
        assert_eq!(report["handler"], "wasi:http/incoming-handler@0.2.0");
        assert_eq!(report["imports"], serde_json::json!([]));
        assert_eq!(report["size"], std::fs::metadata(&output).unwrap().len());
        assert_eq!(report["fingerprint"].as_str().unwrap().len(), 64);
    }

    #[test]
    fn an_existing_output_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::write(&input, hello()).unwrap();
        std::fs::write(&output, "mine").unwrap();
        let error = run(Target::Native, &input, &output).unwrap_err();
        assert_eq!(error.exit_code(), 74);
        assert_eq!(std::fs::read(&output).unwrap(), b"mine");
    }

    #[test]
    fn a_compiled_file_is_no_input() {
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::write(&input, hello()).unwrap();
        run(Target::Native, &input, &output).unwrap();
        let error = run(Target::Native, &output, &dir.path().join("again")).unwrap_err();
        assert!(error.to_string().contains("native code"), "{error}");
    }

    #[test]
    fn a_file_that_never_ends_is_read_to_the_limit() {
        let error = run(Target::Native, Path::new("/dev/zero"), Path::new("/nowhere/out"));
        assert!(error.unwrap_err().to_string().contains("128 MiB"));
    }
}
