//! One client's connection: which HTTP it speaks, and for how long it may say nothing.
//!
//! Laws (faults.md H1, H3, H4, H7; features.md H3, H4): a head has [`HEAD_TIMEOUT`] and fits into a buffer;
//! sent bytes wait [`STALL`] for their client; HTTP/2 begins with its preface or by TLS's choice, and
//! a connection of it that asks for nothing is closed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::error::Error;
use crate::idle::Activity;
use crate::request::Service;
use crate::shutdown::Shutdown;
use crate::tls::Tls;
use crate::tuning::Http;

const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
const STALL: Duration = Duration::from_secs(30);
/// Proxies keep a connection for their next request, and take it ill when it closes just then.
const REST: Duration = Duration::from_mins(1);

/// How an HTTP/2 connection begins. No HTTP/1 method begins alike.
const PREFACE: &[u8] = b"PRI";
/// Between two looks at a client that has sent less than that: it is one byte and one of a million.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

const MAX_STREAMS: u32 = 100;
const MAX_UNACCEPTED_RESETS: usize = 20;
const MAX_LOCAL_RESETS: usize = 1024;
const STREAM_SEND_BUF: usize = 64 << 10;

/// How clients come in. Lives as long as the server.
pub struct Door {
    service: Arc<Service>,
    http: Http,
    tls: Option<Tls>,
}

impl Door {
    /// Reads the TLS files, if there are any.
    pub fn new(service: Arc<Service>, http: Http) -> Result<Self, Error> {
        let tls = http.tls.clone().map(|files| Tls::new(files, http.http2)).transpose()?;
        Ok(Self { service, http, tls })
    }

    #[must_use]
    pub fn max_connections(&self) -> usize {
        usize::try_from(self.http.max_connections).unwrap_or(usize::MAX)
    }

    /// Serves one client until it leaves, fails, or the server shuts down.
    ///
    /// Errors are the client's: it left, stalled or does not speak HTTP. It has its answer from hyper, and
    /// a log line for each would be a way to fill the log from outside.
    pub async fn serve(&self, stream: TcpStream, client: SocketAddr, shutdown: &Shutdown) {
        // Guests write small pieces of a body one by one; waiting to fill a packet costs them 40 ms each.
        _ = stream.set_nodelay(true);
        // A client that does not read its answer holds a permit; the kernel ends that.
        let stall = u32::try_from(STALL.as_millis()).unwrap_or(u32::MAX);
        _ = sockopt::set_tcp_user_timeout(&stream, stall);
        if let Some(tls) = &self.tls {
            let accepted = tokio::select! {
                accepted = tls.accept(stream) => accepted,
                () = shutdown.requested() => None,
            };
            let Some((stream, http2)) = accepted else { return };
            self.speak(stream, http2, client, shutdown).await;
        } else {
            let http2 =
                if self.http.http2 { begins_http2(&stream, shutdown).await } else { Some(false) };
            let Some(http2) = http2 else { return };
            self.speak(stream, http2, client, shutdown).await;
        }
    }

    async fn speak<S>(&self, stream: S, http2: bool, client: SocketAddr, shutdown: &Shutdown)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        if http2 {
            self.http2(stream, client, shutdown).await;
        } else {
            self.http1(stream, client, shutdown).await;
        }
    }

    async fn http1<S>(&self, stream: S, client: SocketAddr, shutdown: &Shutdown)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let answer = service_fn(|request: Request<Incoming>| async move {
            Ok::<_, Infallible>(self.service.answer(request, client).await)
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .half_close(true)
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(usize::try_from(self.http.http1_max_buf_bytes).unwrap_or(usize::MAX))
            .max_headers(crate::request::MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), answer);
        let mut serving = pin!(serving);
        tokio::select! {
            _ = serving.as_mut() => {}
            () = shutdown.requested() => {
                serving.as_mut().graceful_shutdown();
                _ = serving.await;
            }
        }
    }

    async fn http2<S>(&self, stream: S, client: SocketAddr, shutdown: &Shutdown)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Activity::default();
        let (service, watched) = (Arc::clone(&self.service), activity.clone());
        let answer = service_fn(move |request: Request<Incoming>| {
            let (service, active) = (Arc::clone(&service), watched.begin());
            async move {
                let response = service.answer(request, client).await;
                Ok::<_, Infallible>(response.map(|body| active.watch(body)))
            }
        });
        let serving = self.http2_limits().serve_connection(TokioIo::new(stream), answer);
        let mut serving = pin!(serving);
        tokio::select! {
            _ = serving.as_mut() => return,
            // Streams that a client holds and does not read end with their connection.
            () = activity.stalls(STALL) => return,
            () = activity.rests(REST) => {}
            () = shutdown.requested() => {}
        }
        serving.as_mut().graceful_shutdown();
        tokio::select! {
            _ = serving => {}
            () = activity.stalls(STALL) => {}
            // What is sent and not taken then is no stream of ours any more.
            () = activity.rests(STALL) => {}
        }
    }

    fn http2_limits(&self) -> http2::Builder<TokioExecutor> {
        let mut limits = http2::Builder::new(TokioExecutor::new());
        limits
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_pending_accept_reset_streams(MAX_UNACCEPTED_RESETS)
            .max_local_error_reset_streams(MAX_LOCAL_RESETS)
            .max_header_list_size(self.http.http1_max_buf_bytes)
            .max_send_buf_size(STREAM_SEND_BUF)
            .keep_alive_interval(STALL / 2)
            .keep_alive_timeout(STALL / 2);
        limits
    }
}

/// Looks at what the client says first without taking it; none if it says nothing in time.
async fn begins_http2(stream: &TcpStream, shutdown: &Shutdown) -> Option<bool> {
    let looking = async {
        let mut seen = [0; PREFACE.len()];
        loop {
            match stream.peek(&mut seen).await.ok()? {
                0 => return None,
                n if n < PREFACE.len() && PREFACE.starts_with(&seen[..n]) => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                n => return Some(seen[..n] == *PREFACE),
            }
        }
    };
    tokio::select! {
        found = tokio::time::timeout(HEAD_TIMEOUT, looking) => found.ok().flatten(),
        () = shutdown.requested() => None,
    }
}
