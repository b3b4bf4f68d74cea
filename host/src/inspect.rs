//! What a wasm file is, and whether this host can serve it: pure, and the same for every target.
//!
//! Laws: bytes that look compiled are refused before anything else looks at them (faults.md A1). A
//! component has exactly one HTTP handler. It imports nothing at its top level that nobody provides,
//! so a missing interface is an answer at compile time and not at the first request.

use wasmparser::{Encoding, Parser, Payload};

use crate::error::Error;

/// The Spin SDKs of 2026 import these prereleases beside the final interfaces and never call them.
const SPIN_WORLD_PRERELEASE: &str = "0.3.0-rc-2026-03-15";

const ACCEPTED: &str =
    "wanted exactly one of wasi:http/incoming-handler@0.2.x and wasi:http/handler@0.3.x";

/// What there is to know about a component that can be served.
#[derive(Debug, PartialEq, Eq)]
pub struct Shape {
    pub handler: String,
    pub imports: Vec<String>,
}

pub fn inspect(bytes: &[u8]) -> Result<Shape, Error> {
    refuse_foreign(bytes)?;
    let (imports, exports) = top_level(bytes)?;
    let handler = only_handler(&exports)?;
    if let Some(stranger) = imports.iter().find(|name| provision(name) == Provision::Nothing) {
        return Err(Error::Wasm(format!(
            "the component imports {stranger}, which this host does not provide; wanted WASI 0.2.x or \
             0.3.x and Spin interfaces only: build it without {stranger}, or compose it with a \
             component that exports it"
        )));
    }
    Ok(Shape { handler, imports })
}

/// Everything that is not wasm of the component kind, each with its own next step.
fn refuse_foreign(bytes: &[u8]) -> Result<(), Error> {
    let message = if bytes.starts_with(b"\x7fELF") {
        "wanted a WebAssembly component, found compiled native code; images must bring wasm, which is \
         compiled on the node: push the .wasm file"
    } else if Parser::is_component(bytes) {
        return Ok(());
    } else if Parser::is_core_wasm(bytes) {
        "wanted a WebAssembly component, found a core module; build for wasm32-wasip2, or turn it into \
         a component with `wasm-tools component new`"
    } else {
        "wanted a WebAssembly component, found bytes that are not WebAssembly; check which file is \
         given as the component's source"
    };
    Err(Error::Wasm(message.into()))
}

/// Names of the outermost component's imports and exports.
fn top_level(bytes: &[u8]) -> Result<(Vec<String>, Vec<String>), Error> {
    let broken = |cause| Error::Wasm(format!("the component is damaged: {cause}; build it again"));
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(broken)? {
            Payload::Version { encoding: Encoding::Module | Encoding::Component, .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    imports.push(import.map_err(broken)?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    exports.push(export.map_err(broken)?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok((imports, exports))
}

fn only_handler(exports: &[String]) -> Result<String, Error> {
    let handlers: Vec<&String> = exports.iter().filter(|name| is_handler(name)).collect();
    match handlers[..] {
        [one] => Ok(one.clone()),
        [] if exports.is_empty() => {
            Err(Error::Wasm(format!("the component has no exports; {ACCEPTED}: export a handler")))
        }
        [] => Err(Error::Wasm(format!(
            "the component has no HTTP handler that this host can call; {ACCEPTED}, found {}: build it \
             with an SDK that exports one of these",
            list(exports)
        ))),
        _ => Err(Error::Wasm(format!(
            "the component has {} HTTP handlers; {ACCEPTED}, found {}: leave one",
            handlers.len(),
            list(exports)
        ))),
    }
}

fn list(names: &[String]) -> String {
    names.join(", ")
}

/// An interface name in its parts: `namespace:package/interface@version`.
#[derive(Debug, PartialEq, Eq)]
struct Name<'a> {
    package: &'a str,
    interface: &'a str,
    version: Option<&'a str>,
}

impl<'a> Name<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (path, version) = match text.split_once('@') {
            Some((path, version)) => (path, Some(version)),
            None => (text, None),
        };
        let (package, interface) = path.split_once('/')?;
        package.contains(':').then_some(Self { package, interface, version })
    }

    /// The minor version of a final 0.x release: what WASI keeps compatible within.
    fn track(&self) -> Option<&str> {
        let (minor, patch) = self.version?.strip_prefix("0.")?.split_once('.')?;
        let number = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        (number(minor) && number(patch)).then_some(minor)
    }
}

