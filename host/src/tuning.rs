//! What an operator may turn: limits of the app, and how its door behaves. Read with the plan.
//!
//! Laws: a number of 0 that would refuse every request is an error; a span of numbers is half open, as
//! `a..b` is written, and a value of it is drawn anew for each instance or request (features.md H6-H9).

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::error::Error;

/// HTTP/1 needs room for a request line and some headers (H4).
const LEAST_HTTP1_BUF: u32 = 8192;

/// One number, or any of `[from, to)`.
#[derive(Debug, Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(untagged)]
pub enum Span {
    Exactly(u64),
    Between(u64, u64),
}

impl Span {
    /// A value; the same one each time where the span has but one.
    #[must_use]
    pub fn draw(self) -> u64 {
        match self {
            Self::Exactly(value) => value,
            Self::Between(from, to) => fastrand::u64(from..to),
        }
    }

    #[must_use]
    pub fn draw_millis(self) -> Duration {
        Duration::from_millis(self.draw())
    }

    #[must_use]
    pub fn draw_count(self) -> usize {
        usize::try_from(self.draw()).unwrap_or(usize::MAX)
    }

    fn least(self) -> u64 {
        match self {
            Self::Exactly(value) | Self::Between(value, _) => value,
        }
    }

    fn most(self) -> u64 {
        match self {
            Self::Exactly(value) => value,
            Self::Between(_, end) => end.saturating_sub(1),
        }
    }

    fn is_empty(self) -> bool {
        matches!(self, Self::Between(from, to) if from >= to)
    }
}

#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Sum over all memories and tables of one instance, which has a store of its own.
    pub memory_bytes: Option<u64>,
    /// How long a request may run, waiting not counted; none is as long as it may take.
    pub cpu_ms: Option<u64>,
    /// From a request's begin to its response head.
    pub request_timeout_ms: Span,
    /// Requests that run at the same time.
    pub max_concurrency: u32,
    /// Requests that wait for one of those to end, and for how long.
    pub max_queue: u32,
    pub queue_timeout_ms: u64,
    /// Requests that one instance takes, in all and at a time; none is the generation's own number.
    pub max_instance_reuse_count: Option<Span>,
    pub max_instance_concurrent_reuse_count: Option<Span>,
    pub idle_instance_timeout_ms: Span,
    pub shutdown_grace_ms: u64,
}

/// How clients reach the app.
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Whether a port in use may be replaced by one of the next ten (H2).
    pub find_free_port: bool,
    /// One is a descriptor and some 20 KB; beyond this clients wait in the kernel's queue.
    pub max_connections: u32,
    pub http1_max_buf_bytes: u32,
    /// HTTP/2 for clients that begin with it, beside HTTP/1.1 (H4).
    pub http2: bool,
    pub tls: Option<Tls>,
}

/// PEM files as this process sees them (H3).
#[derive(Debug, Clone, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Limits {
    #[must_use]
    pub fn shutdown_grace(&self) -> Duration {
        Duration::from_millis(self.shutdown_grace_ms)
    }

    /// No request waits longer for its head.
    #[must_use]
    pub fn longest_request(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms.most())
    }

    #[must_use]
    pub fn cpu(&self) -> Duration {
        self.cpu_ms.map_or(self.longest_request(), Duration::from_millis)
    }

    #[must_use]
    pub fn queue_timeout(&self) -> Duration {
        Duration::from_millis(self.queue_timeout_ms)
    }

    pub fn check(&self) -> Result<(), Error> {
        let least = |span: Option<Span>| span.map_or(1, Span::least);
        for (name, least) in [
            ("memory_bytes", self.memory_bytes.unwrap_or(1)),
            ("cpu_ms", self.cpu_ms.unwrap_or(1)),
            ("request_timeout_ms", self.request_timeout_ms.least()),
            ("max_concurrency", self.max_concurrency.into()),
            ("max_instance_reuse_count", least(self.max_instance_reuse_count)),
            (
                "max_instance_concurrent_reuse_count",
                least(self.max_instance_concurrent_reuse_count),
            ),
        ] {
            refuse_zero("limits", name, least)?;
        }
        self.check_spans()
    }

    fn check_spans(&self) -> Result<(), Error> {
        for (name, span) in [
            ("request_timeout_ms", Some(self.request_timeout_ms)),
            ("max_instance_reuse_count", self.max_instance_reuse_count),
            ("max_instance_concurrent_reuse_count", self.max_instance_concurrent_reuse_count),
            ("idle_instance_timeout_ms", Some(self.idle_instance_timeout_ms)),
        ] {
            if span.is_some_and(Span::is_empty) {
                return Err(Error::Plan(format!(
                    "limits.{name} is a span that holds no number; wanted its end above its begin"
                )));
            }
        }
        Ok(())
    }
}

impl Http {
    pub fn check(&self) -> Result<(), Error> {
        refuse_zero("http", "max_connections", self.max_connections.into())?;
        if self.http1_max_buf_bytes < LEAST_HTTP1_BUF {
            return Err(Error::Plan(format!(
                "http.http1_max_buf_bytes is {}; wanted {LEAST_HTTP1_BUF} or more",
                self.http1_max_buf_bytes
            )));
        }
        Ok(())
    }
}

fn refuse_zero(section: &str, name: &str, value: u64) -> Result<(), Error> {
    if value > 0 {
        return Ok(());
    }
    Err(Error::Plan(format!(
        "{section}.{name} is 0, which would refuse every request; wanted 1 or more"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn span(value: serde_json::Value) -> Span {
        serde_json::from_value(value).unwrap()
    }

    /// A span draws each of its numbers and never its end (H6, H7, H8, H9).
    #[test]
    fn a_span_is_half_open() {
        let drawn: std::collections::BTreeSet<u64> =
            (0..1000).map(|_| span(json!([3, 6])).draw()).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [3, 4, 5]);
        assert_eq!(span(json!(7)).draw(), 7);
        assert!(span(json!([3, 3])).is_empty() && !span(json!([3, 4])).is_empty());
    }
}
