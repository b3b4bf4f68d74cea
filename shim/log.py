"""The shim's log: logfmt lines on descriptor 2, which is the bundle's `log` FIFO (wire.md 2.7).

Laws: a reader that is slow or gone costs lines, never time; the number of lost lines is written with the
next one that gets through.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path

LEVELS = {"WARNING": "warn", "CRITICAL": "fatal"}


class FifoHandler(logging.Handler):
    """Writes whole lines to a descriptor without ever blocking."""

    def __init__(self, descriptor: int, fields: dict[str, str]) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._fields = "".join(f" {key}={value}" for key, value in fields.items())
        self.lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one line, or counts it as lost."""
        lost = f" lost={self.lost}" if self.lost else ""
        try:
            os.write(self._descriptor, f"{self._line(record)}{lost}\n".encode(errors="replace"))
        except OSError:
            self.lost += 1
        else:
            self.lost = 0

    def _line(self, record: logging.LogRecord) -> str:
        level = LEVELS.get(record.levelname, record.levelname.lower())
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        moment = f"{stamp}.{int(record.msecs):03d}Z"
        return f"time={moment} level={level} msg={json.dumps(text, ensure_ascii=False)}{self._fields}"


def open_fifo(bundle: Path) -> int:
    """A descriptor for the bundle's log, or for /dev/null where there is none.

    Opened for reading too, so that it neither waits for a reader nor fails when containerd restarts.
    """
    try:
        return os.open(bundle / "log", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)


def configure(descriptor: int, *, debug: bool, **fields: str) -> None:
    """Sends all logging of this process to `descriptor`."""
    root = logging.getLogger()
    root.handlers[:] = [FifoHandler(descriptor, fields)]
    root.setLevel(logging.DEBUG if debug else logging.INFO)
