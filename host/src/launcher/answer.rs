//! The zygote's answer: read in full or not at all, then delivered.

use std::io::{self, Read, Write};
use std::process::ExitCode;

/// An answer is an address or a few lines; more is not the zygote speaking.
const MAX_STREAM: u32 = 16 << 20;

#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    code: u32,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Answer {
    pub fn read(mut from: impl Read) -> io::Result<Self> {
        let code = read_u32(&mut from)?;
        let stdout = read_block(&mut from)?;
        let stderr = read_block(&mut from)?;
        Ok(Self { code, stdout, stderr })
    }

    pub fn deliver(self) -> ExitCode {
        // Containerd closed its end: the exit code is all that can still reach it.
        _ = io::stdout().write_all(&self.stdout).and_then(|()| io::stdout().flush());
        _ = io::stderr().write_all(&self.stderr);
        // Exit codes have eight bits; a larger one is still a failure.
        ExitCode::from(u8::try_from(self.code).unwrap_or(1))
    }
}

fn read_u32(mut from: impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

fn read_block(mut from: impl Read) -> io::Result<Vec<u8>> {
    let len = read_u32(&mut from)?;
    if len > MAX_STREAM {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer of absurd size"));
    }
    // Grows with what arrives, not with what was announced.
    let mut block = Vec::new();
    let got = from.by_ref().take(u64::from(len)).read_to_end(&mut block)?;
    if got < usize::try_from(len).unwrap_or(usize::MAX) {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(block)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(code: u32, stdout: &[u8], stderr: &[u8]) -> Vec<u8> {
        let mut bytes = code.to_be_bytes().to_vec();
        for stream in [stdout, stderr] {
            bytes.extend(u32::try_from(stream.len()).unwrap().to_be_bytes());
            bytes.extend(stream);
        }
        bytes
    }

    #[test]
    fn a_whole_answer_is_read() {
        let answer = Answer::read(&wire(3, b"out", b"")[..]).unwrap();
        assert_eq!(answer, Answer { code: 3, stdout: b"out".into(), stderr: vec![] });
    }

    #[test]
    fn no_part_of_an_answer_is_an_answer() {
        let whole = wire(0, b"unix:///run/x.sock", b"warning");
        for end in 0..whole.len() {
            assert!(Answer::read(&whole[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn an_absurd_size_is_refused_before_anything_is_read() {
        let mut bytes = 0_u32.to_be_bytes().to_vec();
        bytes.extend(u32::MAX.to_be_bytes());
        assert!(Answer::read(&bytes[..]).is_err());
    }
}
