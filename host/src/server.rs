//! Sockets: who may connect, for how long, and what no client can break.
//!
//! Laws (faults.md H1-H4): a permit is there before accept; accept never ends the server; a head has
//! [`HEAD_TIMEOUT`] and fits into [`MAX_HEAD`].

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Error;
use crate::log;
use crate::request::Service;
use crate::shutdown::Shutdown;

/// Connections at the same time. One is a descriptor and some 20 KB; containers have 1,024 descriptors
/// or many more, and beyond this clients wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;
const BACKLOG: i32 = 1024;

const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long sent bytes may wait for the client to take them.
const STALL_MILLIS: u32 = 30_000;
const MAX_HEAD: usize = 64 << 10;
const MAX_HEADERS: usize = 100;

const SHORTEST_BACKOFF: Duration = Duration::from_millis(10);
const LONGEST_BACKOFF: Duration = Duration::from_millis(100);

/// Binds the first address that `listen` resolves to and that can be had.
pub fn bind(listen: &str) -> Result<std::net::TcpListener, Error> {
    let refused = |cause: io::Error| {
        let next = match cause.kind() {
            io::ErrorKind::AddrInUse => "stop what listens there, or choose another port",
            io::ErrorKind::PermissionDenied => {
                "ports below 1024 need the right to bind them; choose a higher one"
            }
            _ => "wanted an address of this machine as host:port",
        };
        Error::Listen(format!("cannot listen on {listen}: {cause}; {next}"))
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in listen.to_socket_addrs().map_err(refused)? {
        match bind_one(address) {
            Ok(listener) => return Ok(listener),
            Err(cause) => last = cause,
        }
    }
    Err(refused(last))
}

fn bind_one(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // A restart must get its port back while old connections are still in TIME_WAIT.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until told to stop. What is in flight then is `shutdown`'s to wait for.
pub async fn run(listener: TcpListener, service: Arc<Service>, shutdown: &Shutdown) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accepting = async {
        let mut backoff = Backoff::default();
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let (stream, client) = accept(&listener, &mut backoff).await;
            let connection =
                connection(stream, client, permit, Arc::clone(&service), shutdown.clone());
            shutdown.track(connection);
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shutdown.requested() => {}
    }
}

/// One connection, whatever it takes.
async fn accept(listener: &TcpListener, backoff: &mut Backoff) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => {
                backoff.reset();
                return accepted;
            }
            // The client left while it was in the queue; the next one is waiting.
            Err(cause) if cause.kind() == io::ErrorKind::ConnectionAborted => {}
            // No descriptor or no memory: both come back when connections end.
            Err(cause) => tokio::time::sleep(backoff.next(&cause)).await,
        }
    }
}

/// How long to leave accept alone, and whether that was said already.
#[derive(Default)]
struct Backoff(Option<Duration>);

impl Backoff {
    fn next(&mut self, cause: &io::Error) -> Duration {
        let delay = match self.0 {
            None => {
                log::error("cannot accept connections; trying on", &[("cause", cause)]);
                SHORTEST_BACKOFF
            }
            Some(last) => (last * 2).min(LONGEST_BACKOFF),
        };
        self.0 = Some(delay);
        delay
    }

    fn reset(&mut self) {
        if self.0.take().is_some() {
            log::info("connections are accepted again", &[]);
        }
    }
}

/// Serves one client until it leaves, fails, or the server shuts down.
async fn connection(
    stream: TcpStream,
    client: SocketAddr,
    permit: OwnedSemaphorePermit,
    service: Arc<Service>,
    shutdown: Shutdown,
) {
    // Guests write small pieces of a body one by one; waiting to fill a packet costs them 40 ms each.
    _ = stream.set_nodelay(true);
    // A client that does not read its answer holds a permit; the kernel ends that, and only that.
    _ = sockopt::set_tcp_user_timeout(&stream, STALL_MILLIS);
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(service.answer(request, client).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), answer);
    let mut serving = std::pin::pin!(serving);
    // Errors here are the client's: it left, stalled or does not speak HTTP. It has its answer from
    // hyper, and a log line for each would be a way to fill the log from outside.
    tokio::select! {
        _ = serving.as_mut() => {}
        () = shutdown.requested() => {
            serving.as_mut().graceful_shutdown();
            _ = serving.await;
        }
    }
    drop(permit);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_limit_and_starts_over() {
        let mut backoff = Backoff::default();
        let cause = io::Error::from_raw_os_error(24);
        let delays: Vec<u128> = (0..6).map(|_| backoff.next(&cause).as_millis()).collect();
        assert_eq!(delays, [10, 20, 40, 80, 100, 100]);
        backoff.reset();
        assert_eq!(backoff.next(&cause), SHORTEST_BACKOFF);
    }

    #[test]
    fn a_port_in_use_says_what_to_do() {
        let holder = bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap().to_string();
        let error = bind(&address).unwrap_err();
        assert_eq!(error.kind(), "listen");
        assert!(error.to_string().contains(&address), "{error}");
        assert!(error.to_string().contains("choose another port"), "{error}");
    }

    #[test]
    fn an_address_that_is_none_is_a_listen_error() {
        for listen in ["", "nonsense", "127.0.0.1", "127.0.0.1:99999", "192.0.2.1:0"] {
            assert_eq!(bind(listen).unwrap_err().kind(), "listen", "{listen}");
        }
    }
}