fn is_handler(name: &str) -> bool {
    Name::parse(name).is_some_and(|name| {
        matches!(
            (name.package, name.interface, name.track()),
            ("wasi:http", "incoming-handler", Some("2")) | ("wasi:http", "handler", Some("3"))
        )
    })
}

/// What the host has for an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provision {
    /// It is in the linker.
    Linked,
    /// Guests are built against it as a matter of course; calling it is a trap that names it.
    KnownOnly,
    /// Nobody provides it.
    Nothing,
}

#[must_use]
pub fn provision(import: &str) -> Provision {
    let Some(name) = Name::parse(import) else { return Provision::Nothing };
    if is_linked(&name) {
        Provision::Linked
    } else if is_spin_family(name.package)
        || name.version == Some(SPIN_WORLD_PRERELEASE) && !wasi_0_3(name.package).is_empty()
    {
        Provision::KnownOnly
    } else {
        Provision::Nothing
    }
}

fn is_linked(name: &Name<'_>) -> bool {
    match name.track() {
        Some("2") => wasi_0_2(name.package).contains(&name.interface),
        Some("3") => wasi_0_3(name.package).contains(&name.interface),
        _ => matches!(
            (name.package, name.interface, name.version),
            ("spin:variables", "variables", Some("3.0.0"))
                | ("fermyon:spin", "variables", Some("2.0.0"))
                | ("fermyon:spin", "config", None)
        ),
    }
}

fn is_spin_family(package: &str) -> bool {
    package.starts_with("spin:")
        || package.starts_with("fermyon:spin")
        || ["wasi:keyvalue", "wasi:config", "wasi:otel"].contains(&package)
}

/// What `wasmtime_wasi::p2` and `wasmtime_wasi_http::p2` put into a linker.
fn wasi_0_2(package: &str) -> &'static [&'static str] {
    match package {
        "wasi:cli" => &[
            "environment",
            "exit",
            "stderr",
            "stdin",
            "stdout",
            "terminal-input",
            "terminal-output",
            "terminal-stderr",
            "terminal-stdin",
            "terminal-stdout",
        ],
        "wasi:clocks" => &["monotonic-clock", "wall-clock"],
        "wasi:filesystem" => &["preopens", "types"],
        "wasi:http" => &["outgoing-handler", "types"],
        "wasi:io" => &["error", "poll", "streams"],
        "wasi:random" => &["insecure", "insecure-seed", "random"],
        "wasi:sockets" => &[
            "instance-network",
            "ip-name-lookup",
            "network",
            "tcp",
            "tcp-create-socket",
            "udp",
            "udp-create-socket",
        ],
        _ => &[],
    }
}

