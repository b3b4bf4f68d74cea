/work/wt/guests/tests/guests/target/debug/deps/behaviour-cdbd5d60120f069f.d: behaviour/src/lib.rs

/work/wt/guests/tests/guests/target/debug/deps/libbehaviour-cdbd5d60120f069f.rlib: behaviour/src/lib.rs

/work/wt/guests/tests/guests/target/debug/deps/libbehaviour-cdbd5d60120f069f.rmeta: behaviour/src/lib.rs

behaviour/src/lib.rs:
