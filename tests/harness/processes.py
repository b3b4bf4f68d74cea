"""Processes of this machine, by their pid."""

from pathlib import Path


def is_running(pid: int) -> bool:
    """False for a process that is gone, or dead and waiting for a slow init to reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
