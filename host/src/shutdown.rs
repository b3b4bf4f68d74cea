//! Stopping: the first signal drains, the second one does not wait.
//!
//! Laws: whoever holds a tracked future is waited for, up to the grace time. As pid 1 of a container we
//! get no default action for a signal, so the handlers are in place before anyone is told we are ready.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Error;
use crate::log;

/// Clones share one state.
#[derive(Clone, Default)]
pub struct Shutdown {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Completes once it is time to stop, and at once ever after.
    pub async fn requested(&self) {
        self.stop.cancelled().await;
    }

    /// Runs `task` beside everything else; draining waits for it.
    pub fn track(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(task);
    }

    /// Waits for what is in flight. Returns whether all of it ended in time.
    pub async fn drained(&self, grace: Duration) -> bool {
        self.tasks.close();
        tokio::time::timeout(grace, self.tasks.wait()).await.is_ok()
    }
}

/// The two signals that end us, caught from the moment this exists.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Must be called inside the runtime.
    pub fn catch() -> Result<Self, Error> {
        let catch = |kind| {
            signal(kind).map_err(|cause| Error::Internal(format!("cannot catch signals: {cause}")))
        };
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        }
    }

    /// Asks for shutdown on the first signal, ends the process on the second.
    pub async fn watch(mut self, shutdown: Shutdown) {
        self.next().await;
        log::info("stopping: finishing what is in flight", &[]);
        shutdown.stop.cancel();
        let second = self.next().await;
        std::process::exit(128 + second.as_raw_value());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn draining_waits_for_what_is_tracked() {
        let shutdown = Shutdown::default();
        let inner = shutdown.clone();
        shutdown.track(async move { inner.requested().await });
        assert!(!shutdown.drained(Duration::from_millis(20)).await);
        shutdown.stop.cancel();
        assert!(shutdown.drained(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn with_nothing_in_flight_draining_is_immediate() {
        assert!(Shutdown::default().drained(Duration::from_secs(5)).await);
    }
}
