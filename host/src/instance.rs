//! Instances behind wasmtime's own handler: how many requests one takes, and when it ends.
//!
//! `wasmtime_wasi_http::handler` has the mechanism (workers, queues, both WASI generations); its traits
//! ask for policy, and the policy is here (features.md H6, H7, H9, H22, H23).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;
use wasmtime::component::GuestTaskId;
use wasmtime::{Engine, Store, StoreContextMut};
use wasmtime_wasi_http::WasiHttpView;
use wasmtime_wasi_http::handler::{
    HandlerState, Instance, ProxyPre, ShouldAccept, WorkerExpiration, WorkerState, WorkerStatus,
};

use crate::budget::{Budget, Verdict};
use crate::epoch::Clock;
use crate::guest::{Slot, reason};
use crate::host::{Host, Template};
use crate::log;
use crate::tuning::{Limits, Span};

/// How many requests an instance takes, one after another and at a time.
#[derive(Debug, Clone, Copy)]
struct Reuse {
    total: usize,
    concurrent: usize,
    idle: Duration,
}

/// How instances of one component are made. Lives as long as the app.
pub struct Policy {
    pub template: Template,
    pub pre: ProxyPre<Host>,
    pub engine: Engine,
    pub clock: Arc<Clock>,
    pub limits: Limits,
}

impl Policy {
    /// WASI 0.2 guests expect a fresh instance for every request; numbers that nobody chose are Spin's.
    fn reuse(&self) -> Reuse {
        let (total, concurrent) = match self.pre {
            ProxyPre::P2(_) => (1, 1),
            ProxyPre::P3(_) => (128, 16),
        };
        let chosen = |span: Option<Span>, default| span.map_or(default, Span::draw_count);
        Reuse {
            total: chosen(self.limits.max_instance_reuse_count, total),
            concurrent: chosen(self.limits.max_instance_concurrent_reuse_count, concurrent),
            idle: self.limits.idle_instance_timeout_ms.draw_millis(),
        }
    }
}

impl HandlerState for Policy {
    type StoreData = Host;
    type WorkerExpiration = Expiration;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<Instance<Host, Expiration, Worker>> {
        let (timeout, reuse) = (self.limits.longest_request(), self.reuse());
        let budget = Arc::new(Budget::new(timeout, self.limits.cpu(), Instant::now()));
        let mut store = self.template.store(&self.engine, self.clock.run(), Arc::clone(&budget))?;
        // A component may run code while it is made, and nobody else would stop it.
        let proxy = tokio::time::timeout(timeout, self.pre.instantiate_async(&mut store)).await??;
        Ok(Instance {
            store,
            proxy,
            view: Host::http,
            expiration: Expiration {
                idle: reuse.idle,
                budget: Arc::clone(&budget),
                sleep: Box::pin(tokio::time::sleep(timeout)),
            },
            state: Worker { component: Arc::clone(&self.template.component), reuse, budget },
        })
    }
}

/// When an instance ends. Polled each time that its guest gives up the thread.
pub struct Expiration {
    idle: Duration,
    budget: Arc<Budget>,
    sleep: Pin<Box<Sleep>>,
}

impl WorkerExpiration for Expiration {
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        status: WorkerStatus,
        start: Instant,
    ) -> Poll<()> {
        self.budget.pause();
        loop {
            let verdict = match status {
                WorkerStatus::Idle => Verdict::Until(start + self.idle),
                WorkerStatus::Requests | WorkerStatus::PostReturn => {
                    self.budget.verdict(Instant::now())
                }
            };
            let Verdict::Until(deadline) = verdict else { return Poll::Ready(()) };
            if self.sleep.deadline().into_std() != deadline {
                self.sleep.as_mut().reset(deadline.into());
            }
            if self.sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if status == WorkerStatus::Idle {
                return Poll::Ready(());
            }
        }
    }
}

/// One instance's policy and its obituary.
pub struct Worker {
    component: Arc<str>,
    reuse: Reuse,
    budget: Arc<Budget>,
}

impl WorkerState for Worker {
    type StoreData = Host;
    type RequestData = Arc<Slot>;

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        if total >= self.reuse.total || self.budget.is_overdue() {
            ShouldAccept::Never
        } else if concurrent >= self.reuse.concurrent {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    /// The deadline is kept outside (`Guest::handle`, `Expiration`), where a busy guest cannot starve it.
    fn on_request_start(
        &self,
        _store: StoreContextMut<'_, Host>,
        slot: Arc<Slot>,
        _task: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + 'static + Send + Sync>> {
        slot.begin(&self.budget);
        Box::pin(std::future::pending())
    }

    fn drop(&self, store: Store<Host>, result: Result<(), wasmtime::Error>) {
        drop(store);
        // An overdue instance has its line already, from the request that waited for it.
        if let Err(cause) = result
            && !self.budget.is_overdue()
        {
            self.budget.fail();
            let requests = join(&self.budget.waiting());
            let cause = reason(&cause);
            log::error(
                "an instance of the component ended",
                &[("component", &self.component), ("request", &requests), ("cause", &cause)],
            );
        }
    }
}

fn join(ids: &[u64]) -> String {
    if ids.is_empty() {
        return "-".into();
    }
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}
