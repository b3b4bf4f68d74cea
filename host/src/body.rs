//! A request body that must keep coming (faults.md H5).
//!
//! Law: between two pieces of it at most [`PATIENCE`] may pass while somebody waits for the next one. A
//! guest that does not read does not make its client look slow.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;
use wasmtime_wasi_http::Error;

const PATIENCE: Duration = Duration::from_secs(30);

pub struct Patient<B = Incoming> {
    inner: B,
    /// Runs only while the client is waited for.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<B> Patient<B> {
    pub fn new(inner: B) -> Self {
        Self { inner, waiting: None }
    }
}

impl<B> Body for Patient<B>
where
    B: Body<Data = Bytes> + Unpin,
    Error: From<B::Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) {
            self.waiting = None;
            return Poll::Ready(frame.map(|result| result.map_err(Error::from)));
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(PATIENCE)));
        waiting.as_mut().poll(cx).map(|()| Some(Err(Error::ConnectionReadTimeout)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, StreamBody};

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_coming_is_an_error_in_time() {
        let silent = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, Error>>());
        let asked = tokio::time::Instant::now();
        let frame = Patient::new(silent).frame().await;
        assert!(matches!(frame, Some(Err(Error::ConnectionReadTimeout))));
        assert_eq!(asked.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_body_is_not_a_stopped_one() {
        let slow = futures::stream::unfold(0, |n| async move {
            tokio::time::sleep(PATIENCE / 2).await;
            let frame = Ok::<_, Error>(Frame::data(Bytes::from_static(b"x")));
            (n < 5).then_some((frame, n + 1))
        });
        let body = Patient::new(StreamBody::new(Box::pin(slow)));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "xxxxx");
    }
}
