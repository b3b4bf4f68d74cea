//! What a client gets back: a body that keeps its request counted, and the answers that need no guest.
//!
//! Law (features.md H16): a client learns a status and nothing else about what went wrong.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use tokio::sync::OwnedSemaphorePermit;
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

use crate::log;
use crate::trigger::StaticResponse;

/// What keeps a request counted while its body streams, and names it should that fail.
pub struct Running {
    #[expect(dead_code, reason = "held for its drop")]
    permit: OwnedSemaphorePermit,
    component: Arc<str>,
    id: u64,
}

impl Running {
    #[must_use]
    pub fn new(permit: OwnedSemaphorePermit, component: Arc<str>, id: u64) -> Self {
        Self { permit, component, id }
    }

    /// The response of the guest, which counts until its body has ended.
    #[must_use]
    pub fn answer(self, response: Response<WasiBody>) -> Response<Answer> {
        response.map(|inner| Answer { inner, running: Some(self) })
    }
}

/// A response body on its way to the client.
pub struct Answer {
    inner: WasiBody,
    running: Option<Running>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let (Poll::Ready(Some(Err(cause))), Some(running)) = (&polled, &self.running) {
            // Too late for a status: the stream is cut, and the client sees that.
            log::error(
                "the response body broke off",
                &[("component", &running.component), ("request", &running.id), ("cause", cause)],
            );
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn plain(status: StatusCode, body: Bytes) -> Response<Answer> {
    let inner = Full::new(body).map_err(never).boxed_unsync();
    let mut response = Response::new(Answer { inner, running: None });
    *response.status_mut() = status;
    response
}

#[must_use]
pub fn text(kind: &'static str, body: Bytes) -> Response<Answer> {
    let mut response = plain(StatusCode::OK, body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// The answer of a trigger that has no component, made ready once (H17).
pub struct Static {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Static {
    /// What the plan has checked already: names and values that are none are left out.
    #[must_use]
    pub fn new(plan: &StaticResponse) -> Self {
        let headers = plan.headers.iter().filter_map(|(name, value)| {
            Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
        });
        Self {
            status: StatusCode::from_u16(plan.status).unwrap_or_default(),
            headers: headers.collect(),
            body: plan.body.clone().into(),
        }
    }

    #[must_use]
    pub fn answer(&self) -> Response<Answer> {
        let mut response = plain(self.status, self.body.clone());
        *response.headers_mut() = self.headers.clone();
        response
    }
}

#[must_use]
pub fn refusal(code: StatusCode, reason: &'static str) -> Response<Answer> {
    let mut response = text("text/plain", Bytes::from_static(reason.as_bytes()));
    *response.status_mut() = code;
    response
}

#[must_use]
pub fn status(status: StatusCode) -> Response<Answer> {
    plain(status, Bytes::new())
}

#[must_use]
pub fn busy() -> Response<Answer> {
    let mut response = status(StatusCode::SERVICE_UNAVAILABLE);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn never(cause: Infallible) -> HttpError {
    match cause {}
}
