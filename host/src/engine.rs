//! The only wasmtime `Config`, and the fingerprint that names it.
//!
//! Law: whatever decides whether compiled code can be loaded is set here explicitly and alike for the
//! compiler and for the server, pooled or not. So one compiled file serves both kinds of server, and
//! one fingerprint names it.

use std::fmt::Write as _;
use std::hash::{Hash, Hasher};

use sha2::{Digest, Sha256};
use wasmtime::{
    Collector, Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel,
    PoolingAllocationConfig,
};

use crate::error::Error;
use crate::log;

/// Raised when the same wasmtime and the same `Config` would still make files that must not mix.
const FORMAT_VERSION: u32 = 1;

/// For `--version`; a test compares it with what is linked.
pub const WASMTIME_VERSION: &str = "48.0.8";

const GIB: u64 = 1 << 30;

/// What a component compiled from several languages has at most, with room (Spin allows the same).
const CORE_INSTANCES_PER_COMPONENT: u32 = 200;
const MEMORIES_PER_COMPONENT: u32 = 16;
const TABLES_PER_COMPONENT: u32 = 32;
/// An interpreter compiled to wasm fills a table of some ten thousand functions.
const TABLE_ELEMENTS: usize = 100_000;

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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    OnDemand,
    /// Address space for this many instances, reserved once. Measured: 2.5 us each, for the guard page
    /// of its stack; everything else does not depend on the number.
    Pooling {
        instances: u32,
    },
}

/// An engine that compiles for `target`, and cannot be asked to run anything else.
pub fn compiler(target: Target) -> Result<Engine, Error> {
    let config = config(target, Allocation::OnDemand)?;
    Engine::new(&config).map_err(|cause| {
        Error::Internal(format!("no compiler for target {}: {cause:#}", target.name()))
    })
}

/// An engine that loads compiled code and cannot compile.
///
/// Whether the address space for a pool can be reserved is found out by reserving it: what limits it
/// (39-bit address spaces, `RLIMIT_AS`, overcommit) is not to be had from a flag.
pub fn server(instances: u32) -> Result<Engine, Error> {
    let wanted = pooling_override(std::env::var("SPIN_WASMTIME_POOLING").ok().as_deref());
    if wanted != Some(false) {
        match build_server(Allocation::Pooling { instances }) {
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

/// Spin's switch of the same name, for people who must turn the pool off.
fn pooling_override(value: Option<&str>) -> Option<bool> {
    match value? {
        "0" | "false" => Some(false),
        "1" | "true" => Some(true),
        _ => None,
    }
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
    if let Allocation::Pooling { instances } = allocation {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(instances)));
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

fn pool(instances: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_PER_COMPONENT))
        .max_core_instances_per_component(CORE_INSTANCES_PER_COMPONENT)
        // Two each on average: an adapter or a second language brings its own. Even a pool of one must
        // hold the largest component.
        .total_memories(instances.saturating_mul(2).max(MEMORIES_PER_COMPONENT))
        .max_memories_per_component(MEMORIES_PER_COMPONENT)
        .total_tables(instances.saturating_mul(2).max(TABLES_PER_COMPONENT))
        .max_tables_per_component(TABLES_PER_COMPONENT)
        .table_elements(TABLE_ELEMENTS)
        .total_stacks(instances)
        .total_gc_heaps(instances)
        .max_memory_size(usize::try_from(4 * GIB).unwrap_or(usize::MAX))
        // Resetting a few touched pages in place is cheaper than giving them back and faulting them
        // in again; more than this would be memory that an idle pod holds.
        .linear_memory_keep_resident(256 << 10)
        .table_keep_resident(32 << 10)
        .async_stack_keep_resident(16 << 10)
        .max_unused_warm_slots(16)
        .pagemap_scan(Enabled::Auto);
    pool
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

    #[test]
    fn the_fingerprint_does_not_depend_on_the_allocator() {
        assert_eq!(
            fingerprint_of(Target::Native, Allocation::OnDemand),
            fingerprint_of(Target::Native, Allocation::Pooling { instances: 8 })
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
        for allocation in [Allocation::OnDemand, Allocation::Pooling { instances: 8 }] {
            let engine = build_server(allocation).unwrap();
            assert!(crate::aot::load(&engine, &path).is_ok(), "{allocation:?}");
        }
    }

    #[test]
    fn a_pool_of_one_holds_the_largest_component() {
        let pool = pool(1);
        assert_eq!(pool.get_total_memories(), MEMORIES_PER_COMPONENT);
        assert_eq!(pool.get_total_tables(), TABLES_PER_COMPONENT);
    }

    #[test]
    fn the_version_that_is_told_is_the_one_that_is_linked() {
        let lock = include_str!("../../Cargo.lock");
        let linked = format!("name = \"wasmtime\"\nversion = \"{WASMTIME_VERSION}\"");
        assert!(lock.contains(&linked), "Cargo.lock has another wasmtime");
    }

    #[test]
    fn only_clear_words_override_the_probe() {
        assert_eq!(pooling_override(Some("0")), Some(false));
        assert_eq!(pooling_override(Some("1")), Some(true));
        assert_eq!(pooling_override(Some("perhaps")), None);
        assert_eq!(pooling_override(None), None);
    }

    #[test]
    fn an_unknown_target_says_which_there_are() {
        let error = Target::parse("riscv64-linux").unwrap_err().to_string();
        assert!(error.contains("aarch64-linux"), "{error}");
    }
}
