//! Instances: how many requests one takes, when it ends, and what a request gets out of it.
//!
//! `wasmtime_wasi_http::handler` has the mechanism (workers, queues, both WASI generations); its traits
//! ask for policy, and the policy is here. Numbers are those of Spin, so that guests behave the same.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::Sleep;
use wasmtime::component::{GuestTaskId, InstancePre};
use wasmtime::{Engine, Store, StoreContextMut};
use wasmtime_wasi_http::handler::{
    ExpirationError, HandlerState, Instance, InstantiationError, ProxyHandler, ProxyPre, Request,
    Response, ShouldAccept, TrapOrPanicError, WorkerExpiration, WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::{Error as HttpError, WasiBody, WasiHttpView};
use wasmtime_wasi_http::{p2, p3};

use crate::budget::{Budget, Verdict};
use crate::epoch::Clock;
use crate::host::{Host, Template};
use crate::log;

/// How long a request waits for a place in the instance pool, and how often it looks. Longer than idle
/// instances of another component may hold theirs.
const ROOM_PATIENCE: Duration = Duration::from_secs(2);
const ROOM_RETRY: Duration = Duration::from_millis(2);

/// How many requests an instance takes, one after another and at a time.
#[derive(Debug, Clone, Copy)]
struct Reuse {
    total: usize,
    concurrent: usize,
    idle: Duration,
}

/// WASI 0.2 guests expect a fresh instance for every request.
const REUSE_P2: Reuse = Reuse { total: 1, concurrent: 1, idle: Duration::from_secs(1) };
const REUSE_P3: Reuse = Reuse { total: 128, concurrent: 16, idle: Duration::from_secs(1) };

/// Why there is no response, in the words of what a client can do about it.
#[derive(Debug)]
pub enum Failure {
    /// The guest trapped or gave no answer; said in the log, not to the client.
    Guest,
    /// No response head before the deadline.
    TimedOut,
    /// No room for another instance now.
    Busy,
}

/// One component, ready to take requests.
#[derive(Clone)]
pub struct Guest {
    handler: ProxyHandler<Policy>,
    timeout: Duration,
}

impl Guest {
    pub fn new(
        template: Template,
        pre: InstancePre<Host>,
        clock: Arc<Clock>,
        timeout: Duration,
    ) -> wasmtime::Result<Self> {
        let engine = pre.engine().clone();
        let (pre, reuse) = match p3::bindings::ServicePre::new(pre.clone()) {
            Ok(service) => (ProxyPre::P3(service), REUSE_P3),
            Err(_) => (ProxyPre::P2(p2::bindings::ProxyPre::new(pre)?), REUSE_P2),
        };
        let policy = Policy { template, pre, engine, clock, reuse, timeout };
        Ok(Self { handler: ProxyHandler::new(policy), timeout })
    }

    pub async fn handle(&self, id: u64, request: Request) -> Result<Response, Failure> {
        let attempt = Attempt { slot: Arc::new(Slot { id, budget: OnceLock::new() }), open: true };
        let deadline = tokio::time::Instant::now() + self.timeout;
        let handled = self.handle_when_there_is_room(&attempt.slot, request);
        let result = tokio::time::timeout_at(deadline, handled).await;
        match result {
            Ok(Ok(response)) => Ok(attempt.answered(response)),
            // Timers wait for a thread, too: the instance may have been stopped for it already.
            _ if tokio::time::Instant::now() >= deadline => {
                attempt.overdue();
                Err(Failure::TimedOut)
            }
            // The library drops the response channel of an instance that ended; that has its line.
            Ok(Err(_)) if attempt.has_failed() => Err(Failure::Guest),
            Ok(Err(cause)) => Err(self.explain(id, &cause)),
            Err(_) => Err(Failure::TimedOut),
        }
    }

    /// The pool has one place per permitted request, and an instance gives its place back a little
    /// after its request has ended: the next one may have to wait that little.
    async fn handle_when_there_is_room(
        &self,
        slot: &Arc<Slot>,
        mut request: Request,
    ) -> wasmtime::Result<Response> {
        let patience = Instant::now() + ROOM_PATIENCE;
        loop {
            match self.handler.handle(Arc::clone(slot), request).await {
                Err(cause) if is_full(&cause) && Instant::now() < patience => {
                    request = take_back(cause)?;
                    tokio::time::sleep(ROOM_RETRY).await;
                }
                result => return result,
            }
        }
    }

    /// Turns the library's error into what the client gets, and says the rest to the operator, once:
    /// what ends an instance is logged where the instance ends.
    fn explain(&self, id: u64, cause: &wasmtime::Error) -> Failure {
        if cause.is::<TrapOrPanicError>() {
            return Failure::Guest;
        }
        if cause.is::<ExpirationError>() {
            return Failure::TimedOut;
        }
        if is_full(cause) {
            return Failure::Busy;
        }
        let component = &self.handler.state().template.component;
        let (message, cause) = match cause.downcast_ref::<NoInstance>() {
            Some(failed) => ("the component could not be instantiated", reason(&failed.error)),
            None => ("the component gave no response", reason(cause)),
        };
        log::error(message, &[("component", component), ("request", &id), ("cause", &cause)]);
        Failure::Guest
    }
}

type NoInstance = InstantiationError<Arc<Slot>>;

fn is_full(cause: &wasmtime::Error) -> bool {
    cause
        .downcast_ref::<NoInstance>()
        .is_some_and(|failed| failed.error.is::<wasmtime::PoolConcurrencyLimitError>())
}

/// The request that an instance that could not be made did not consume.
fn take_back(cause: wasmtime::Error) -> wasmtime::Result<Request> {
    let failed = cause.downcast::<NoInstance>()?;
    Ok(failed.request.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// What went wrong first, then where: traps carry a backtrace that is longer than anyone reads.
fn reason(cause: &wasmtime::Error) -> String {
    let root = cause.root_cause().to_string();
    let whole = cause.to_string();
    if root == whole { root } else { format!("{root}: {whole}") }
}

/// Where a request and the instance that took it find each other: which one takes it is only known
/// once it starts.
pub struct Slot {
    id: u64,
    budget: OnceLock<Arc<Budget>>,
}

/// The request's side of the slot. Dropped before an answer, it tells the instance that nobody waits.
struct Attempt {
    slot: Arc<Slot>,
    open: bool,
}

impl Attempt {
    fn answered(mut self, response: Response) -> Response {
        self.open = false;
        let Some(budget) = self.slot.budget.get().cloned() else { return response };
        budget.answered(self.slot.id, Instant::now());
        response.map(|inner| Streaming { inner, budget }.boxed_unsync())
    }

    fn overdue(mut self) {
        self.give_up(true);
    }

    fn has_failed(&self) -> bool {
        self.slot.budget.get().is_some_and(|budget| budget.has_failed())
    }

    fn give_up(&mut self, overdue: bool) {
        if std::mem::take(&mut self.open)
            && let Some(budget) = self.slot.budget.get()
        {
            budget.gave_up(self.slot.id, overdue, Instant::now());
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.give_up(false);
    }
}

/// A response body that tells its instance when it has ended, however it ended.
struct Streaming {
    inner: WasiBody,
    budget: Arc<Budget>,
}

impl Body for Streaming {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Streaming {
    fn drop(&mut self) {
        self.budget.closed(Instant::now());
    }
}

/// How instances of one component are made. Lives as long as the app.
struct Policy {
    template: Template,
    pre: ProxyPre<Host>,
    engine: Engine,
    clock: Arc<Clock>,
    reuse: Reuse,
    timeout: Duration,
}

impl HandlerState for Policy {
    type StoreData = Host;
    type WorkerExpiration = Expiration;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<Instance<Host, Expiration, Worker>> {
        let budget = Arc::new(Budget::new(self.timeout, Instant::now()));
        let mut store = self.template.store(&self.engine, self.clock.run(), Arc::clone(&budget))?;
        // A component may run code while it is made, and nobody else would stop it.
        let proxy =
            tokio::time::timeout(self.timeout, self.pre.instantiate_async(&mut store)).await??;
        Ok(Instance {
            store,
            proxy,
            view: Host::http,
            expiration: Expiration {
                idle: self.reuse.idle,
                budget: Arc::clone(&budget),
                sleep: Box::pin(tokio::time::sleep(self.timeout)),
            },
            state: Worker {
                component: Arc::clone(&self.template.component),
                reuse: self.reuse,
                budget,
            },
        })
    }
}

/// When an instance ends. Polled each time that its guest gives up the thread.
struct Expiration {
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
struct Worker {
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
        self.budget.begin(slot.id, Instant::now());
        // Set once: a slot is made for one request, and a request is started once.
        _ = slot.budget.set(Arc::clone(&self.budget));
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

/// Numbers requests for the log.
#[derive(Default)]
pub struct Ids(AtomicU64);

impl Ids {
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Relaxed) + 1
    }
}
