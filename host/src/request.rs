//! One HTTP request: checked, routed, admitted, answered.
//!
//! Laws (features.md H15, H16): a client learns a status and nothing else about what went wrong; the
//! reason is in the log. A request holds its permit until its response body has ended; beyond the permits
//! a bounded number waits for a bounded time, and the rest is told to come back (faults.md H8).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::UPGRADE;
use http::request::Parts;
use http::uri::Scheme;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime_wasi_http::WasiBody;

use crate::answer::{Answer, Running, busy, refusal, status, text};
use crate::app::{App, Called, Target};
use crate::body::Patient;
use crate::guest::{Failure, Ids};
use crate::route::RESERVED;
use crate::tuning::{Http, Limits};
use crate::{headers, log};

/// Longer than any URI that proxies in front of us let through (faults.md H4).
const MAX_URI: usize = 16 << 10;
pub const MAX_HEADERS: usize = 100;

/// Answers every request of the server. Lives as long as it does.
pub struct Service {
    app: App,
    local: SocketAddr,
    scheme: Scheme,
    /// Requests that run at the same time; the instance pool has room for as many.
    permits: Arc<Semaphore>,
    /// Requests that wait for one of those.
    queue: Semaphore,
    patience: Duration,
    ids: Ids,
}

impl Service {
    #[must_use]
    pub fn new(app: App, local: SocketAddr, limits: &Limits, http: &Http) -> Self {
        let permits = |number| {
            usize::try_from(number).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS)
        };
        Self {
            app,
            local,
            scheme: if http.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP },
            permits: Arc::new(Semaphore::new(permits(limits.max_concurrency))),
            queue: Semaphore::new(permits(limits.max_queue)),
            patience: limits.queue_timeout(),
            ids: Ids::default(),
        }
    }

    pub async fn answer(&self, request: Request<Incoming>, client: SocketAddr) -> Response<Answer> {
        let (mut parts, body) = request.into_parts();
        if let Err(refused) = self.check(&mut parts) {
            return refused;
        }
        if let Some(name) = parts.uri.path().strip_prefix(RESERVED) {
            return self.reserved(name);
        }
        // The route borrows its path while the headers, beside it in `parts`, are changed.
        let uri = parts.uri.clone();
        let Some(found) = self.app.routes.find(uri.path()) else {
            return status(StatusCode::NOT_FOUND);
        };
        let called = match &found.route.target {
            Target::Static(response) => return response.answer(),
            Target::Component(called) => called,
        };
        let Some(permit) = self.admit().await else { return busy() };
        headers::add_spin(&mut parts, &found, client);
        let request = Request::from_parts(parts, Patient::new(body).boxed_unsync());
        self.ask(called, request, permit).await
    }

    #[expect(clippy::result_large_err, reason = "the error is the answer, and goes on as it is")]
    fn check(&self, parts: &mut Parts) -> Result<(), Response<Answer>> {
        if parts.uri.path_and_query().is_some_and(|path| path.as_str().len() > MAX_URI) {
            return Err(status(StatusCode::URI_TOO_LONG));
        }
        // HTTP/1 has refused them already, each with its own words.
        if parts.headers.len() > MAX_HEADERS {
            return Err(status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        }
        if parts.method == Method::CONNECT || wants_websocket(parts) {
            return Err(refusal(
                StatusCode::NOT_IMPLEMENTED,
                "this server speaks HTTP only and switches to no other protocol\n",
            ));
        }
        headers::sanitize(parts, &self.scheme, self.local)
            .map_err(|_| status(StatusCode::BAD_REQUEST))
    }

    /// A place to run in, at once or after a wait in the queue.
    async fn admit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Some(permit);
        }
        let _place = self.queue.try_acquire().ok()?;
        let waiting = Arc::clone(&self.permits).acquire_owned();
        tokio::time::timeout(self.patience, waiting).await.ok()?.ok()
    }

    async fn ask(
        &self,
        called: &Called,
        request: Request<WasiBody>,
        permit: OwnedSemaphorePermit,
    ) -> Response<Answer> {
        let id = self.ids.next();
        let component = Arc::clone(&called.component);
        match called.guest.handle(id, request).await {
            Ok(response) => Running::new(permit, component, id).answer(response),
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

/// Other upgrades may be ignored, and are: `h2c` is asked for by clients that go on with HTTP/1.1.
fn wants_websocket(parts: &Parts) -> bool {
    parts.headers.get_all(UPGRADE).iter().any(|value| {
        value.to_str().is_ok_and(|text| {
            text.split(',').any(|protocol| protocol.trim().eq_ignore_ascii_case("websocket"))
        })
    })
}
