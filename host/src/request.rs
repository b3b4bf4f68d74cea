//! One HTTP request: checked, routed, bounded, answered.
//!
//! Laws (features.md H15, H16): a client learns a status and nothing else about what went wrong; the
//! reason is in the log. A request holds its permit until its response body has ended.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime_wasi_http::{Error as HttpError, WasiBody};

use crate::app::{App, Target};
use crate::body::Patient;
use crate::guest::{Failure, Ids};
use crate::route::RESERVED;
use crate::{headers, log};

/// Longer than any URI that proxies in front of us let through (faults.md H4).
const MAX_URI: usize = 16 << 10;

/// Answers every request of the server. Lives as long as it does.
pub struct Service {
    app: App,
    local: SocketAddr,
    /// Requests that run at the same time; the instance pool has room for as many.
    permits: Arc<Semaphore>,
    ids: Ids,
}

impl Service {
    #[must_use]
    pub fn new(app: App, local: SocketAddr, max_concurrency: u32) -> Self {
        let permits = usize::try_from(max_concurrency).unwrap_or(Semaphore::MAX_PERMITS);
        let permits = Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Self { app, local, permits, ids: Ids::default() }
    }

    pub async fn answer(&self, request: Request<Incoming>, client: SocketAddr) -> Response<Answer> {
        let (mut parts, body) = request.into_parts();
        if let Err(refusal) = self.check(&mut parts) {
            return status(refusal);
        }
        if let Some(name) = parts.uri.path().strip_prefix(RESERVED) {
            return self.reserved(name);
        }
        // The route borrows its path while the headers, beside it in `parts`, are changed.
        let uri = parts.uri.clone();
        let Some(found) = self.app.routes.find(uri.path()) else {
            return status(StatusCode::NOT_FOUND);
        };
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return busy() };
        headers::add_spin(&mut parts, &found, client);
        let request = Request::from_parts(parts, Patient::new(body).boxed_unsync());
        self.ask(&found.route.target, request, permit).await
    }

    fn check(&self, parts: &mut Parts) -> Result<(), StatusCode> {
        if parts.uri.path_and_query().is_some_and(|path| path.as_str().len() > MAX_URI) {
            return Err(StatusCode::URI_TOO_LONG);
        }
        headers::sanitize(parts, self.local).map_err(|_| StatusCode::BAD_REQUEST)
    }

    async fn ask(
        &self,
        target: &Target,
        request: Request<WasiBody>,
        permit: OwnedSemaphorePermit,
    ) -> Response<Answer> {
        let id = self.ids.next();
        let component = Arc::clone(&target.component);
        match target.guest.handle(id, request).await {
            Ok(response) => {
                let running = Some(Running { permit, component, id });
                response.map(|inner| Answer { inner, running })
            }
            Err(Failure::Guest) => status(StatusCode::INTERNAL_SERVER_ERROR),
            Err(Failure::Busy) => busy(),
            Err(Failure::TimedOut) => {
                let fields: [log::Field<'_>; 2] = [("component", &component), ("request", &id)];
                log::error("the component gave no response in time", &fields);
                status(StatusCode::GATEWAY_TIMEOUT)
            }
        }
    }

    fn reserved(&self, name: &str) -> Response<Answer> {
        match name {
            "health" => text("text/plain", "OK".into()),
            "info" => text("application/json", self.app.info.clone().into()),
            _ => status(StatusCode::NOT_FOUND),
        }
    }
}

/// What keeps a request counted while its body streams, and names it should that fail.
struct Running {
    #[expect(dead_code, reason = "held for its drop")]
    permit: OwnedSemaphorePermit,
    component: Arc<str>,
    id: u64,
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

fn plain(body: Full<Bytes>) -> Response<Answer> {
    Response::new(Answer { inner: body.map_err(never).boxed_unsync(), running: None })
}

fn text(kind: &'static str, body: Bytes) -> Response<Answer> {
    let mut response = plain(Full::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn status(status: StatusCode) -> Response<Answer> {
    let inner = Empty::new().map_err(never).boxed_unsync();
    let mut response = Response::new(Answer { inner, running: None });
    *response.status_mut() = status;
    response
}

fn busy() -> Response<Answer> {
    let mut response = status(StatusCode::SERVICE_UNAVAILABLE);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn never(cause: Infallible) -> HttpError {
    match cause {}
}
