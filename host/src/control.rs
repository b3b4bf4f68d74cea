//! What the control plane hears from a starting server: one line, then the pipe closes.
//!
//! Law: exactly one line is written, `ready {..}` or `error {..}`, and only once it is true.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

use crate::error::Error;
use crate::{fd, log};

/// When each step of the start ended, in nanoseconds of `CLOCK_MONOTONIC`, which all processes of a
/// machine share: the control plane puts its own steps before ours.
pub struct Steps(Vec<(&'static str, u64)>);

impl Steps {
    /// The first step ends where `main` begins.
    #[must_use]
    pub fn start() -> Self {
        let mut steps = Self(Vec::with_capacity(8));
        steps.ended("main");
        steps
    }

    pub fn ended(&mut self, step: &'static str) {
        let now = clock_gettime(ClockId::Monotonic);
        // Neither is negative on a clock that counts from boot.
        let nanos = now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs();
        self.0.push((step, nanos));
    }
}

/// The writing end of the ready pipe; nobody listens if there is none.
#[derive(Default)]
pub struct Ready(Option<File>);

impl Ready {
    pub fn adopt(number: Option<RawFd>) -> Result<Self, Error> {
        let pipe = number.map(fd::adopt).transpose().map_err(|cause| {
            Error::Plan(format!("ready_fd cannot be taken over: {cause}; hand it over open"))
        })?;
        Ok(Self(pipe.map(File::from)))
    }

    pub fn ready(self, listen: SocketAddr, steps: &Steps) {
        self.say(&ready_line(listen, steps));
    }

    pub fn error(self, error: &Error) {
        self.say(&error_line(error));
    }

    fn say(self, line: &str) {
        let Some(mut pipe) = self.0 else { return };
        if let Err(cause) = pipe.write_all(line.as_bytes()) {
            log::warn("nobody reads the ready pipe", &[("cause", &cause)]);
        }
    }
}

fn ready_line(listen: SocketAddr, steps: &Steps) -> String {
    format!("ready {}\n", json!({ "listen": listen.to_string(), "steps": steps.0 }))
}

fn error_line(error: &Error) -> String {
    format!("error {}\n", json!({ "kind": error.kind(), "message": error.to_string() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_is_that_of_the_contract() {
        let steps = Steps(vec![("main", 1), ("plan", 2)]);
        assert_eq!(
            ready_line("127.0.0.1:43211".parse().unwrap(), &steps),
            "ready {\"listen\":\"127.0.0.1:43211\",\"steps\":[[\"main\",1],[\"plan\",2]]}\n"
        );
    }

    #[test]
    fn the_error_line_stays_one_line() {
        let line = error_line(&Error::Listen("in use\nreally".into()));
        assert_eq!(line, "error {\"kind\":\"listen\",\"message\":\"in use; really\"}\n");
    }

    #[test]
    fn steps_go_forward() {
        let mut steps = Steps::start();
        steps.ended("plan");
        assert!(steps.0[0].1 > 0 && steps.0[0].1 <= steps.0[1].1);
    }
}
