//! argv to what is to be done: pure, no argument is looked at twice.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::PathBuf;

use crate::engine::Target;
use crate::error::Error;
use crate::sandbox::Limits;

pub const USAGE: &str = "\
usage: spinwheel-host fingerprint [--target T]
       spinwheel-host compile [--target T] [--sandbox LIMITS] INPUT OUTPUT
       spinwheel-host serve (--plan-fd N | --plan PATH)
       spinwheel-host --version
targets: native (default), x86_64-linux, aarch64-linux
INPUT and OUTPUT may be -; in the sandbox they have to be
LIMITS: NAME=VALUE,... of cpu_seconds, memory_mib, output_mib, parent (a pid), cgroup (a folder, repeatable)";

#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Help,
    Version,
    Fingerprint { target: Target },
    Compile { target: Target, limits: Option<Limits>, input: PathBuf, output: PathBuf },
    Serve { plan: PlanSource },
}

#[derive(Debug, PartialEq, Eq)]
pub enum PlanSource {
    Descriptor(RawFd),
    Path(PathBuf),
}

/// Parses the arguments after the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Error> {
    let mut args = args.into_iter();
    let verb = args.next().ok_or_else(|| Error::Usage(format!("wanted a command; {HINT}")))?;
    let rest = Rest::split(args)?;
    match verb.to_str() {
        Some("fingerprint") => rest.fingerprint(),
        Some("compile") => rest.compile(),
        Some("serve") => rest.serve(),
        Some("--version" | "-V") => Ok(Command::Version),
        Some("--help" | "-h" | "help") => Ok(Command::Help),
        _ => Err(Error::Usage(format!("unknown command {}; {HINT}", verb.display()))),
    }
}

const HINT: &str = "`spinwheel-host --help` lists what there is";

/// What follows the verb: options by name, and the rest in order.
#[derive(Default)]
struct Rest {
    target: Option<String>,
    plan: Option<PathBuf>,
    plan_fd: Option<String>,
    sandbox: Option<Limits>,
    operands: Vec<PathBuf>,
}

impl Rest {
    fn split(mut args: impl Iterator<Item = OsString>) -> Result<Self, Error> {
        let mut rest = Self::default();
        while let Some(arg) = args.next() {
            let mut value = || {
                args.next().ok_or_else(|| Error::Usage(format!("{} wants a value", arg.display())))
            };
            match arg.to_str() {
                Some("--target") => rest.target = Some(text(value()?)?),
                Some("--sandbox") => rest.sandbox = Some(limits(&text(value()?)?)?),
                Some("--plan") => rest.plan = Some(value()?.into()),
                Some("--plan-fd") => rest.plan_fd = Some(text(value()?)?),
                Some(option) if option.starts_with("--") => {
                    return Err(Error::Usage(format!("unknown option {option}; {HINT}")));
                }
                _ => rest.operands.push(arg.into()),
            }
        }
        Ok(rest)
    }

    fn target(&self) -> Result<Target, Error> {
        self.target.as_deref().map_or(Ok(Target::Native), Target::parse)
    }

    fn fingerprint(self) -> Result<Command, Error> {
        let target = self.target()?;
        match self {
            Self { plan: None, plan_fd: None, sandbox: None, operands, .. }
                if operands.is_empty() =>
            {
                Ok(Command::Fingerprint { target })
            }
            _ => Err(Error::Usage(format!("fingerprint takes only --target; {HINT}"))),
        }
    }

    fn compile(self) -> Result<Command, Error> {
        let target = self.target()?;
        let shut_in = self.sandbox.is_some();
        match <[PathBuf; 2]>::try_from(self.operands) {
            Ok([input, output]) if self.plan.is_none() && self.plan_fd.is_none() => {
                if shut_in && [&input, &output].iter().any(|path| path.as_os_str() != "-") {
                    return Err(Error::Usage(
                        "in the sandbox, INPUT and OUTPUT have to be -".into(),
                    ));
                }
                Ok(Command::Compile { target, limits: self.sandbox, input, output })
            }
            _ => Err(Error::Usage(format!("compile wants INPUT and OUTPUT; {HINT}"))),
        }
    }

    fn serve(self) -> Result<Command, Error> {
        let plan = match (self.plan, self.plan_fd) {
            (Some(path), None) => PlanSource::Path(path),
            (None, Some(number)) => PlanSource::Descriptor(number.parse().map_err(|_| {
                Error::Usage(format!("--plan-fd wants a number, found {number:?}"))
            })?),
            _ => return Err(Error::Usage("serve wants either --plan-fd N or --plan PATH".into())),
        };
        if !self.operands.is_empty() || self.target.is_some() || self.sandbox.is_some() {
            return Err(Error::Usage(format!("serve takes only the plan; {HINT}")));
        }
        Ok(Command::Serve { plan })
    }
}

fn limits(text: &str) -> Result<Limits, Error> {
    let mut limits = Limits::default();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let wrong = || Error::Usage(format!("--sandbox: {pair:?} is no limit; {HINT}"));
        let (name, value) = pair.split_once('=').ok_or_else(wrong)?;
        let number = || value.parse::<u64>().map_err(|_| wrong());
        match name {
            "cpu_seconds" => limits.cpu_seconds = number()?,
            "memory_mib" => limits.memory_mib = number()?,
            "output_mib" => limits.output_mib = number()?,
            "parent" => limits.parent = value.parse().map_err(|_| wrong())?,
            "cgroup" => limits.cgroups.push(value.into()),
            _ => return Err(wrong()),
        }
    }
    Ok(limits)
}

fn text(value: OsString) -> Result<String, Error> {
    value.into_string().map_err(|v| Error::Usage(format!("{} is not UTF-8", v.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, Error> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn every_command_of_the_contract_is_understood() {
        assert_eq!(parsed("fingerprint"), Ok(Command::Fingerprint { target: Target::Native }));
        assert_eq!(
            parsed("compile --target aarch64-linux in /dev/fd/3"),
            Ok(Command::Compile {
                target: Target::Aarch64,
                limits: None,
                input: "in".into(),
                output: "/dev/fd/3".into()
            })
        );
        assert_eq!(
            parsed("serve --plan-fd 3"),
            Ok(Command::Serve { plan: PlanSource::Descriptor(3) })
        );
        assert_eq!(
            parsed("serve --plan p.json"),
            Ok(Command::Serve { plan: PlanSource::Path("p.json".into()) })
        );
        assert_eq!(parsed("--version"), Ok(Command::Version));
    }

    #[test]
    fn anything_else_is_a_usage_error() {
        for line in [
            "",
            "frobnicate",
            "compile in",
            "compile in out more",
            "compile --target",
            "compile --target sparc in out",
            "compile --plan p in out",
            "compile --sandbox cpu_seconds=1 in out",
            "compile --sandbox cpu=1 - -",
            "compile --sandbox memory_mib=lots - -",
            "serve --sandbox parent=1 --plan p",
            "fingerprint x",
            "serve",
            "serve --plan p --plan-fd 3",
            "serve --plan-fd three",
            "serve --plan p x",
            "serve --nonsense",
        ] {
            assert_eq!(parsed(line).unwrap_err().exit_code(), 2, "{line:?}");
        }
    }
}
