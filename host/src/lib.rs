//! The data plane of spinwheel.
//!
//! `main` calls `compile` (wasm to machine code) or `serve` (a plan to a listening server). From the top
//! down: `serve` puts together, `server` accepts, `connection` speaks HTTP, `request` answers one request, `guest`
//! runs it in an instance, `host` is what an instance sees, `capability/` are the interfaces it can call.
//! `plan`, `tuning`, `trigger`, `policy`, `route`, `headers`, `inspect`, `budget` and `cli` are pure.

pub mod answer;
pub mod aot;
pub mod app;
pub mod body;
pub mod budget;
pub mod capability;
pub mod cli;
pub mod compile;
pub mod connection;
pub mod control;
pub mod engine;
pub mod epoch;
pub mod error;
pub mod fd;
pub mod guest;
pub mod headers;
pub mod host;
pub mod idle;
pub mod inspect;
pub mod instance;
pub mod listen;
pub mod log;
pub mod plan;
pub mod policy;
pub mod pool;
pub mod request;
pub mod route;
pub mod sandbox;
pub mod serve;
pub mod server;
pub mod shutdown;
pub mod tls;
pub mod trigger;
pub mod tuning;
