//! Host log lines: logfmt on stderr, one whole write per line.
//!
//! Law: a value never breaks a line, so a guest cannot forge a host record (faults.md G15).

use std::fmt::{self, Write as _};
use std::io::Write as _;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Info,
    Warn,
    Error,
}

/// A name and what it is for this record.
pub type Field<'a> = (&'a str, &'a dyn fmt::Display);

pub fn info(message: &str, fields: &[Field<'_>]) {
    emit(Level::Info, message, fields);
}

pub fn warn(message: &str, fields: &[Field<'_>]) {
    emit(Level::Warn, message, fields);
}

pub fn error(message: &str, fields: &[Field<'_>]) {
    emit(Level::Error, message, fields);
}

/// Makes a panic, which ends one request and not the server, a record like any other.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "-".to_owned(), ToString::to_string);
        let why = panic.payload_as_str().unwrap_or("-");
        error("the host panicked", &[("at", &place), ("cause", &why)]);
    }));
}

fn emit(level: Level, message: &str, fields: &[Field<'_>]) {
    let line = render(level, message, fields);
    // Nobody is left to tell when stderr itself is gone.
    _ = std::io::stderr().lock().write_all(line.as_bytes());
}

fn render(level: Level, message: &str, fields: &[Field<'_>]) -> String {
    let level = match level {
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    };
    let mut line = format!("level={level} msg={}", Quoted(message));
    for (name, value) in fields {
        // Writing to a String cannot fail.
        _ = write!(line, " {name}={}", Quoted(&value.to_string()));
    }
    line.push('\n');
    line
}

/// A logfmt value: bare where that is unambiguous, else quoted with escapes.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bare = |c: char| c.is_ascii_graphic() && c != '"' && c != '=';
        if !self.0.is_empty() && self.0.chars().all(bare) {
            f.write_str(self.0)
        } else {
            write!(f, "{:?}", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_start_a_new_record() {
        let line = render(Level::Error, "guest failed", &[("why", &"x\nlevel=info msg=forged")]);
        assert_eq!(line, "level=error msg=\"guest failed\" why=\"x\\nlevel=info msg=forged\"\n");
    }

    #[test]
    fn plain_values_stay_bare() {
        assert_eq!(render(Level::Info, "up", &[("n", &3)]), "level=info msg=up n=3\n");
    }
}
