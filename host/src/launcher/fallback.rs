//! The slow way that always works: becoming the Python shim.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::call::{self, Call};
use crate::zygote::Consumed;

const SHIM: &str = "spinwheel-shim";

/// Returns only if it failed.
pub fn run(call: &Call, consumed: Consumed) -> ExitCode {
    let path = shim_path();
    let failed = match consumed.map_or(Ok(()), |bytes| replay(&bytes)) {
        // `exec` names the program by its path, which is what the shim finds its parts by.
        Ok(()) => Command::new(&path).args(&call.args).env_clear().envs(call::environment()).exec(),
        Err(cause) => cause,
    };
    eprintln!("cannot run {}: {failed}; install spinwheel again", path.display());
    ExitCode::FAILURE
}

/// Beside this program, wherever a symlink led to it from.
fn shim_path() -> PathBuf {
    let exe = call::own_path().unwrap_or_else(|| OsString::from("/usr/bin/").into());
    exe.with_file_name(SHIM)
}

/// Puts what was read back on descriptor 0: the rest of it, if any, cannot be had from a pipe twice.
fn replay(bytes: &[u8]) -> io::Result<()> {
    let mut file = File::from(memfd_create("stdin", MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    // What was too much for the zygote may still wait in the pipe.
    io::copy(&mut io::stdin().lock(), &mut file)?;
    file.seek(SeekFrom::Start(0))?;
    rustix::stdio::dup2_stdin(&file)?;
    Ok(())
}
