"""Runtime options from their three spellings (wire.md section 4): runc's message, CRI's TOML, a TOML file.

Laws: an unknown message type is ignored and logged (1.6's `ctr run --no-pivot` sends one); a TOML that does
not parse, or a value of the wrong type, is refused by name; unknown keys are logged.
"""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from shim.errors import InvalidArgument
from shim.pb.bootstrap_pb2 import BootstrapParams
from shim.pb.oci_pb2 import Options as RuncOptions
from shim.pb.runtimeoptions_pb2 import Options as RuntimeOptions

log = logging.getLogger(__name__)
M = TypeVar("M", BootstrapParams, AnyMessage)

KEYS: dict[str, tuple[str, type]] = {
    "systemdcgroup": ("systemd_cgroup", bool),
    "systemd_cgroup": ("systemd_cgroup", bool),
    "binaryname": ("binary_name", str),
    "binary_name": ("binary_name", str),
    "root": ("root", str),
    "nopivotroot": ("no_pivot_root", bool),
    "no_pivot_root": ("no_pivot_root", bool),
    "nonewkeyring": ("no_new_keyring", bool),
    "no_new_keyring": ("no_new_keyring", bool),
    "shimcgroup": ("shim_cgroup", str),
    "shim_cgroup": ("shim_cgroup", str),
    "nativecontainers": ("native_containers", bool),
    "native_containers": ("native_containers", bool),
}


@dataclass(frozen=True, slots=True)
class Options:
    """What an operator may set for a runtime handler; `systemd_cgroup` None means: see the spec."""

    binary_name: str = ""
    root: str = ""
    systemd_cgroup: bool | None = None
    shim_cgroup: str = ""
    native_containers: bool = True
    no_pivot_root: bool = False
    no_new_keyring: bool = False


def parse_options(options: AnyMessage) -> Options:
    """The options in an Any from stdin or Create; raises InvalidArgument."""
    kind = options.type_url.rpartition("/")[2]
    try:
        if kind == "containerd.runc.v1.Options":
            return _from_runc(RuncOptions.FromString(options.value))
        if kind == "runtimeoptions.v1.Options":
            return _from_toml(RuntimeOptions.FromString(options.value))
    except DecodeError as error:
        message = f"runtime options: wanted a {kind}, found bytes that do not decode: {error}"
        raise InvalidArgument(message) from error
    if kind:
        log.warning("ignoring runtime options of unknown type %s", kind)
    return Options()


def _from_runc(message: RuncOptions) -> Options:
    systemd = message.systemd_cgroup or None  # proto3 does not tell false from unset
    return Options(
        message.binary_name,
        message.root,
        systemd,
        message.shim_cgroup,
        no_pivot_root=message.no_pivot_root,
        no_new_keyring=message.no_new_keyring,
    )


def _from_toml(message: RuntimeOptions) -> Options:
    body, source = message.config_body, "config_body"
    if not body and message.config_path:
        source = message.config_path
        try:
            body = Path(source).read_bytes()
        except OSError as error:
            text = f"runtime options: cannot read {source}: {error.strerror}"
            raise InvalidArgument(text) from error
    try:
        return from_table(tomllib.loads(body.decode()), source)
    except ValueError as error:
        text = f"runtime options: {source} is not TOML: {error}"
        raise InvalidArgument(text) from error


def from_table(table: Mapping[str, Any], source: str) -> Options:
    """The options in a TOML table, in either of the spellings people copy; raises InvalidArgument."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        name, kind = KEYS.get(key.lower(), ("", object))
        if not name:
            log.warning("ignoring unknown runtime option %s in %s", key, source)
        elif not isinstance(value, kind):
            message = f"runtime options: {key} in {source}: wanted {kind.__name__}, found {value!r}"
            raise InvalidArgument(message)
        else:
            found[name] = value
    return Options(**found)


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """What `start` got on stdin, whichever containerd wrote it (wire.md 2.4)."""

    options: AnyMessage
    ttrpc_address: str = ""
    grpc_address: str = ""
    socket_dir: str = ""


def parse_bootstrap(data: bytes, container_id: str, namespace: str) -> Bootstrap:
    """BootstrapParams when it names this container, else an Any; raises InvalidArgument on garbage.

    The two look alike on the wire: a BootstrapParams also parses as an Any whose type_url is the id.
    """
    params = _parsed(BootstrapParams, data)
    if params is not None and (params.instance_id, params.namespace) == (container_id, namespace):
        known = [one.value for one in params.extensions if one.value.type_url in OPTION_TYPES]
        return Bootstrap(
            options=known[0] if known else AnyMessage(),
            ttrpc_address=params.containerd_ttrpc_address,
            grpc_address=params.containerd_grpc_address,
            socket_dir=params.socket_dir,
        )
    options = _parsed(AnyMessage, data)
    if options is None:
        message = f"stdin of start: wanted runtime options or BootstrapParams, found {len(data)} other bytes"
        raise InvalidArgument(message)
    return Bootstrap(options=options)


OPTION_TYPES = ("containerd.runc.v1.Options", "runtimeoptions.v1.Options")


def _parsed(kind: type[M], data: bytes) -> M | None:
    try:
        return kind.FromString(data)
    except DecodeError:
        return None
