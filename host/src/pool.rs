//! The instance pool: room for how many instances of which size, and Spin's words for it (features.md H107).
//!
//! Law: none of this decides whether compiled code can be loaded, so it is no part of the fingerprint.

use wasmtime::{Enabled, PoolingAllocationConfig};

use crate::engine::GIB;
use crate::error::Error;

/// What a component compiled from several languages has at most, with room (Spin allows the same).
const CORE_INSTANCES_PER_COMPONENT: u32 = 200;
const MEMORIES_PER_COMPONENT: u32 = 16;
const TABLES_PER_COMPONENT: u32 = 32;
/// An interpreter compiled to wasm fills a table of some ten thousand functions.
const TABLE_ELEMENTS: usize = 100_000;

pub struct Pool {
    /// Whether to try; `SPIN_WASMTIME_POOLING=0` is for machines where it must not be.
    pub wanted: bool,
    pub config: PoolingAllocationConfig,
}

impl Pool {
    /// Room for `instances`, unless the environment knows better.
    pub fn new(instances: u32, env: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let asked = Asked(env);
        let instances = asked.or("SPIN_MAX_INSTANCE_COUNT", instances)?;
        let wanted = asked.wanted()?;
        Ok(Self { wanted, config: asked.config(instances)? })
    }
}

/// What the operator asked for by name.
struct Asked<F>(F);

impl<F: Fn(&str) -> Option<String>> Asked<F> {
    fn or<N: std::str::FromStr>(&self, name: &str, default: N) -> Result<N, Error> {
        let Some(text) = (self.0)(name) else { return Ok(default) };
        text.parse().map_err(|_| {
            Error::Plan(format!(
                "{name}: wanted a whole number, found {text:?}; correct or unset it"
            ))
        })
    }

    /// What the variable of Spin's own family says.
    fn own<N: std::str::FromStr>(&self, name: &str, default: N) -> Result<N, Error> {
        self.or(&format!("SPIN_WASMTIME_{name}"), default)
    }

    fn wanted(&self) -> Result<bool, Error> {
        match (self.0)("SPIN_WASMTIME_POOLING").as_deref() {
            None | Some("1" | "true") => Ok(true),
            Some("0" | "false") => Ok(false),
            Some(text) => Err(Error::Plan(format!(
                "SPIN_WASMTIME_POOLING: wanted 0 or 1, found {text:?}; correct or unset it"
            ))),
        }
    }

    fn config(&self, instances: u32) -> Result<PoolingAllocationConfig, Error> {
        let cores = self.own("CORE_INSTANCE_COUNT", CORE_INSTANCES_PER_COMPONENT)?;
        let memories = self.own("INSTANCE_MEMORIES", MEMORIES_PER_COMPONENT)?;
        let tables = self.own("INSTANCE_TABLES", TABLES_PER_COMPONENT)?;
        let mut pool = common();
        // Two memories and tables each on average: an adapter or a second language brings its own. Even a
        // pool of one must hold the largest component.
        pool.total_component_instances(self.own("INSTANCE_COUNT", instances)?)
            .total_core_instances(
                self.own("TOTAL_CORE_INSTANCES", instances.saturating_mul(cores))?,
            )
            .max_core_instances_per_component(cores)
            .total_memories(self.own("TOTAL_MEMORIES", instances.saturating_mul(2).max(memories))?)
            .max_memories_per_component(memories)
            .total_tables(self.own("TOTAL_TABLES", instances.saturating_mul(2).max(tables))?)
            .max_tables_per_component(tables)
            .total_stacks(self.own("TOTAL_STACKS", instances)?)
            .total_gc_heaps(instances)
            .table_elements(self.own("INSTANCE_TABLE_ELEMENTS", TABLE_ELEMENTS)?)
            .linear_memory_keep_resident(self.own("LINEAR_MEMORY_KEEP_RESIDENT", 256 << 10)?)
            .table_keep_resident(self.own("TABLE_KEEP_RESIDENT", 32 << 10)?);
        if let Some(bytes) = self.size_of("INSTANCE_SIZE")? {
            pool.max_component_instance_size(bytes);
        }
        if let Some(bytes) = self.size_of("CORE_INSTANCE_SIZE")? {
            pool.max_core_instance_size(bytes);
        }
        Ok(pool)
    }

    /// Wasmtime's own sizes are generous; 0 stands for them.
    fn size_of(&self, name: &str) -> Result<Option<usize>, Error> {
        let bytes = self.own(name, 0)?;
        Ok((bytes > 0).then_some(bytes))
    }
}

fn common() -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    // Resetting a few touched pages in place is cheaper than giving them back and faulting them in
    // again; more than this would be memory that an idle pod holds.
    pool.max_memory_size(usize::try_from(4 * GIB).unwrap_or(usize::MAX))
        .async_stack_keep_resident(16 << 10)
        .max_unused_warm_slots(16)
        .pagemap_scan(Enabled::Auto);
    pool
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(instances: u32, env: &[(&str, &str)]) -> Result<Pool, Error> {
        Pool::new(instances, |name| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_pool_of_one_holds_the_largest_component() {
        let config = pool(1, &[]).unwrap().config;
        assert_eq!(config.get_total_memories(), MEMORIES_PER_COMPONENT);
        assert_eq!(config.get_total_tables(), TABLES_PER_COMPONENT);
    }

    /// Spin's words for the pool's sizes are heard, each on its own (H107).
    #[test]
    fn the_environment_sizes_the_pool() {
        let config = pool(8, &[("SPIN_MAX_INSTANCE_COUNT", "3")]).unwrap().config;
        assert_eq!((config.get_total_component_instances(), config.get_total_stacks()), (3, 3));
        let words = [
            ("SPIN_WASMTIME_INSTANCE_COUNT", "5"),
            ("SPIN_WASMTIME_TOTAL_MEMORIES", "6"),
            ("SPIN_WASMTIME_TOTAL_TABLES", "7"),
            ("SPIN_WASMTIME_TOTAL_STACKS", "8"),
            ("SPIN_WASMTIME_TOTAL_CORE_INSTANCES", "9"),
            ("SPIN_WASMTIME_INSTANCE_TABLE_ELEMENTS", "10"),
            ("SPIN_WASMTIME_CORE_INSTANCE_COUNT", "11"),
        ];
        let config = pool(8, &words).unwrap().config;
        assert_eq!(config.get_total_component_instances(), 5);
        assert_eq!((config.get_total_memories(), config.get_total_tables()), (6, 7));
        assert_eq!((config.get_total_stacks(), config.get_total_core_instances()), (8, 9));
        assert_eq!(config.get_table_elements(), 10);
        assert_eq!(config.get_max_core_instances_per_component(), 11);
    }

    /// A word that is none is an error, where Spin would go on with a number of its own (H107).
    #[test]
    fn only_clear_words_count() {
        assert!(!pool(1, &[("SPIN_WASMTIME_POOLING", "0")]).unwrap().wanted);
        assert!(pool(1, &[("SPIN_WASMTIME_POOLING", "1")]).unwrap().wanted);
        for name in ["SPIN_WASMTIME_POOLING", "SPIN_WASMTIME_TOTAL_STACKS"] {
            let error = pool(1, &[(name, "perhaps")]).err().unwrap().to_string();
            assert!(error.contains(name) && error.contains("perhaps"), "{error}");
        }
    }
}
