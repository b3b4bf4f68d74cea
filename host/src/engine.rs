//! The only wasmtime `Config`, and the fingerprint that names it.
//!
//! Law: whatever decides whether compiled code can be loaded is set here explicitly and alike for the
//! compiler and for the server, pooled or not. So one compiled file serves both kinds of server, and
//! one fingerprint names it.

use std::fmt::Write as _;
use std::hash::{Hash, Hasher};

use sha2::{Digest, Sha256};
use wasmtime::{
    Collector, Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
};

use crate::error::Error;
use crate::log;
use crate::pool::Pool;

/// Raised when the same wasmtime and the same `Config` would still make files that must not mix.
const FORMAT_VERSION: u32 = 1;

/// For `--version`; a test compares it with what is linked.
pub const WASMTIME_VERSION: &str = "48.0.8";

pub const GIB: u64 = 1 << 30;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// This machine, with every feature that its CPU has.
    Native,
    X86_64,
    Aarch64,
}

impl Target {
    pub fn parse(name: &str) -> Result<Self, Error> {
        match name {
            "native" => Ok(Self::Native),
            "x86_64-linux" => Ok(Self::X86_64),
            "aarch64-linux" => Ok(Self::Aarch64),
            other => Err(Error::Usage(format!(
                "wanted a target of native, x86_64-linux or aarch64-linux, found {other:?}"
            ))),
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::X86_64 => "x86_64-linux",
            Self::Aarch64 => "aarch64-linux",
        }
    }

    fn triple(self) -> Option<&'static str> {
        match self {
            Self::Native => None,
            Self::X86_64 => Some("x86_64-unknown-linux-gnu"),
            Self::Aarch64 => Some("aarch64-unknown-linux-gnu"),
        }
    }
}

#[derive(Debug, Clone)]
pub enum Allocation {
    OnDemand,
    /// Address space for all instances, reserved once. Measured: 2.5 us each, for the guard page
    /// of its stack; everything else does not depend on the number.
    Pooling(Box<PoolingAllocationConfig>),
}

/// An engine that compiles for `target`, and cannot be asked to run anything else.
pub fn compiler(target: Target) -> Result<Engine, Error> {
    let config = config(target, Allocation::OnDemand)?;
    Engine::new(&config).map_err(|cause| {
        Error::Internal(format!("no compiler for target {}: {cause:#}", target.name()))
    })
}

/// An engine that loads compiled code and cannot compile. `env` is this process's environment.
///
/// Whether the address space for a pool can be reserved is found out by reserving it (features.md H108):
/// what limits it (39-bit address spaces, `RLIMIT_AS`, overcommit) is not to be had from a flag.
pub fn server(instances: u32, env: impl Fn(&str) -> Option<String>) -> Result<Engine, Error> {
    let pool = Pool::new(instances, env)?;
    if pool.wanted {
        match build_server(Allocation::Pooling(Box::new(pool.config))) {
            Ok(engine) => return Ok(engine),
            Err(cause) => log::warn(
                "no address space for an instance pool; instances are allocated one by one",
                &[("instances", &instances), ("cause", &cause)],
            ),
        }
    }
    build_server(Allocation::OnDemand)
}

fn build_server(allocation: Allocation) -> Result<Engine, Error> {
    let mut config = config(Target::Native, allocation)?;
    config.enable_compiler(false);
    Engine::new(&config).map_err(|cause| Error::Internal(format!("no engine: {cause:#}")))
}

fn config(target: Target, allocation: Allocation) -> Result<Config, Error> {
    let mut config = Config::new();
    if let Some(triple) = target.triple() {
        config
            .target(triple)
            .map_err(|cause| Error::Internal(format!("target {}: {cause:#}", target.name())))?;
    }
    config
        .wasm_component_model(true)
        .wasm_component_model_async(true)
        .cranelift_opt_level(OptLevel::Speed)
        .collector(Collector::DeferredReferenceCounting)
        .epoch_interruption(true)
        .native_unwind_info(false)
        .generate_address_map(false)
        .memory_init_cow(true);
    fix_memory_layout(&mut config);
    if let Allocation::Pooling(pool) = allocation {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(*pool));
    }
    Ok(config)
}

/// Code is compiled for one layout of memory, and the two allocators have different defaults.
fn fix_memory_layout(config: &mut Config) {
    config
        .memory_reservation(4 * GIB)
        .memory_guard_size(32 << 20)
        .memory_reservation_for_growth(0)
        .memory_may_move(false)
        .guard_before_linear_memory(true);
}

/// One opaque line that differs whenever compiled code must not be exchanged.
#[must_use]
pub fn fingerprint(engine: &Engine, target: Target) -> String {
    let mut hasher = ByteHasher(Sha256::new());
    FORMAT_VERSION.hash(&mut hasher);
    // Baseline code for this architecture is a different file than native code, even on a machine
    // without any extra feature: the control plane may move the former to other machines.
    target.name().hash(&mut hasher);
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.0.finalize().iter().fold(String::with_capacity(64), |mut hex, byte| {
        // Writing to a String cannot fail.
        _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// std's hashers keep 64 bits and promise nothing across releases; a cache key needs more.
struct ByteHasher(Sha256);

impl Hasher for ByteHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Nobody asks: the digest is read from the inside.
    fn finish(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fingerprint_of(target: Target, allocation: Allocation) -> String {
        let engine = Engine::new(&config(target, allocation).unwrap()).unwrap();
        fingerprint(&engine, target)
    }

    fn pooling() -> Allocation {
        Allocation::Pooling(Box::new(Pool::new(8, |_| None).unwrap().config))
    }

    #[test]
    fn the_fingerprint_does_not_depend_on_the_allocator() {
        assert_eq!(
            fingerprint_of(Target::Native, Allocation::OnDemand),
            fingerprint_of(Target::Native, pooling())
        );
    }

    #[test]
    fn the_fingerprint_is_stable_and_differs_by_target() {
        let of = |target| fingerprint_of(target, Allocation::OnDemand);
        assert_eq!(of(Target::Native), of(Target::Native));
        assert_ne!(of(Target::Native), of(Target::X86_64));
        assert_ne!(of(Target::X86_64), of(Target::Aarch64));
        assert_eq!(of(Target::Native).len(), 64);
    }

    #[test]
    fn both_allocators_load_what_the_compiler_wrote() {
        let wasm = wat::parse_str("(component)").unwrap();
        let aot = crate::aot::compile(&compiler(Target::Native).unwrap(), &wasm).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aot");
        std::fs::write(&path, aot).unwrap();
        for allocation in [Allocation::OnDemand, pooling()] {
            let engine = build_server(allocation.clone()).unwrap();
            assert!(crate::aot::load(&engine, &path).is_ok(), "{allocation:?}");
        }
    }

    #[test]
    fn the_version_that_is_told_is_the_one_that_is_linked() {
        let lock = include_str!("../../Cargo.lock");
        let linked = format!("name = \"wasmtime\"\nversion = \"{WASMTIME_VERSION}\"");
        assert!(lock.contains(&linked), "Cargo.lock has another wasmtime");
    }

    #[test]
    fn an_unknown_target_says_which_there_are() {
        let error = Target::parse("riscv64-linux").unwrap_err().to_string();
        assert!(error.contains("aarch64-linux"), "{error}");
    }
}
