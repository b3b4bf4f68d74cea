//! `componentize MODULE COMPONENT`: turns a wasip1 core module into a component.
//!
//! Knows: the adapter that stands between wasip1 and WASI 0.2, and wit-component's encoder.
//! This is `wasm-tools component new --adapt`, without the ten minutes that building all of
//! wasm-tools takes.
//! Laws: the output is validated before a byte of it is written; a failure is one line on stderr.

use std::process::ExitCode;
use std::{env, fs};

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_component::ComponentEncoder;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [module, component] = arguments.as_slice() else {
        eprintln!("componentize: wanted MODULE COMPONENT, found {} arguments", arguments.len());
        return ExitCode::from(2);
    };
    match convert(module, component) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("componentize: {module}: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn convert(module: &str, component: &str) -> Result<(), String> {
    let bytes = fs::read(module).map_err(|error| error.to_string())?;
    let encoded = encode(&bytes).map_err(|error| format!("{error:#}"))?;
    fs::write(component, encoded).map_err(|error| format!("writing {component}: {error}"))
}

fn encode(module: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut encoder = ComponentEncoder::default();
    encoder.validate(true).module(module)?;
    encoder.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?;
    Ok(encoder.encode()?)
}
