//! What one instance has in its store, and the linker that binds it: everything a guest can reach.
//!
//! Laws: nothing of this process leaks in (no inherited environment, arguments, stdin, sockets or
//! names). What a guest makes the host allocate is bounded here (faults.md G2, G3).

use std::path::PathBuf;
use std::sync::Arc;

use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre, Linker, ResourceTable};
use wasmtime::{Engine, ResourceLimiter, Store, UpdateDeadline};
use wasmtime_wasi::{FsPerms, WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::budget::Budget;
use crate::capability::absent;
use crate::capability::outbound::Denied;
use crate::capability::stdio::{GuestOutput, Sink};
use crate::capability::variables::{self, Variables};
use crate::epoch::Running;
use crate::error::Error;
use crate::inspect::{self, Provision};

/// Bytes that one host call may copy out of the guest. Streams go in smaller pieces anyway.
const HOSTCALL_FUEL: usize = 8 << 20;
const MAX_HANDLES: usize = 10_000;
const MAX_FIELDS_BYTES: usize = 128 << 10;
const MAX_RANDOM_BYTES: u64 = 1 << 20;

/// What every instance of one component gets. Lives as long as the app.
pub struct Template {
    pub component: Arc<str>,
    pub env: Vec<(String, String)>,
    pub variables: Variables,
    pub files: Option<PathBuf>,
    pub memory_bytes: Option<u64>,
}

/// What lives as long as one instance.
pub struct Host {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    outbound: Denied,
    table: ResourceTable,
    variables: Variables,
    memory: MemoryCap,
    #[expect(dead_code, reason = "held for its drop")]
    clock: Running,
}

impl Template {
    /// A store for one new instance, which looks up once per tick and then asks `budget`.
    pub fn store(
        &self,
        engine: &Engine,
        clock: Running,
        budget: Arc<Budget>,
    ) -> wasmtime::Result<Store<Host>> {
        let mut store = Store::try_new(engine, self.host(clock)?)?;
        store.limiter(|host| &mut host.memory);
        store.set_hostcall_fuel(HOSTCALL_FUEL);
        store.set_max_component_handles(MAX_HANDLES);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |_| {
            if budget.tick() {
                Ok(UpdateDeadline::Yield(1))
            } else {
                Err(wasmtime::format_err!("the guest used up its CPU time"))
            }
        });
        Ok(store)
    }

    fn host(&self, clock: Running) -> wasmtime::Result<Host> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_HANDLES);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(MAX_FIELDS_BYTES);
        Ok(Host {
            wasi: self.wasi()?,
            http,
            outbound: Denied { component: Arc::clone(&self.component) },
            table,
            variables: self.variables.clone(),
            memory: MemoryCap { used: 0, limit: self.memory_bytes },
            clock,
        })
    }

    fn wasi(&self) -> wasmtime::Result<WasiCtx> {
        let mut wasi = WasiCtx::builder();
        wasi.arg(&self.component)
            .envs(&self.env)
            .stdout(GuestOutput::new(Sink::Stdout))
            .stderr(GuestOutput::new(Sink::Stderr))
            .max_random_size(MAX_RANDOM_BYTES)
            // Assets are plain files of this machine: a thread hop costs more than the read.
            .allow_blocking_current_thread(true);
        if let Some(files) = &self.files {
            wasi.preopened_dir(files, "/", FsPerms::ReadOnly)?;
        }
        Ok(wasi.build())
    }
}

impl WasiView for Host {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Host {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.outbound, table: &mut self.table, ctx: &mut self.http }
    }
}

/// Binds everything that `inspect.rs` says is provided.
pub fn linker(engine: &Engine) -> Result<Linker<Host>, Error> {
    let mut linker = Linker::new(engine);
    fill(&mut linker).map_err(|cause| Error::Internal(format!("no linker: {cause:#}")))?;
    Ok(linker)
}

fn fill(linker: &mut Linker<Host>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    wasmtime_wasi::p3::add_to_linker(linker)?;
    wasmtime_wasi_http::p3::add_to_linker(linker)?;
    variables::add_to_linker(linker, |host| &mut host.variables)
}

/// Links one component. `compile` has let through only what we have and what we know by name.
pub fn link(linker: &Linker<Host>, component: &Component) -> wasmtime::Result<InstancePre<Host>> {
    let engine = linker.engine().clone();
    let mut linker = linker.clone();
    for (name, import) in component.component_type().imports(&engine) {
        if let (Provision::KnownOnly, ComponentItem::ComponentInstance(shape)) =
            (inspect::provision(name), &import.ty)
        {
            absent::define(&mut linker, &engine, name, shape)?;
        }
    }
    linker.instantiate_pre(component)
}

/// The sum over all memories and tables of one store.
struct MemoryCap {
    used: u64,
    limit: Option<u64>,
}

impl MemoryCap {
    fn grow(&mut self, current: usize, desired: usize, unit: u64) -> bool {
        let more = (desired.saturating_sub(current) as u64).saturating_mul(unit);
        let used = self.used.saturating_add(more);
        let granted = self.limit.is_none_or(|limit| used <= limit);
        if granted {
            self.used = used;
        }
        granted
    }
}

impl ResourceLimiter for MemoryCap {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // Asking for more than the type allows fails anyway, and must not be booked.
        Ok(maximum.is_none_or(|most| desired <= most) && self.grow(current, desired, 1))
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let slot = size_of::<usize>() as u64;
        Ok(maximum.is_none_or(|most| desired <= most) && self.grow(current, desired, slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_is_on_the_sum() {
        let mut cap = MemoryCap { used: 0, limit: Some(100) };
        assert!(cap.memory_growing(0, 60, None).unwrap());
        assert!(!cap.memory_growing(0, 60, None).unwrap());
        assert!(cap.memory_growing(60, 80, None).unwrap());
        assert!(!cap.table_growing(0, 3, None).unwrap());
        assert!(cap.table_growing(0, 2, None).unwrap());
    }

    #[test]
    fn growth_beyond_the_types_maximum_is_not_booked() {
        let mut cap = MemoryCap { used: 0, limit: Some(100) };
        assert!(!cap.memory_growing(0, 60, Some(50)).unwrap());
        assert!(cap.memory_growing(0, 100, None).unwrap());
    }
}
