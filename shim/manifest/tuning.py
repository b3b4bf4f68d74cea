"""What an operator may turn for one app, and the three places to write it (features.md H2-H9), with no I/O.

Knows: each knob's name, how it is read, and where it lands in the plan. Laws: an annotation of the pod wins
over the container's environment, which wins over the runtime configuration; what is not set keeps its
default; a value that cannot be read is an error that names the place, never a silent default; an empty
variable of the environment is one that is not set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from shim.errors import InvalidArgument
from shim.image.manifest import shown

ANNOTATION = "spinwheel.dev/"
TABLE = "spinwheel"  # of the runtime configuration
VARIABLE = "SPINWHEEL_"
SPAN = re.compile(r"(\w+)\.\.(\w+)")
DURATION = re.compile(r"(\d{1,12})(s|ms|us|ns)")
BYTES = re.compile(r"(\d{1,15})(Ki|Mi|Gi)?")
PER_MS = {"s": 1 / 1000, "ms": 1, "us": 1000, "ns": 1_000_000}
UNITS = {None: 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
FLAGS = {"1": True, "true": True, "0": False, "false": False}

Span = int | tuple[int, int]  # one number, or the half-open range that it is drawn from


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that the host enforces; None is the host's own choice, durations in milliseconds."""

    memory_bytes: int | None = None
    cpu_ms: int | None = None  # as long as the request may take
    request_timeout_ms: Span = 30_000
    max_concurrency: int = 1_000
    max_queue: int = 128
    queue_timeout_ms: int = 1_000
    max_instance_reuse_count: Span | None = None
    max_instance_concurrent_reuse_count: Span | None = None
    idle_instance_timeout_ms: Span = 1_000
    shutdown_grace_ms: int = 25_000  # below kubelet's default of 30 s


@dataclass(frozen=True, slots=True)
class Http:
    """How clients reach the app; the TLS files are paths that the host can open, both or none."""

    find_free_port: bool = False
    max_connections: int = 1024
    http1_max_buf_bytes: int = 64 << 10
    http2: bool = True
    tls_cert: str | None = None
    tls_key: str | None = None


@dataclass(frozen=True, slots=True)
class Tuning:
    """Everything that was chosen."""

    limits: Limits = Limits()
    http: Http = Http()

    def document(self) -> dict[str, Any]:
        """The plan's sections `limits` and `http`."""
        http = {field.name: getattr(self.http, field.name) for field in fields(Http)}
        cert, key = http.pop("tls_cert"), http.pop("tls_key")
        http["tls"] = None if cert is None else {"cert": cert, "key": key}
        return {
            "limits": {field.name: getattr(self.limits, field.name) for field in fields(Limits)},
            "http": http,
        }


class _Unreadable(Exception):
    """A value is none of what it should be; the message says what that is."""


@dataclass(frozen=True, slots=True)
class Knob:
    """One thing to turn: where it lands, how its text is read, and Spin's own variable for it, if any."""

    field: str
    read: Callable[[str], Any]
    variable: str = ""


