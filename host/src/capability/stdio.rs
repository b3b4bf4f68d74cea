//! What guests print, to the container's stdout and stderr.
//!
//! Law: one line is one write, so lines of concurrent requests do not mix. A guest that never ends its
//! line is cut at [`MAX_LINE`], and what it leaves behind unfinished is ended for it.

use std::io::{self, Write};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Longer than lines are, shorter than what would hurt if a thousand instances held one.
const MAX_LINE: usize = 16 << 10;

/// What a guest may hand over in one call; it asks first (`check_write`).
const CHUNK: usize = 64 << 10;

#[derive(Debug, Clone, Copy)]
pub enum Sink {
    Stdout,
    Stderr,
}

impl Sink {
    /// A reader that went away is not the guest's fault, and nobody is left to tell.
    fn write(self, bytes: &[u8]) {
        _ = match self {
            Self::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(bytes).and_then(|()| out.flush())
            }
            Self::Stderr => io::stderr().lock().write_all(bytes),
        };
    }
}

/// One instance's end of a sink: every stream that the guest opens shares the unfinished line.
#[derive(Clone)]
pub struct GuestOutput(Arc<Mutex<Line>>);

impl GuestOutput {
    #[must_use]
    pub fn new(sink: Sink) -> Self {
        Self(Arc::new(Mutex::new(Line { sink, unfinished: Vec::new() })))
    }

    fn push(&self, bytes: &[u8]) {
        // A panic while the lock is held leaves at worst a half line, which is no reason for another.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
    }
}

struct Line {
    sink: Sink,
    unfinished: Vec<u8>,
}

impl Line {
    fn push(&mut self, bytes: &[u8]) {
        let ready = ready_len(self.unfinished.len(), bytes);
        let (now, later) = bytes.split_at(ready);
        if self.unfinished.is_empty() && !now.is_empty() {
            self.sink.write(now);
        } else if !now.is_empty() {
            self.unfinished.extend_from_slice(now);
            self.sink.write(&self.unfinished);
            self.unfinished.clear();
        }
        self.unfinished.extend_from_slice(later);
    }
}

/// How many of `bytes` can go out, when `held` bytes of the line were there before.
fn ready_len(held: usize, bytes: &[u8]) -> usize {
    let ended = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |last| last + 1);
    let rest = bytes.len() - ended;
    let carried = if ended == 0 { held } else { 0 };
    if carried + rest > MAX_LINE { bytes.len() } else { ended }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.unfinished.is_empty() {
            self.unfinished.push(b'\n');
            self.sink.write(&self.unfinished);
        }
    }
}

impl IsTerminal for GuestOutput {
    /// A guest that thinks it talks to a person would colour the log.
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait::async_trait]
impl Pollable for GuestOutput {
    async fn ready(&mut self) {}
}

impl OutputStream for GuestOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.push(&bytes);
        Ok(())
    }

    /// Does not end the line: guests flush after each fragment that they print.
    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK)
    }
}

impl AsyncWrite for GuestOutput {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, b: &[u8]) -> Poll<io::Result<usize>> {
        self.push(b);
        Poll::Ready(Ok(b.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_go_out() {
        assert_eq!(ready_len(0, b"half"), 0);
        assert_eq!(ready_len(4, b" and half"), 0);
        assert_eq!(ready_len(4, b" done\nnext"), 6);
        assert_eq!(ready_len(0, b"a\nb\n"), 4);
        assert_eq!(ready_len(0, b""), 0);
    }

    #[test]
    fn an_endless_line_is_cut() {
        let long = vec![b'x'; MAX_LINE + 1];
        assert_eq!(ready_len(0, &long), long.len());
        assert_eq!(ready_len(MAX_LINE, b"x"), 1);
        assert_eq!(ready_len(MAX_LINE, b"\nx"), 1);
    }
}
