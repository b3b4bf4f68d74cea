//! The one error of the program: what a caller can do about it decides the variant.
//!
//! Law: a message is one line and says what was wanted, what was found, and the next step.

use std::fmt;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The command line is wrong: fix the call.
    Usage(String),
    /// The wasm is not something we compile: fix the artifact.
    Wasm(String),
    /// A file or descriptor failed us: fix the machine.
    Io(String),
    /// The plan is wrong: fix whoever wrote it.
    Plan(String),
    /// The listen address cannot be had: free it or choose another.
    Listen(String),
    /// A compiled component cannot be loaded or linked: compile it again, or fix the artifact.
    Component(String),
    /// Our own mistake.
    Internal(String),
}

impl Error {
    /// The exit codes of `sysexits.h` for the commands that people and the compile sandbox call.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Wasm(_) => 65,
            Self::Io(_) => 74,
            Self::Internal(_) => 70,
            Self::Plan(_) | Self::Listen(_) | Self::Component(_) => 1,
        }
    }

    /// The word that the ready line carries: the control plane acts on it, people read the message.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Plan(_) | Self::Usage(_) => "plan",
            Self::Listen(_) => "listen",
            Self::Component(_) | Self::Wasm(_) => "component",
            Self::Io(_) | Self::Internal(_) => "internal",
        }
    }

    fn message(&self) -> &str {
        match self {
            Self::Usage(m)
            | Self::Wasm(m)
            | Self::Io(m)
            | Self::Plan(m)
            | Self::Listen(m)
            | Self::Component(m)
            | Self::Internal(m) => m,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Causes come from libraries and may hold newlines; whoever reads us reads one line.
        f.write_str(&one_line(self.message()))
    }
}

impl std::error::Error for Error {}

/// Folds any run of line breaks and the blanks around it into one separator.
#[must_use]
pub fn one_line(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_whatever_the_cause_printed() {
        let error = Error::Component("no such import\n\nCaused by:\n    0: deep".into());
        assert_eq!(error.to_string(), "no such import; Caused by:; 0: deep");
    }

    #[test]
    fn exit_codes_are_those_of_the_contract() {
        let codes: Vec<u8> = [
            Error::Usage(String::new()),
            Error::Wasm(String::new()),
            Error::Io(String::new()),
            Error::Internal(String::new()),
            Error::Listen(String::new()),
        ]
        .iter()
        .map(Error::exit_code)
        .collect();
        assert_eq!(codes, [2, 65, 74, 70, 1]);
    }
}
