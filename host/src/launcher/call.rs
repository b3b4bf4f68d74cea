//! One call of this program, as the zygote gets to see it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::flags::Flags;

/// What of containerd's environment goes any further: our processes serve many, and none needs more.
const ENVIRONMENT: [&str; 7] = [
    "PATH",
    "LANG",
    "TTRPC_ADDRESS",
    "GRPC_ADDRESS",
    "NAMESPACE",
    "MAX_SHIM_VERSION",
    "SCHED_CORE",
];
const OURS: &str = "SPINWHEEL_";

pub struct Call {
    pub args: Vec<OsString>,
    pub flags: Flags,
    pub started_ns: u64,
}

/// The first message on the wire.
#[derive(Serialize)]
struct Message {
    argv: Vec<String>,
    cwd: String,
    env: BTreeMap<String, String>,
    started_ns: u64,
}

impl Call {
    pub fn new(args: Vec<OsString>, flags: Flags, started_ns: u64) -> Self {
        Self { args, flags, started_ns }
    }

    /// Containerd gives `delete` five seconds, of which the fallback needs most.
    pub fn deadline(&self) -> Duration {
        Duration::from_secs(if self.flags.is_delete() { 2 } else { 10 })
    }

    /// Nothing if an argument or the folder is not UTF-8, which JSON cannot carry: the fallback can.
    pub fn message(&self) -> Option<Vec<u8>> {
        let argv = self.args.iter().map(text).collect::<Option<_>>()?;
        let cwd = text(std::env::current_dir().ok()?.as_os_str())?;
        let env = environment();
        let message = Message { argv, cwd, env, started_ns: self.started_ns };
        serde_json::to_vec(&message).ok()
    }

    /// Where the zygote of this binary and this containerd listens. Another build has another name, so
    /// an upgrade never talks to an old zygote.
    pub fn socket(&self) -> Option<PathBuf> {
        let exe = own_path()?;
        let stat = rustix::fs::stat(&exe).ok()?;
        let mtime_ns = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
        let address = text(&self.flags.address)?;
        let identity = format!("{address}\n{}\n{}\n{mtime_ns}", exe.to_str()?, stat.st_ino);
        let run_dir = std::env::var_os("SPINWHEEL_RUN_DIR").filter(|dir| !dir.is_empty());
        let run_dir = run_dir.map_or_else(|| PathBuf::from("/run/spinwheel"), PathBuf::from);
        Some(run_dir.join("zygote").join(format!("{}.sock", key(&identity))))
    }
}

/// The variables that may be passed on, to the zygote and to the Python shim alike.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((text(&name)?, text(&value)?)))
        .filter(|(name, _)| ENVIRONMENT.contains(&name.as_str()) || name.starts_with(OURS))
        .collect()
}

/// This program's file, symlinks resolved.
pub fn own_path() -> Option<PathBuf> {
    std::fs::canonicalize(Path::new("/proc/self/exe")).ok()
}

fn key(identity: &str) -> String {
    Sha256::digest(identity).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn text(value: impl AsRef<std::ffi::OsStr>) -> Option<String> {
    value.as_ref().to_str().map(str::to_owned)
}

/// `CLOCK_MONOTONIC`, which every process of the machine shares.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither is negative on a clock that counts from boot.
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_sixteen_hex_digits_of_sha256() {
        // printf 'a\nb' | sha256sum
        assert_eq!(key("a\nb"), "7e18f737311b2dc3");
    }
}
