//! Accepting connections: what no client can break.
//!
//! Laws (faults.md H2): a permit is there before accept; accept never ends the server.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::connection::Door;
use crate::log;
use crate::shutdown::Shutdown;

const SHORTEST_BACKOFF: Duration = Duration::from_millis(10);
const LONGEST_BACKOFF: Duration = Duration::from_millis(100);

/// Accepts until told to stop. What is in flight then is `shutdown`'s to wait for.
pub async fn run(listener: TcpListener, door: Arc<Door>, shutdown: &Shutdown) {
    let permits = Arc::new(Semaphore::new(door.max_connections()));
    let accepting = async {
        let mut backoff = Backoff::default();
        loop {
            // The semaphore is never closed.
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
            let (stream, client) = accept(&listener, &mut backoff).await;
            let (door, stopping) = (Arc::clone(&door), shutdown.clone());
            shutdown.track(async move {
                door.serve(stream, client, &stopping).await;
                drop(permit);
            });
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
}
