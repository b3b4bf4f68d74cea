//! One component and one request: what it gets out of an instance, or why it gets nothing.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use wasmtime::component::InstancePre;
use wasmtime_wasi_http::handler::{
    ExpirationError, InstantiationError, ProxyHandler, ProxyPre, Request, Response,
    TrapOrPanicError,
};
use wasmtime_wasi_http::{Error as HttpError, WasiBody};
use wasmtime_wasi_http::{p2, p3};

use crate::budget::Budget;
use crate::epoch::Clock;
use crate::host::{Host, Template};
use crate::instance::Policy;
use crate::log;
use crate::tuning::{Limits, Span};

/// How long a request waits for a place in the instance pool, and how often it looks. Longer than idle
/// instances of another component may hold theirs.
const ROOM_PATIENCE: Duration = Duration::from_secs(2);
const ROOM_RETRY: Duration = Duration::from_millis(2);

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
    timeout: Span,
}

impl Guest {
    pub fn new(
        template: Template,
        pre: InstancePre<Host>,
        clock: Arc<Clock>,
        limits: &Limits,
    ) -> wasmtime::Result<Self> {
        let engine = pre.engine().clone();
        let pre = match p3::bindings::ServicePre::new(pre.clone()) {
            Ok(service) => ProxyPre::P3(service),
            Err(_) => ProxyPre::P2(p2::bindings::ProxyPre::new(pre)?),
        };
        let policy = Policy { template, pre, engine, clock, limits: limits.clone() };
        Ok(Self { handler: ProxyHandler::new(policy), timeout: limits.request_timeout_ms })
    }

    pub async fn handle(&self, id: u64, request: Request) -> Result<Response, Failure> {
        let attempt = Attempt { slot: Arc::new(Slot { id, budget: OnceLock::new() }), open: true };
        let deadline = tokio::time::Instant::now() + self.timeout.draw_millis();
        let handled = self.handle_when_there_is_room(&attempt.slot, request);
        let result = tokio::time::timeout_at(deadline, handled).await;
        match result {
            Ok(Ok(response)) => Ok(attempt.answered(response)),
            // Timers wait for a thread, too: the instance may have been stopped for it already.
            _ if tokio::time::Instant::now() >= deadline => {
                attempt.overdue();
                Err(Failure::TimedOut)
            }
            Ok(Err(_)) if attempt.is_spent() => Err(Failure::TimedOut),
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
#[must_use]
pub fn reason(cause: &wasmtime::Error) -> String {
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

impl Slot {
    /// The instance takes the request that the slot was made for, which happens once.
    pub fn begin(&self, budget: &Arc<Budget>) {
        budget.begin(self.id, Instant::now());
        _ = self.budget.set(Arc::clone(budget));
    }
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

    fn is_spent(&self) -> bool {
        self.slot.budget.get().is_some_and(|budget| budget.is_spent())
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

/// Numbers requests for the log.
#[derive(Default)]
pub struct Ids(AtomicU64);

impl Ids {
    pub fn next(&self) -> u64 {
        self.0.fetch_add(1, Relaxed) + 1
    }
}
