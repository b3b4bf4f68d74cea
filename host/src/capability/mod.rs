//! What a guest can call: one interface family per file, none knows another.
//!
//! Law: state here has one of three lifetimes, and says which: the app's (behind `Arc`), the instance's
//! (inside `host::Host`), or the call's.

pub mod absent;
pub mod outbound;
pub mod stdio;
pub mod variables;
