"""Coverage-guided fuzzing of one target: `python -m tests.fuzz.run TARGET [libFuzzer words]`.

Knows: atheris. Must not know: what a target parses. Laws: what is found is kept by libFuzzer as a file whose
name it prints (`-artifact_prefix=`); the seeds are in the corpus folder before the first run.
"""

import logging
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["shim", "cache"]):
    from tests.fuzz.targets import TARGETS, allowed, seeds


def main(argv: list[str]) -> None:
    """Fuzzes until libFuzzer's own limits (`-runs=`, `-max_total_time=`); does not return."""
    name, *words = argv
    target = TARGETS[name]
    logging.disable()  # one line an input would be most of the work
    with tempfile.TemporaryDirectory(prefix="sw-fuzz-", ignore_cleanup_errors=True) as corpus:
        for number, seed in enumerate(seeds(name)):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup(["fuzz", *words, corpus], lambda data: allowed(target, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
