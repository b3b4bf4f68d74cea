//! `spinwheel-host`: argv, run, exit code.

use std::process::ExitCode;

use spinwheel_host::cli::{self, Command};
use spinwheel_host::error::Error;
use spinwheel_host::{compile, engine, sandbox, serve};

fn main() -> ExitCode {
    let started = spinwheel_host::control::Steps::start();
    match cli::parse(std::env::args_os().skip(1)) {
        Ok(Command::Serve { plan }) => serve::run(&plan, started),
        Ok(command) => report(answer(&command)),
        Err(error) => report(Err(error)),
    }
}

fn answer(command: &Command) -> Result<String, Error> {
    match command {
        Command::Fingerprint { target } => {
            Ok(engine::fingerprint(&engine::compiler(*target)?, *target))
        }
        Command::Compile { target, limits, input, output } => {
            if let Some(limits) = limits {
                sandbox::enter(limits)?;
            }
            compile::run(*target, input, output)
        }
        Command::Version => Ok(format!(
            "spinwheel-host {} (wasmtime {})",
            env!("CARGO_PKG_VERSION"),
            engine::WASMTIME_VERSION
        )),
        Command::Help | Command::Serve { .. } => Ok(cli::USAGE.into()),
    }
}

fn report(result: Result<String, Error>) -> ExitCode {
    match result {
        Ok(line) => {
            if !line.is_empty() {
                println!("{line}");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}
