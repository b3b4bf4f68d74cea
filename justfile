# The verbs of this repository; CI runs the same ones through ./install.sh test.
# The environment is the one that ./install.sh makes: PATH=$venv/bin:$PATH just check

# everything that needs no container: format, lint, types, layers, generated code, Rust
check: lint layers proto-check proofs-check rust

# ruff and mypy
lint:
    ruff format --check .
    ruff check .
    mypy

# imports only go down
layers:
    lint-imports

# write shim/pb from proto/
proto:
    python proto/generate.py

# is shim/pb what proto/ says?
proto-check:
    python proto/generate.py --check

# take the .proto files out of their modules again, after a pin moved
proto-vendor:
    python proto/vendor.py
    python proto/generate.py

# rustfmt, clippy with warnings as errors, cargo's tests
rust:
    @if cargo fmt --version >/dev/null 2>&1; then cargo fmt --check; \
        else echo "left out: cargo fmt, which this machine's Rust does not have (Debian's rustc-web)"; fi
    @if cargo clippy --version >/dev/null 2>&1; then cargo clippy --release --all-targets --quiet -- -D warnings; \
        else echo "left out: cargo clippy, which this machine's Rust does not have (Debian's rustc-web)"; fi
    cargo test --release --quiet

# tests that need neither root nor containerd
unit:
    python -m pytest tests/unit

# all of pytest
test *words:
    python -m pytest {{words}}

# the ledger over more lives than CI has time for
cycles count="1000":
    SPINWHEEL_TRIALS={{count}} python -m pytest tests/e2e/test_cycles.py

# containerd restarted under so many running pods and their load (faults.md F3, small form)
fleet pods="100":
    SPINWHEEL_PODS={{pods}} python -m pytest -s tests/e2e/test_fleet.py

# the tests of containers on each containerd (v1, containerd, next) with each OCI runtime (crun, runc)
matrix *words:
    python -m tests.matrix {{words}}

# every parser of foreign bytes for so many seconds each, then as many random ttrpc conversations
fuzz seconds="300":
    for target in $(python -m tests.fuzz.targets); do \
        python -m tests.fuzz.run $target -max_total_time={{seconds}} -rss_limit_mb=1024 -timeout=10 || exit 1; done
    SPINWHEEL_FUZZ_SEQUENCES=$(({{seconds}} * 150)) python -m pytest --timeout=0 tests/fuzz/test_ttrpc_dialogue.py

# the tests of ids of the fault list, so often each: just fault F1 --n 20 [--keep]
fault *words:
    python -m tests.proofs.fault {{words}}

# write docs/compatibility.md and docs/reliability.md from the tests and their results
proofs *results:
    python -m tests.proofs.compatibility
    python -m tests.proofs.reliability {{results}}

# is docs/compatibility.md what the tests say?
proofs-check:
    python -m tests.proofs.compatibility --check

# faults of the cache at the numbers of faults.md: 1,000 flips, 10,000 races, every call x 4 errors
soak-cache:
    SPINWHEEL_SOAK=1 python -m pytest --timeout 3600 tests/process/test_cache_faults.py tests/process/test_compile.py tests/contract/test_stores.py

# every bar of the bench scenarios, or the named ones (B1 B3 ...); writes bench-results/
bench *words:
    python -m bench {{words}}

# three minutes; fails only on a ratio 1.5 times off its recorded value
bench-short:
    python -m bench --short
