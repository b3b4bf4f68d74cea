"""Coverage-guided fuzzing of one target: `python -m tests.fuzz.run TARGET [libFuzzer words]`.

Knows: atheris. Must not know: what a target parses. Laws: what is found is kept by libFuzzer as a file whose
name it prints (`-artifact_prefix=`); the seeds are in the corpus folder before the first run.
"""

import logging
import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["shim", "cache"]):
    from tests.fuzz.targets import TARGETS, allowed, seeds


def main(argv: list[str]) -> int:
    """Fuzzes until libFuzzer's own limits (`-runs=`, `-max_total_time=`); returns the exit code."""
    name, *words = argv
    with tempfile.TemporaryDirectory(prefix="sw-fuzz-") as corpus:
        for number, seed in enumerate(seeds(name)):
            (Path(corpus) / str(number)).write_bytes(seed)
        child = os.fork()  # libFuzzer ends its process and cleans nothing up
        if child == 0:
            fuzz(name, [*words, corpus])
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def fuzz(name: str, words: list[str]) -> None:
    """Gives this process to libFuzzer."""
    target = TARGETS[name]
    logging.disable()  # one line an input would be most of the work
    atheris.Setup(["fuzz", *words], lambda data: allowed(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
