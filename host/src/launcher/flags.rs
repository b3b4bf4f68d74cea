//! The flags that containerd gives a shim, in the grammar of Go's `flag` package: pure.
//!
//! Law: nothing is refused here. A flag that we do not know is passed on like all the others; we only
//! read what decides where the call goes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

/// Flags that take no value in containerd's shim. Everything else that has no `=` takes the next word.
const BOOLEANS: [&[u8]; 4] = [b"debug", b"v", b"version", b"info"];

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flags {
    pub version: bool,
    pub info: bool,
    pub address: OsString,
    /// The first word that is no flag: `start`, `delete` or none.
    pub action: Option<OsString>,
}

impl Flags {
    pub fn parse(args: &[OsString]) -> Self {
        let mut flags = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let Some((name, attached)) = split(arg.as_bytes()) else {
                flags.action = (arg != "--").then(|| arg.clone()).or_else(|| args.next().cloned());
                // Go stops at the first word that is no flag.
                break;
            };
            if BOOLEANS.contains(&name) {
                flags.set_boolean(name, attached.is_none_or(is_true));
                continue;
            }
            let value = attached.map(to_os).or_else(|| args.next().cloned());
            if name == b"address" {
                flags.address = value.unwrap_or_default();
            }
        }
        flags
    }

    fn set_boolean(&mut self, name: &[u8], on: bool) {
        match name {
            b"v" | b"version" => self.version |= on,
            b"info" => self.info = on,
            _ => {}
        }
    }

    pub fn is_delete(&self) -> bool {
        self.action.as_ref().is_some_and(|action| action == "delete")
    }

    /// Only these two are given something to read; anything else would wait for it forever.
    pub fn reads_stdin(&self) -> bool {
        self.info || self.action.as_ref().is_some_and(|action| action == "start")
    }
}

/// `-name`, `--name`, `-name=value`: the name and the value; nothing if it is no flag.
fn split(arg: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let rest = arg.strip_prefix(b"-")?;
    let rest = rest.strip_prefix(b"-").unwrap_or(rest);
    if rest.is_empty() {
        return None;
    }
    match rest.iter().position(|b| *b == b'=') {
        Some(at) => Some((&rest[..at], Some(&rest[at + 1..]))),
        None => Some((rest, None)),
    }
}

/// Go's `strconv.ParseBool`; what it refuses counts as unset.
fn is_true(value: &[u8]) -> bool {
    [&b"1"[..], b"t", b"T", b"true", b"TRUE", b"True"].contains(&value)
}

fn to_os(bytes: &[u8]) -> OsString {
    std::ffi::OsStr::from_bytes(bytes).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Flags {
        Flags::parse(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn every_spelling_of_a_value_is_read() {
        for line in
            ["-address /a start", "-address=/a start", "--address /a start", "--address=/a start"]
        {
            let flags = parsed(line);
            assert_eq!(flags.address, "/a", "{line}");
            assert_eq!(flags.action, Some("start".into()), "{line}");
        }
    }

    #[test]
    fn a_real_call_of_containerd() {
        let flags = parsed(
            "-namespace k8s.io -address /run/containerd/containerd.sock \
             -publish-binary /usr/bin/containerd -id abc -debug start",
        );
        assert_eq!(flags.address, "/run/containerd/containerd.sock");
        assert!(flags.reads_stdin() && !flags.is_delete());
    }

    #[test]
    fn booleans_do_not_swallow_the_action() {
        assert_eq!(parsed("-debug delete").action, Some("delete".into()));
        assert!(parsed("-debug delete").is_delete());
        assert!(!parsed("-debug=false -v=false start").version);
        for line in ["-v", "--version", "-v=true", "-version=1"] {
            assert!(parsed(line).version, "{line}");
        }
        assert!(parsed("-info").reads_stdin());
    }

    #[test]
    fn unknown_flags_are_passed_over() {
        let flags = parsed("-new-flag x --other=y -address /a delete");
        assert_eq!(flags.address, "/a");
        assert!(flags.is_delete());
    }

    #[test]
    fn flags_after_the_action_are_not_flags() {
        let flags = parsed("start -v");
        assert!(!flags.version);
        assert_eq!(parsed("-- start").action, Some("start".into()));
        assert_eq!(parsed("-address").address, "");
        assert_eq!(parsed(""), Flags::default());
    }
}
