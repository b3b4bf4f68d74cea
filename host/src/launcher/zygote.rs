//! Asking the zygote, within a deadline.
//!
//! Law: it answers in full, or the caller gets back what was read from stdin, for the fallback.

use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::answer::Answer;
use crate::call::Call;

/// Containerd sends a few kilobytes.
const MAX_STDIN: u64 = 10 << 20;

/// What was taken from stdin before the zygote failed; nothing if stdin was not touched.
pub type Consumed = Option<Vec<u8>>;

pub fn ask(call: &Call) -> Result<Answer, Consumed> {
    let stream = connect(call).ok_or(None)?;
    let stdin = if call.flags.reads_stdin() { read_stdin() } else { Ok(None) };
    let stdin = stdin.map_err(Some)?;
    let body = stdin.as_deref().unwrap_or_default();
    converse(call, &stream, body).ok_or(stdin)
}

/// A connection to a peer that may act for us.
fn connect(call: &Call) -> Option<Timed> {
    if std::env::var_os("SPINWHEEL_NO_ZYGOTE").is_some_and(|value| !value.is_empty()) {
        return None;
    }
    let deadline = Instant::now() + call.deadline();
    let stream = connect_within(&call.socket()?, call.deadline()).ok()?;
    let peer = sockopt::socket_peercred(&stream).ok()?;
    let trusted = peer.uid.is_root() || peer.uid == rustix::process::geteuid();
    trusted.then_some(Timed { stream, deadline })
}

/// Connecting to a UNIX socket blocks while its queue is full, and std offers no limit for that.
fn connect_within(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let socket =
        net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(limit))?;
    net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// All of stdin, nothing if there is none to read; as an error what came before it failed or grew absurd.
fn read_stdin() -> Result<Consumed, Vec<u8>> {
    let stdin = io::stdin();
    if stdin.is_terminal() || rustix::io::fcntl_getfd(&stdin).is_err() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    // `Stdin` buffers, so it must be read through this one handle and to its end.
    match stdin.lock().take(MAX_STDIN + 1).read_to_end(&mut bytes) {
        Ok(_) if bytes.len() as u64 <= MAX_STDIN => Ok(Some(bytes)),
        _ => Err(bytes),
    }
}

fn converse(call: &Call, stream: &Timed, stdin: &[u8]) -> Option<Answer> {
    let message = call.message()?;
    let mut request = Vec::with_capacity(message.len() + stdin.len() + 8);
    for block in [&message[..], stdin] {
        request.extend(u32::try_from(block.len()).ok()?.to_be_bytes());
        request.extend(block);
    }
    (&mut &*stream).write_all(&request).ok()?;
    Answer::read(stream).ok()
}

/// A stream whose every operation ends at one deadline.
struct Timed {
    stream: UnixStream,
    deadline: Instant,
}

impl Timed {
    fn remaining(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        // Zero would mean "for ever" to the kernel.
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for &Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.remaining()?))?;
        (&self.stream).read(buffer)
    }
}

impl Write for &Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.remaining()?))?;
        (&self.stream).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
