//! How long one instance may live: pure bookkeeping of what its requests wait for and what it has burnt.
//!
//! Laws: a request has until its deadline for the response head; after that its body may stream for as
//! long as somebody reads it. Waiting costs nothing, running costs: an instance that runs for its CPU time's
//! worth of ticks since its last request began is stopped, answered or not.
//!
//! Why not one clock for all: an instance may have several requests at a time, and a guest that spins
//! after its head looks, from outside, like one that streams.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::epoch::TICK;

/// How much later than the request itself its instance is stopped, so that a 504 is always first.
const SLACK: Duration = Duration::from_millis(20);

pub struct Budget {
    timeout: Duration,
    /// What it may run for, waiting not counted, since its last request began.
    cpu: Duration,
    /// Set by a tick, cleared by a pause: did the guest stop because it had to, or to wait?
    interrupted: AtomicBool,
    resumed: AtomicBool,
    ticks: AtomicU32,
    spent: AtomicBool,
    failed: AtomicBool,
    requests: Mutex<Requests>,
}

/// Held for a few instructions at a time, never across an await.
struct Requests {
    /// Ids, for the log when they all fail at once.
    waiting: Vec<u64>,
    streaming: u32,
    overdue: bool,
    /// The last time that anything began or ended.
    since: Instant,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ask again at this time.
    Until(Instant),
    Stop,
}

impl Budget {
    #[must_use]
    pub fn new(timeout: Duration, cpu: Duration, now: Instant) -> Self {
        Self {
            timeout,
            cpu,
            interrupted: AtomicBool::new(false),
            resumed: AtomicBool::new(true),
            ticks: AtomicU32::new(0),
            spent: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            requests: Mutex::new(Requests {
                waiting: Vec::new(),
                streaming: 0,
                overdue: false,
                since: now,
            }),
        }
    }

    fn requests(&self) -> MutexGuard<'_, Requests> {
        // Every update is one assignment; there is no half-made state to fear.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest was interrupted by the clock. Returns whether it may go on.
    pub fn tick(&self) -> bool {
        self.interrupted.store(true, Relaxed);
        // The first tick after a pause only says that time went by while the guest waited.
        if self.resumed.swap(false, Relaxed) {
            return true;
        }
        let ran = TICK * self.ticks.fetch_add(1, Relaxed);
        let may_run = ran < self.cpu + SLACK;
        if !may_run {
            self.spent.store(true, Relaxed);
        }
        may_run
    }

    /// Whether the guest was stopped for what it burnt.
    pub fn is_spent(&self) -> bool {
        self.spent.load(Relaxed)
    }

    /// The guest gave up the thread.
    pub fn pause(&self) {
        if !self.interrupted.swap(false, Relaxed) {
            self.resumed.store(true, Relaxed);
        }
    }

    pub fn begin(&self, id: u64, now: Instant) {
        self.ticks.store(0, Relaxed);
        let mut requests = self.requests();
        requests.waiting.push(id);
        requests.since = now;
    }

    /// The head is there, and its body begins.
    pub fn answered(&self, id: u64, now: Instant) {
        let mut requests = self.requests();
        requests.waiting.retain(|other| *other != id);
        requests.streaming += 1;
        requests.since = now;
    }

    /// The body has ended, or nobody reads it any more.
    pub fn closed(&self, now: Instant) {
        let mut requests = self.requests();
        requests.streaming = requests.streaming.saturating_sub(1);
        requests.since = now;
    }

    /// No head came: the guest failed, the client left, or (`overdue`) the deadline passed.
    pub fn gave_up(&self, id: u64, overdue: bool, now: Instant) {
        let mut requests = self.requests();
        requests.waiting.retain(|other| *other != id);
        requests.overdue |= overdue;
        requests.since = now;
    }

    /// The instance failed, and that is in the log with its cause.
    pub fn fail(&self) {
        self.failed.store(true, Relaxed);
    }

    pub fn has_failed(&self) -> bool {
        self.failed.load(Relaxed)
    }

