//! What a connection of many streams is doing: nothing, or waiting for a client that does not read.
//!
//! HTTP/1 needs none of this: hyper's timer sees an idle connection, and the kernel one that is not read. In
//! HTTP/2 a client may acknowledge every packet and still grant no room for a response (faults.md H1, H7).

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, sleep_until};

/// Clones share one state; it lives as long as the connection.
#[derive(Clone)]
pub struct Activity(Arc<Mutex<Streams>>);

struct Streams {
    next: u64,
    in_flight: usize,
    /// When the last of them began or ended.
    since: Instant,
    /// The streams that have given a piece to the client, and when; its room ran out if it asks for none.
    given: BTreeMap<u64, Instant>,
}

impl Default for Activity {
    fn default() -> Self {
        let streams =
            Streams { next: 0, in_flight: 0, since: Instant::now(), given: BTreeMap::new() };
        Self(Arc::new(Mutex::new(streams)))
    }
}

impl Activity {
    fn streams(&self) -> MutexGuard<'_, Streams> {
        // Every update is complete before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream begins; it ends when the guard is dropped.
    #[must_use]
    pub fn begin(&self) -> Active {
        let mut streams = self.streams();
        streams.next += 1;
        streams.in_flight += 1;
        streams.since = Instant::now();
        Active { id: streams.next, activity: self.clone() }
    }

    /// Completes once there was no stream for `time`.
    pub async fn rests(&self, time: Duration) {
        loop {
            let (idle, since) = {
                let streams = self.streams();
                (streams.in_flight == 0, streams.since)
            };
            let now = Instant::now();
            if idle && now >= since + time {
                return;
            }
            sleep_until(if idle { since + time } else { now + time }).await;
        }
    }

    /// Completes once a stream has waited for its client for `time`.
    pub async fn stalls(&self, time: Duration) {
        loop {
            let oldest = self.streams().given.values().min().copied();
            let now = Instant::now();
            let due = oldest.unwrap_or(now) + time;
            if due <= now {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// One stream of a connection.
pub struct Active {
    id: u64,
    activity: Activity,
}

impl Active {
    /// The stream goes on for as long as `body` does.
    pub fn watch<B>(self, body: B) -> Watched<B> {
        Watched { body, active: self }
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let mut streams = self.activity.streams();
        streams.in_flight -= 1;
        streams.given.remove(&self.id);
        streams.since = Instant::now();
    }
}

pub struct Watched<B> {
    body: B,
    active: Active,
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        let mut streams = self.active.activity.streams();
        if matches!(polled, Poll::Ready(Some(_))) {
            streams.given.insert(self.active.id, Instant::now());
        } else {
            streams.given.remove(&self.active.id);
        }
        drop(streams);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};

    const TIME: Duration = Duration::from_secs(10);

    /// A connection rests from its last stream's end (faults H1).
    #[tokio::test(start_paused = true)]
    async fn a_connection_rests_when_its_streams_have_ended() {
        let activity = Activity::default();
        let (active, began) = (activity.begin(), Instant::now());
        tokio::time::sleep(3 * TIME).await;
        assert!(tokio::time::timeout(TIME / 2, activity.rests(TIME)).await.is_err());
        drop(active);
        activity.rests(TIME).await;
        assert!(began.elapsed() >= 4 * TIME);
    }

    /// A body whose client asks for no more stalls; one that the guest lets wait does not (faults H1, H7).
    #[tokio::test(start_paused = true)]
    async fn only_a_client_that_does_not_read_stalls() {
        let activity = Activity::default();
        let silent = futures::stream::pending::<Result<Frame<Bytes>, ()>>();
        let mut silent = activity.begin().watch(http_body_util::StreamBody::new(silent));
        assert!(tokio::time::timeout(TIME, silent.frame()).await.is_err());
        assert!(tokio::time::timeout(3 * TIME, activity.stalls(TIME)).await.is_err());
        let mut unread = activity.begin().watch(Full::new(Bytes::from_static(b"x")));
        assert!(unread.frame().await.is_some());
        let given = Instant::now();
        activity.stalls(TIME).await;
        assert_eq!(given.elapsed(), TIME);
    }
}
