//! The clock that makes running guests look up, and that stands still while there are none.
//!
//! Laws: a thread of its own and no task, because a runtime that is busy with guests would not run it.
//! It ticks while any instance lives: an idle pod must cost a node nothing, and there are many.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::Thread;
use std::time::Duration;

use wasmtime::{Engine, EngineWeak};

use crate::error::Error;

/// How often a running guest has to look up. Ten requests that spin share a core fairly within 100 ms.
pub const TICK: Duration = Duration::from_millis(10);

pub struct Clock {
    instances: Arc<AtomicUsize>,
    thread: Thread,
}

impl Clock {
    /// Starts the clock of `engine`; it ends with it.
    pub fn start(engine: &Engine) -> Result<Self, Error> {
        let instances = Arc::new(AtomicUsize::new(0));
        let (engine, counted) = (engine.weak(), Arc::clone(&instances));
        let handle = std::thread::Builder::new()
            .name("epoch".into())
            .stack_size(64 << 10)
            .spawn(move || run(&engine, &counted))
            .map_err(|cause| Error::Internal(format!("no thread for the epoch clock: {cause}")))?;
        Ok(Self { instances, thread: handle.thread().clone() })
    }

    /// Keeps the clock running for as long as the returned guard lives.
    #[must_use]
    pub fn run(&self) -> Running {
        // Counted before the thread is woken, and the thread looks after it woke: none is missed.
        if self.instances.fetch_add(1, SeqCst) == 0 {
            self.thread.unpark();
        }
        Running(Arc::clone(&self.instances))
    }
}

/// One instance that needs the clock.
pub struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

fn run(engine: &EngineWeak, instances: &AtomicUsize) {
    loop {
        if instances.load(SeqCst) == 0 {
            std::thread::park();
        }
        let Some(engine) = engine.upgrade() else { return };
        engine.increment_epoch();
        drop(engine);
        // Also between two instances in a row: the clock stops at most once per tick.
        std::thread::sleep(TICK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_counts_what_needs_it() {
        let engine = Engine::default();
        let clock = Clock::start(&engine).unwrap();
        let (one, two) = (clock.run(), clock.run());
        drop(one);
        assert_eq!(clock.instances.load(SeqCst), 1);
        drop(two);
        assert_eq!(clock.instances.load(SeqCst), 0);
    }
}