    pub fn is_overdue(&self) -> bool {
        self.requests().overdue
    }

    /// The requests that fail if the instance fails now.
    pub fn waiting(&self) -> Vec<u64> {
        self.requests().waiting.clone()
    }

    /// Whether an instance that is not idle may live on.
    pub fn verdict(&self, now: Instant) -> Verdict {
        let requests = self.requests();
        let idle = requests.waiting.is_empty() && requests.streaming == 0;
        if requests.overdue && idle {
            return Verdict::Stop;
        }
        // A body that streams has no deadline; look again later, when it may have ended.
        let from = if requests.streaming > 0 { now } else { requests.since };
        let deadline = from + self.timeout + SLACK;
        if now < deadline { Verdict::Until(deadline) } else { Verdict::Stop }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(100);

    fn budget() -> (Budget, Instant) {
        let now = Instant::now();
        (Budget::new(TIMEOUT, TIMEOUT, now), now)
    }

    #[test]
    fn a_guest_that_spins_is_stopped_after_its_deadline_in_ticks() {
        let (budget, _) = budget();
        let granted = (0..100).take_while(|_| budget.tick()).count();
        assert_eq!(granted, 13, "the tick after a pause is free, and there is some slack");
        assert!(budget.is_spent());
    }

    /// CPU time may be less than the deadline (faults G1).
    #[test]
    fn cpu_time_is_counted_apart_from_the_deadline() {
        let budget = Budget::new(10 * TIMEOUT, TIMEOUT, Instant::now());
        assert_eq!((0..100).take_while(|_| budget.tick()).count(), 13);
    }

    #[test]
    fn waiting_is_free() {
        let (budget, _) = budget();
        for _ in 0..1000 {
            assert!(budget.tick(), "each tick comes after a pause without one");
            budget.pause(); // gave way to the tick
            budget.pause(); // waits
        }
    }

    #[test]
    fn giving_way_to_the_clock_is_not_waiting() {
        let (budget, _) = budget();
        let granted = (0..100)
            .take_while(|_| {
                let granted = budget.tick();
                budget.pause();
                granted
            })
            .count();
        assert_eq!(granted, 13);
    }

    #[test]
    fn a_new_request_has_a_new_budget() {
        let (budget, now) = budget();
        while budget.tick() {}
        budget.begin(1, now);
        assert!(budget.tick());
    }

    #[test]
    fn a_request_has_until_its_deadline() {
        let (budget, now) = budget();
        budget.begin(1, now);
        assert_eq!(budget.verdict(now), Verdict::Until(now + TIMEOUT + SLACK));
        assert_eq!(budget.verdict(now + TIMEOUT + SLACK), Verdict::Stop);
        assert_eq!(budget.waiting(), [1]);
    }

    #[test]
    fn a_body_streams_for_as_long_as_it_is_read() {
        let (budget, now) = budget();
        budget.begin(1, now);
        budget.answered(1, now);
        let late = now + 100 * TIMEOUT;
        assert_eq!(budget.verdict(late), Verdict::Until(late + TIMEOUT + SLACK));
        budget.closed(late);
        assert_eq!(budget.verdict(late), Verdict::Until(late + TIMEOUT + SLACK));
        assert_eq!(budget.verdict(late + 2 * TIMEOUT), Verdict::Stop);
    }

    #[test]
    fn an_overdue_request_takes_the_instance_with_it_once_nobody_else_needs_it() {
        let (budget, now) = budget();
        budget.begin(1, now);
        budget.begin(2, now);
        budget.gave_up(1, true, now);
        assert!(budget.is_overdue());
        assert!(matches!(budget.verdict(now), Verdict::Until(_)));
        budget.gave_up(2, false, now);
        assert_eq!(budget.verdict(now), Verdict::Stop);
    }

    #[test]
    fn a_client_that_left_is_no_reason_to_stop_at_once() {
        let (budget, now) = budget();
        budget.begin(1, now);
        budget.gave_up(1, false, now);
        assert!(matches!(budget.verdict(now), Verdict::Until(_)));
    }
}