/// As [`wasi_0_2`], for the modules called `p3`.
fn wasi_0_3(package: &str) -> &'static [&'static str] {
    match package {
        "wasi:cli" => &[
            "environment",
            "exit",
            "stderr",
            "stdin",
            "stdout",
            "terminal-input",
            "terminal-output",
            "terminal-stderr",
            "terminal-stdin",
            "terminal-stdout",
            "types",
        ],
        "wasi:clocks" => &["monotonic-clock", "system-clock", "types"],
        "wasi:filesystem" => &["preopens", "types"],
        "wasi:http" => &["client", "types"],
        "wasi:random" => &["insecure", "insecure-seed", "random"],
        "wasi:sockets" => &["ip-name-lookup", "types"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P2: &str = "wasi:http/incoming-handler@0.2.6";
    const P3: &str = "wasi:http/handler@0.3.0";

    fn component(imports: &[&str], exports: &[&str]) -> Vec<u8> {
        let imports: String =
            imports.iter().map(|name| format!("(import \"{name}\" (instance))")).collect();
        let exports: String =
            exports.iter().map(|name| format!("(export \"{name}\" (instance $i))")).collect();
        wat::parse_str(format!("(component {imports} (instance $i) {exports})")).unwrap()
    }

    fn refusal(bytes: &[u8]) -> String {
        let error = inspect(bytes).unwrap_err();
        assert_eq!(error.exit_code(), 65);
        error.to_string()
    }

    #[test]
    fn one_handler_of_either_generation_is_accepted() {
        for handler in [P2, P3, "wasi:http/incoming-handler@0.2.0", "wasi:http/handler@0.3.2"] {
            let shape = inspect(&component(&["wasi:cli/stdout@0.2.0"], &[handler])).unwrap();
            assert_eq!(shape.handler, handler);
            assert_eq!(shape.imports, ["wasi:cli/stdout@0.2.0"]);
        }
    }

    #[test]
    fn no_handler_and_two_handlers_say_what_was_found() {
        assert!(refusal(&component(&[], &[])).contains("no exports"));
        let message = refusal(&component(&[], &["wasi:cli/run@0.2.0"]));
        assert!(message.contains("found wasi:cli/run@0.2.0"), "{message}");
        let message = refusal(&component(&[], &[P2, P3]));
        assert!(message.contains(P2) && message.contains(P3), "{message}");
    }

    #[test]
    fn prerelease_handlers_are_not_served() {
        for old in [
            "wasi:http/incoming-handler@0.2.0-rc-2023-11-10",
            "wasi:http/handler@0.3.0-rc-2026-03-15",
            "fermyon:spin/inbound-http",
        ] {
            assert!(refusal(&component(&[], &[old])).contains(old));
        }
    }

    #[test]
    fn an_import_that_nobody_provides_is_named() {
        for stranger in ["wasi:blobstore/container@0.2.0", "acme:db/query@1.0.0", "run"] {
            let message = refusal(&component(&[stranger], &[P2]));
            assert!(message.contains(stranger), "{message}");
        }
    }

    #[test]
    fn what_is_provided_is_known_by_name_and_version() {
        use Provision::{KnownOnly, Linked, Nothing};
        for (name, expected) in [
            ("wasi:io/streams@0.2.0", Linked),
            ("wasi:http/client@0.3.0", Linked),
            ("spin:variables/variables@3.0.0", Linked),
            ("fermyon:spin/variables@2.0.0", Linked),
            ("fermyon:spin/config", Linked),
            ("wasi:http/client@0.3.0-rc-2026-03-15", KnownOnly),
            ("wasi:config/store@0.2.0-draft-2024-09-27", KnownOnly),
            ("wasi:keyvalue/store@0.2.0-draft2", KnownOnly),
            ("wasi:otel/tracing@0.2.0-rc.2", KnownOnly),
            ("spin:key-value/key-value@3.0.0", KnownOnly),
            ("fermyon:spin/llm@2.0.0", KnownOnly),
            ("wasi:http/client@0.3.0-rc-2025-01-01", Nothing),
            ("wasi:cli/stdout@0.4.0", Nothing),
            ("wasi:io/streams", Nothing),
            ("spin", Nothing),
        ] {
            assert_eq!(provision(name), expected, "{name}");
        }
    }

    #[test]
    fn what_nested_components_import_and_export_does_not_count() {
        let wasm = wat::parse_str(format!(
            "(component (component (import \"acme:db/query@1.0.0\" (instance))
                          (instance $i) (export \"{P3}\" (instance $i)))
               (core module (import \"env\" \"f\" (func)))
               (instance $i) (export \"{P2}\" (instance $i)))"
        ))
        .unwrap();
        assert_eq!(inspect(&wasm).unwrap().handler, P2);
    }

    #[test]
    fn foreign_bytes_are_refused_each_with_its_next_step() {
        assert!(refusal(b"\x7fELF\x02\x01\x01").contains("native code"));
        assert!(refusal(&wat::parse_str("(module)").unwrap()).contains("core module"));
        assert!(refusal(b"").contains("not WebAssembly"));
        assert!(refusal(b"#!/bin/sh").contains("not WebAssembly"));
    }

    /// A cut between two sections leaves a smaller component, which may lack its handler or not.
    #[test]
    fn a_truncated_component_never_shows_more_than_the_whole() {
        let whole = component(&["wasi:cli/stdout@0.2.0"], &[P2]);
        let shape = inspect(&whole).unwrap();
        for end in 0..whole.len() {
            assert!(
                inspect(&whole[..end]).is_ok_and(|s| s == shape) || inspect(&whole[..end]).is_err()
            );
        }
        assert!(inspect(&whole[..whole.len() / 2]).is_err());
    }
}
