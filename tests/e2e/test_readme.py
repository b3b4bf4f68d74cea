"""The README's path from nothing to a pod: its own lines, typed as they stand, and what it says they print.

Laws: in a network namespace, because the README names ports; a line that the README would leave running in
a terminal (`spinwheel up`) gets one of its own, and a Ctrl-C at the end.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.demo import private_node
from tests.guests.python import environment_of
from tests.harness.node import Node
from tests.process.test_up import python_tools

README = Path(__file__).parents[2] / "README.md"
HEADING = "## Write an app"
SECONDS = 120.0
REGISTRY = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}}}
http: {{addr: "127.0.0.1:5000"}}
"""


@dataclass
class Step:
    """One line of the README, and what it says that the line prints."""

    line: str
    shown: list[str] = field(default_factory=list)

    @property
    def stays(self) -> bool:
        """True for what a person would leave running."""
        return self.line.startswith("spinwheel up")

    def holds(self, printed: str) -> bool:
        """True when every line that the README shows was printed; `…` stands for anything."""
        patterns = [".*".join(map(re.escape, line.split("…"))) for line in self.shown]
        return all(re.search(f"^{pattern}$", printed, re.MULTILINE) for pattern in patterns)


def steps(text: str) -> Iterator[Step]:
    """The steps of the first console block below the heading; a comment behind a line is none of it."""
    block = text.split(HEADING)[1].split("```console\n")[1].split("```", maxsplit=1)[0]
    step = None
    for line in block.splitlines():
        if line.startswith(("$ ", "# ")):
            if step:
                yield step
            step = Step(re.split(r"\s{2,}#", line[2:])[0].strip())
        elif step and line.strip():
            step.shown.append(line)
    if step:
        yield step


class Person:
    """Somebody at a terminal in a folder, who goes on where the last line left off."""

    def __init__(self, home: Path, path: str, containerd: Path) -> None:
        self._home = home
        self._where = home
        self._env = {
            "HOME": str(home),
            "PATH": path,
            "CONTAINERD_ADDRESS": str(containerd),
            "CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS": "1",
        }

    def types(self, step: Step) -> None:
        """Types a line and compares what it prints."""
        memo = self._home / ".where"
        script = f"{step.line}\ncode=$?; pwd >{memo}; exit $code"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self._where,
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"$ {step.line}\n{done.stdout}"
        assert step.holds(done.stdout), f"$ {step.line}\nwanted {step.shown}, found\n{done.stdout}"
        self._where = Path(memo.read_text().strip())

    def leaves_running(self, step: Step) -> "subprocess.Popen[bytes]":
        """Types a line that stays, and waits for what it is to print."""
        log = self._home / ".terminal"
        with log.open("wb") as out:
            argv = ["bash", "-c", f"exec {step.line}"]
            process = subprocess.Popen(argv, cwd=self._where, env=self._env, stdout=out, stderr=out)
        deadline = time.monotonic() + SECONDS
        while not step.holds(log.read_text()):
            assert process.poll() is None, f"$ {step.line}\n{log.read_text()}"
            assert time.monotonic() < deadline, f"$ {step.line}\nwanted {step.shown}\n{log.read_text()}"
            time.sleep(0.05)
        return process


def interrupt(process: "subprocess.Popen[bytes]") -> None:
    """Ctrl-C; it has to end well."""
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def with_pip(folder: Path) -> str:
    """A PATH on which `pip` and `componentize-py` are those of the guest's environment."""
    path = python_tools(folder)
    pip = folder / "bin" / "pip"
    entry = "import sys; from pip._internal.cli.main import main; sys.exit(main())"
    pip.write_text(f"#!/bin/sh\nexec {environment_of('hello-python')}/bin/python -c '{entry}' \"$@\"\n")
    pip.chmod(0o755)
    return path


def registry(folder: Path) -> "subprocess.Popen[bytes]":
    """Debian's registry where its own configuration puts it: on port 5000."""
    (folder / "registry.yml").write_text(REGISTRY.format(folder=folder))
    with (folder / "registry.log").open("wb") as log:
        return subprocess.Popen(["docker-registry", "serve", folder / "registry.yml"], stdout=log, stderr=log)


def session(node: Node, folder: Path) -> None:
    """Everything that the README tells, in its order."""
    tools = folder / "tools"
    tools.mkdir()
    path = f"{with_pip(tools)}:{node.containerd.bin_dir}:{node.bin}:/usr/sbin:/usr/bin:/sbin:/bin"
    person = Person(folder, path, node.containerd.address)
    with ExitStack() as ending:
        for step in steps(README.read_text()):
            if step.stays:
                ending.callback(interrupt, person.leaves_running(step))
            else:
                person.types(step)


def main() -> None:
    """The session, in a network of its own, and nothing left of it."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory(prefix="sw-readme-") as folder, private_node() as node:
        serving = registry(Path(folder))
        try:
            session(node, Path(folder))
        finally:
            for task in node.ctr("tasks", "ls", "-q", namespace="default").stdout.split():
                node.ctr("tasks", "rm", "--force", task, namespace="default")
            serving.terminate()
            serving.wait(10)


@pytest.mark.timeout(300)
def test_the_readmes_path_works_word_for_word(hugetlb: None) -> None:
    """From new to ctr run as printed there, on a real registry and a real containerd (O22, O23, H111)."""
    names = [step.line.split()[:2] for step in steps(README.read_text())]
    for verb in ("new", "build", "up", "push"):
        assert ["spinwheel", verb] in names
    assert ["ctr", "run"] in names
    words = ["unshare", "--net", sys.executable, "-m", "tests.e2e.test_readme"]
    done = subprocess.run(words, env=os.environ, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"


if __name__ == "__main__":
    main()
