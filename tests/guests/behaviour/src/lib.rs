//! What the hello guests do on each path, without any HTTP.
//!
//! Knows: the paths that tests ask for, and everything that needs only `std`.
//! Must not know: WASI HTTP, of whatever version. `hello-p2` and `hello-p3` add that, so the two
//! answer alike and a test can run over both.

use std::hint::black_box;

/// What a request's path asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// A fixed text that names the guest.
    Hello,
    /// Send the request's headers back.
    Headers,
    /// Send the environment back.
    Env,
    /// The value of a Spin variable.
    Var(&'a str),
    /// The content of a file below the preopened `/`.
    File(&'a str),
    /// Stream the request's body back.
    Echo,
    /// Answer after so many milliseconds.
    Sleep(u64),
    /// Panic, which traps.
    Trap,
    /// Never answer, and never call the host.
    Spin,
    /// Allocate and touch so many MiB.
    Grow(usize),
    /// One line on stdout, one on stderr.
    Log,
    /// Anything else.
    Unknown,
}

impl<'a> Action<'a> {
    /// Reads a request target such as `/sleep/20?x=1`; the query is ignored.
    #[must_use]
    pub fn of(target: &'a str) -> Self {
        let path = target.split('?').next().unwrap_or_default();
        match path.trim_start_matches('/').split_once('/') {
            Some(("var", name)) => Self::Var(name),
            Some(("file", path)) => Self::File(path),
            Some(("sleep", ms)) => ms.parse().map_or(Self::Unknown, Self::Sleep),
            Some(("grow", mib)) => mib.parse().map_or(Self::Unknown, Self::Grow),
            _ => Self::of_plain(path),
        }
    }

    fn of_plain(path: &str) -> Self {
        match path {
            "" | "/" => Self::Hello,
            "/headers" => Self::Headers,
            "/env" => Self::Env,
            "/echo" => Self::Echo,
            "/trap" => Self::Trap,
            "/spin" => Self::Spin,
            "/log" => Self::Log,
            _ => Self::Unknown,
        }
    }
}

/// A status and a body that is known in full.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Answer {
    #[must_use]
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into() }
    }

    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self { status: 404, body: format!("not found: {what}\n").into_bytes() }
    }
}

/// The environment, one `NAME=value` per line.
#[must_use]
pub fn env() -> Answer {
    let lines = std::env::vars_os()
        .map(|(name, value)| format!("{}={}\n", name.to_string_lossy(), value.to_string_lossy()));
    Answer::ok(lines.collect::<String>())
}

/// Header lines, `name: value`, in the order given.
#[must_use]
pub fn headers(entries: &[(String, Vec<u8>)]) -> Answer {
    let lines =
        entries.iter().map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value)));
    Answer::ok(lines.collect::<String>())
}

/// A variable's value, or `error: ...` (status 200 too: the text is what tests look at).
#[must_use]
pub fn variable(value: Result<String, String>) -> Answer {
    match value {
        Ok(value) => Answer::ok(value),
        Err(reason) => Answer::ok(format!("error: {reason}\n")),
    }
}

/// The bytes of a file below the preopened `/`.
#[must_use]
pub fn file(path: &str) -> Answer {
    match std::fs::read(format!("/{path}")) {
        Ok(body) => Answer::ok(body),
        Err(error) => Answer::not_found(&format!("{path}: {error}")),
    }
}

/// Allocates and touches `mib` MiB; past the host's limit this traps instead of answering.
#[must_use]
pub fn grow(mib: usize) -> Answer {
    let held = black_box(vec![1_u8; mib << 20]);
    Answer::ok(format!("grew {} MiB\n", held.len() >> 20))
}

/// One line on each standard stream.
#[must_use]
pub fn log() -> Answer {
    println!("a line on stdout");
    eprintln!("a line on stderr");
    Answer::ok("logged\n")
}

/// Burns CPU for ever; `black_box` keeps the compiler from proving the loop empty.
pub fn spin() -> ! {
    let mut turns = 0_u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_select_actions_and_the_query_is_ignored() {
        assert_eq!(Action::Hello, Action::of("/"));
        assert_eq!(Action::Hello, Action::of("/?a=/log"));
        assert_eq!(Action::Var("greeting"), Action::of("/var/greeting"));
        assert_eq!(Action::File("a/b.txt"), Action::of("/file/a/b.txt"));
        assert_eq!(Action::Sleep(20), Action::of("/sleep/20?x=1"));
    }

    #[test]
    fn a_malformed_number_is_an_unknown_path() {
        assert_eq!(Action::Unknown, Action::of("/sleep/soon"));
        assert_eq!(Action::Unknown, Action::of("/grow/-1"));
    }

    #[test]
    fn a_missing_file_is_404() {
        assert_eq!(404, file("no/such/file").status);
    }
}
