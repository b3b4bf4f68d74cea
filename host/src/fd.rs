//! Descriptors that the control plane left open for us: taking them over, once each.
//!
//! Law: a descriptor is adopted at most once (`plan.rs` refuses a number that is named twice), never
//! one of the three standard ones, and is closed on exec from then on.
#![allow(
    unsafe_code,
    reason = "a number becomes an owned descriptor nowhere else; std offers no safe way"
)]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Takes over descriptor `raw`, which must be open.
pub fn adopt(raw: RawFd) -> io::Result<OwnedFd> {
    if raw <= 2 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("descriptor {raw} is a standard stream, not one that was handed over"),
        ));
    }
    // SAFETY: the borrow ends with the next statement, and the call that uses it only asks the
    // kernel, which answers EBADF for a number that is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
    rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC)?;
    // SAFETY: it is open (just checked), and by the law above nobody else in this process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    #[test]
    fn a_closed_number_and_a_standard_stream_are_refused() {
        assert!(adopt(1).is_err());
        assert!(adopt(987_654).is_err());
    }

    #[test]
    fn an_open_descriptor_is_taken_over_and_closed_on_exec() {
        let raw = std::fs::File::open("/dev/null").unwrap().into_raw_fd();
        let owned = adopt(raw).unwrap();
        let flags = rustix::io::fcntl_getfd(&owned).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }
}
