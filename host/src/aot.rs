//! Compiling ahead of time, and loading what was compiled: the one place where bytes become machine code.
//!
//! Law: only a file that our own compiler wrote may be loaded. This module cannot know that; whoever
//! writes the plan promises it (faults.md R1), and `inspect.rs` refuses precompiled bytes as input.
#![allow(unsafe_code, reason = "wasmtime marks loading compiled code as unsafe, see `load`")]

use std::path::Path;

use wasmtime::Engine;
use wasmtime::component::Component;

use crate::error::Error;

pub fn compile(engine: &Engine, wasm: &[u8]) -> Result<Vec<u8>, Error> {
    engine.precompile_component(wasm).map_err(|cause| {
        Error::Wasm(format!(
            "the component does not compile: {cause:#}; build it again with current tools"
        ))
    })
}

/// Maps the file at `path` into memory as code.
pub fn load(engine: &Engine, path: &Path) -> Result<Component, Error> {
    // SAFETY: the file was written by `compile`, and its digest was verified on the same descriptor by
    // the process that handed us the plan. It is mounted read-only, so it does not change under us.
    let loaded = unsafe { Component::deserialize_file(engine, path) };
    loaded.map_err(|cause| {
        Error::Component(format!(
            "{} is not code that this host can load: {cause:#}; compile the component again with this \
             release",
            path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{self, Target};

    #[test]
    fn code_for_another_machine_is_refused() {
        let wasm = wat::parse_str("(component (core module (func (export \"f\"))))").unwrap();
        let foreign = if cfg!(target_arch = "x86_64") { Target::Aarch64 } else { Target::X86_64 };
        let aot = compile(&engine::compiler(foreign).unwrap(), &wasm).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aot");
        std::fs::write(&path, aot).unwrap();
        let Err(error) = load(&engine::server(4, |_| None).unwrap(), &path) else {
            panic!("code for {} was loaded", foreign.name());
        };
        assert!(error.to_string().contains("compile the component again"), "{error}");
    }

    #[test]
    fn what_is_not_wasm_does_not_compile() {
        let error = compile(&engine::compiler(Target::Native).unwrap(), b"hello").unwrap_err();
        assert_eq!(error.exit_code(), 65);
    }
}