def _number(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not text.isascii() or not text.isdecimal() or len(text) > 9 or int(text) < least:  # fits 32 bits
            message = f"a number from {least}"
            raise _Unreadable(message)
        return int(text)

    return read


def _milliseconds(text: str) -> int:
    match = DURATION.fullmatch(text)
    if not match:
        message = "a time such as 30s, 500ms, 10us or 10ns"
        raise _Unreadable(message)
    return -int(-int(match[1]) // PER_MS[match[2]])  # the host counts milliseconds; part of one is one


def _bytes(text: str) -> int:
    match = BYTES.fullmatch(text)
    if not match or not int(match[1]):
        message = "a number of bytes such as 134217728 or 128Mi"
        raise _Unreadable(message)
    return int(match[1]) * UNITS[match[2]]


def _flag(text: str) -> bool:
    if text not in FLAGS:
        message = f"one of {', '.join(FLAGS)}"
        raise _Unreadable(message)
    return FLAGS[text]


def _span(read: Callable[[str], int]) -> Callable[[str], Span]:
    def either(text: str) -> Span:
        match = SPAN.fullmatch(text)
        if not match:
            return read(text)
        begin, end = read(match[1]), read(match[2])
        if begin >= end:
            message = "a range whose end is above its begin"
            raise _Unreadable(message)
        return begin, end

    return either


KNOBS: Mapping[str, Knob] = {
    "max_instance_memory": Knob("memory_bytes", _bytes, "SPIN_MAX_INSTANCE_MEMORY"),
    "cpu_time": Knob("cpu_ms", _milliseconds),
    "request_timeout": Knob("request_timeout_ms", _span(_milliseconds)),
    "max_concurrency": Knob("max_concurrency", _number(1)),
    "max_queue": Knob("max_queue", _number(0)),
    "queue_timeout": Knob("queue_timeout_ms", _milliseconds),
    "max_instance_reuse_count": Knob("max_instance_reuse_count", _span(_number(1))),
    "max_instance_concurrent_reuse_count": Knob("max_instance_concurrent_reuse_count", _span(_number(1))),
    "idle_instance_timeout": Knob("idle_instance_timeout_ms", _span(_milliseconds)),
    "shutdown_grace": Knob("shutdown_grace_ms", _milliseconds),
    "find_free_port": Knob("find_free_port", _flag),
    "max_connections": Knob("max_connections", _number(1)),
    "http1_max_buf_size": Knob("http1_max_buf_bytes", _number(8192), "SPIN_HTTP1_MAX_BUF_SIZE"),
    "http2": Knob("http2", _flag),
    "tls_cert": Knob("tls_cert", str, "SPIN_TLS_CERT"),
    "tls_key": Knob("tls_key", str, "SPIN_TLS_KEY"),
}


Found = Mapping[str, tuple[str, str]]  # a knob's name: the place where it is set, and the text there


def from_annotations(notes: Mapping[str, str]) -> Found:
    """What a pod's annotations set, such as `spinwheel.dev/request-timeout`."""
    keys = {name: ANNOTATION + name.replace("_", "-") for name in KNOBS}
    return {name: (f"annotation {key}", notes[key]) for name, key in keys.items() if key in notes}


def from_env(env: Mapping[str, str]) -> Found:
    """What the environment sets: Spin's own variable where it has one, else SPINWHEEL_ and the name."""
    keys = {name: variable(name) for name in KNOBS}
    return {name: (key, env[key]) for name, key in keys.items() if env.get(key)}


def variable(name: str) -> str:
    """The variable of the environment that sets a knob: Spin's own where it has one."""
    return KNOBS[name].variable or VARIABLE + name.upper()


def from_table(table: Mapping[str, str]) -> Found:
    """What the runtime configuration sets."""
    return {name: (f"runtime configuration, {TABLE}.{name}", text) for name, text in table.items()}


def from_flags(flags: Mapping[str, str]) -> Found:
    """What a command line sets, by the knobs' names."""
    return {name: (f"--{name.replace('_', '-')}", text) for name, text in flags.items()}


def choose(*sources: Found) -> Tuning:
    """The knobs; an earlier source wins. Raises InvalidArgument with the place, what was wanted and found."""
    settings = {name: place for source in reversed(sources) for name, place in source.items()}
    found = {KNOBS[name].field: _read(KNOBS[name], *place) for name, place in settings.items()}
    limits = {field.name for field in fields(Limits)}
    tuning = Tuning(
        Limits(**{key: value for key, value in found.items() if key in limits}),
        Http(**{key: value for key, value in found.items() if key not in limits}),
    )
    if (tuning.http.tls_cert is None) != (tuning.http.tls_key is None):
        message = "TLS: wanted both SPIN_TLS_CERT and SPIN_TLS_KEY (or neither), found one; set the other"
        raise InvalidArgument(message)
    return tuning


def _read(knob: Knob, place: str, text: str) -> Any:  # noqa: ANN401  # each knob has a type of its own
    try:
        return knob.read(text)
    except _Unreadable as wanted:
        message = f"{place}: wanted {wanted}, found {shown(text)}; correct it"
        raise InvalidArgument(message) from wanted
