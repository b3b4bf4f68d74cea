//! `containerd-shim-spin-v2`: hands its call to the zygote, and runs the Python shim where there is none.
//!
//! Laws: no policy here (everything it can do, `spinwheel-shim` does too). Nothing on stderr unless both
//! ways failed. Whatever goes wrong before a full answer is here, the call is made again in full by the
//! fallback; the shim's verbs bear that.

mod answer;
mod call;
mod fallback;
mod flags;
mod zygote;

use std::io::Write;
use std::process::ExitCode;

use call::Call;
use flags::Flags;

fn main() -> ExitCode {
    let started_ns = call::monotonic_ns();
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let flags = Flags::parse(&args);
    if flags.version {
        return print_version();
    }
    let call = Call::new(args, flags, started_ns);
    // Containerd reads the streams to their end before it asks for the exit code.
    match zygote::ask(&call) {
        Ok(answer) => answer.deliver(),
        Err(consumed) => fallback::run(&call, consumed),
    }
}

fn print_version() -> ExitCode {
    let text = format!(
        "containerd-shim-spin-v2:\n  Version: {}\n  Revision: {}\n",
        env!("CARGO_PKG_VERSION"),
        option_env!("SPINWHEEL_REVISION").unwrap_or("unknown")
    );
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
