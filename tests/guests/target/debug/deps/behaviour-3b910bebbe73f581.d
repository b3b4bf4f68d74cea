/work/wt/guests/tests/guests/target/debug/deps/behaviour-3b910bebbe73f581.d: behaviour/src/lib.rs

/work/wt/guests/tests/guests/target/debug/deps/behaviour-3b910bebbe73f581: behaviour/src/lib.rs

behaviour/src/lib.rs:
