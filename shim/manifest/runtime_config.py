"""The operator's runtime-config.toml, with Spin's names (features.md H71-H73, H78-H102), with no I/O.

Laws: nothing is skipped: keys that nobody reads are one error that lists them with their lines (H101), and a
provider that this host does not have is refused by its name; no other value of the file appears in an error,
for any may be a secret; paths are made absolute here, from the folder that holds the file.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from shim.manifest import tuning
from shim.manifest.document import BadManifest, Node, parse

Table = dict[str, Any]
STATE_DIR = ".spin"
DEFAULT = "default"  # the label of the store and the database that need no table (H84, H91)
DEFAULT_STORE, DEFAULT_DATABASE = "sqlite_key_value.db", "sqlite_db.db"
PLATFORM_ROOTS, WEBPKI_ROOTS = "ca_use_platform_roots", "ca_use_webpki_roots"


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """What the file says; each table as written, with defaults filled in and paths absolute.

    `stores` and `databases` always have the label `default`; a `path` of None is a database in memory.
    """

    file: str = ""  # where it came from; empty when there was none
    state_dir: str | None = None
    log_dir: str | None = None
    providers: tuple[Table, ...] = ()
    stores: Mapping[str, Table] = field(default_factory=dict)
    databases: Mapping[str, Table] = field(default_factory=dict)
    llm: Table | None = None
    networking: Table = field(default_factory=dict)
    client_tls: tuple[Table, ...] = ()
    outbound: Mapping[str, Table] = field(default_factory=dict)
    tuning: Mapping[str, str] = field(default_factory=dict)  # by the knob's name, as tuning.py reads them


@dataclass(frozen=True, slots=True)
class Key:
    """How one key is read; `default` stands in for an absent one that is not needed."""

    read: Callable[[Node, str], Any]
    need: bool = False
    default: Any = None


def _text(node: Node, _: str) -> str:
    return node.text()


def _flag(node: Node, _: str) -> bool:
    return node.flag()


def _texts(node: Node, _: str) -> list[str]:
    found = list(node.texts())
    if not found:
        message = "a list with entries"
        raise node.fault(message)
    return found


def _pairs(node: Node, _: str) -> dict[str, str]:
    return node.pairs()


def _count(node: Node, _: str) -> int:
    if not isinstance(node.value, int) or isinstance(node.value, bool) or node.value < 1:
        message = "a number above 0"
        raise node.fault(message)
    return node.value


def _scalar(node: Node) -> str:
    """A text, or a number or flag as the text that is written for it elsewhere."""
    return str(node.value).lower() if isinstance(node.value, int) else node.text()


def _path(node: Node, folder: str) -> str:
    return posixpath.normpath(posixpath.join(folder, node.text()))


def _any_texts(node: Node, _: str) -> list[str]:
    return list(node.texts())


STORES = {"spin": {"path": Key(_path)}, "redis": {"url": Key(_text, need=True)}}
DATABASES = {"spin": {"path": Key(_path), "allow_attach_file": Key(_flag, default=False)}}
PROVIDERS = {
    "static": {"values": Key(_pairs, need=True)},
    "env": {"prefix": Key(_text, default="SPIN_VARIABLE"), "dotenv_path": Key(_path)},
    "vault": {
        "url": Key(_text, need=True),
        "token": Key(_text, need=True),
        "mount": Key(_text, need=True),
        "prefix": Key(_text),
    },
    "files": {"path": Key(_path, need=True)},  # ours: a mounted Secret or ConfigMap, a file a variable
}
LLM = {
    "remote_http": {
        "url": Key(_text, need=True),
        "auth_token": Key(_text, need=True),
        "api_type": Key(_text, default="default"),
    }
}
NETWORKING = {
    "block_networks": Key(_any_texts, default=()),
    "max_socket_connections": Key(_count),
    "max_total_connections": Key(_count),
}
CLIENT_TLS = {
    "component_ids": Key(_texts, need=True),
    "hosts": Key(_texts, need=True),
    PLATFORM_ROOTS: Key(_flag),
    WEBPKI_ROOTS: Key(_flag),
    "ca_roots_file": Key(_path),
    "client_cert_file": Key(_path),
    "client_private_key_file": Key(_path),
}
CONNECTIONS = {"max_connections": Key(_count)}
OUTBOUND = {
    # A table without `connection_pooling` turns it off in Spin, against Spin's own documentation (H103).
    "outbound_http": {
        "connection_pooling": Key(_flag, default=True),
        "max_concurrent_requests": Key(_count),
        **CONNECTIONS,
    },
    "outbound_redis": CONNECTIONS,
    "outbound_pg": CONNECTIONS,
    "outbound_mysql": CONNECTIONS,
    "outbound_mqtt": {"max_payload_size_bytes": Key(_count), **CONNECTIONS},
}
KNOWN = (
    *("state_dir", "log_dir", "max_instance_memory", "variables_provider", "config_provider"),
    *("key_value_store", "sqlite_database", "llm_compute", "outbound_networking", "client_tls"),
    *OUTBOUND,
    tuning.TABLE,  # ours
)


def defaults(home: str) -> RuntimeConfig:
    """What holds without a file, for an app whose state is kept below the folder `home`."""
    return read("", "", home)


def read(text: str, file: str, home: str) -> RuntimeConfig:
    """The configuration in `text`, from the absolute path `file`, for an app whose folder is `home`.

    Raises BadManifest with file, line and key.
    """
    return _Reader(parse(text, file, secret=True), posixpath.dirname(file), home).read()


class _Reader:
    """One pass over the document, which notes every key that nobody asked for."""

    def __init__(self, root: Node, folder: str, home: str) -> None:
        self._root, self._folder, self._home = root, folder, home
        self._unread: list[Node] = []

    def read(self) -> RuntimeConfig:
        self._note_unread(self._root, KNOWN)
        state = self._folder_of("state_dir", posixpath.join(self._home, STATE_DIR))
        networking = self._root.get("outbound_networking")
        llm = self._root.get("llm_compute")
        config = RuntimeConfig(
            file=self._root.file,
            state_dir=state,
            log_dir=self._folder_of("log_dir", state and posixpath.join(state, "logs")),
            providers=self._providers(),
            stores=self._labels("key_value_store", STORES, state and posixpath.join(state, DEFAULT_STORE)),
            databases=self._labels(
                "sqlite_database", DATABASES, state and posixpath.join(state, DEFAULT_DATABASE)
            ),
            llm=None if llm is None else self._typed(llm, LLM),
            networking=self._table(networking, NETWORKING),
            client_tls=tuple(map(self._client_tls, self._tables("client_tls"))),
            outbound={name: self._table(self._root.get(name), keys) for name, keys in OUTBOUND.items()},
            tuning=self._tuning(),
        )
        self._refuse_unread()
        return config

    def _folder_of(self, key: str, default: str | None) -> str | None:
        """An empty text unsets a folder (H102)."""
        node = self._root.get(key)
        if node is None:
            return default
        return _path(node, self._folder) if node.text() else None

    def _tuning(self) -> dict[str, str]:
        """Our own table, and the one key of that kind that Spin has (H106)."""
        node, memory = self._root.get(tuning.TABLE), self._root.get("max_instance_memory")
        found = {} if memory is None else {"max_instance_memory": str(_count(memory, ""))}
        if node is None:
            return found
        self._note_unread(node, tuple(tuning.KNOBS))
        return found | {name: _scalar(child) for name, child in node.table().items()}

    def _tables(self, key: str) -> list[Node]:
        node = self._root.get(key)
        return [] if node is None else node.items()

    def _providers(self) -> tuple[Table, ...]:
        given = self._tables("variables_provider")
        old = self._tables("config_provider")
        if given and old:
            message = "all providers under the name variables_provider"
            raise old[0].fault(message)
        return tuple(self._typed(node, PROVIDERS) for node in given or old)

    def _labels(
        self, key: str, kinds: Mapping[str, Mapping[str, Key]], default: str | None
    ) -> dict[str, Table]:
        node = self._root.get(key)
        given = {} if node is None else node.table()
        found = {label: self._typed(table, kinds) for label, table in given.items()}
        found.setdefault(DEFAULT, {"type": "spin"} | self._absent(kinds["spin"]) | {"path": default})
        return found

    def _typed(self, node: Node, kinds: Mapping[str, Mapping[str, Key]]) -> Table:
        """A table whose `type` decides which keys it has."""
        kind = node.need("type", f"one of {', '.join(kinds)}")
        keys = kinds.get(kind.text())
        if keys is None:
            message = f"one of {', '.join(kinds)}"
            raise replace(kind, secret=False).fault(message)
        return {"type": kind.text()} | self._table(node, keys, "type")

    def _client_tls(self, node: Node) -> Table:
        """One certificate without its key is of no use, and roots have defaults of their own (H71)."""
        found = self._table(node, CLIENT_TLS)
        if (found["client_cert_file"] is None) != (found["client_private_key_file"] is None):
            message = "client_cert_file and client_private_key_file together, or neither"
            raise node.fault(message)
        chosen = [found[PLATFORM_ROOTS], found[WEBPKI_ROOTS]]
        if chosen == [None, None]:
            found[PLATFORM_ROOTS] = found["ca_roots_file"] is None
        return found | {name: bool(found[name]) for name in (PLATFORM_ROOTS, WEBPKI_ROOTS)}

    def _table(self, node: Node | None, keys: Mapping[str, Key], *more: str) -> Table:
        if node is None:
            return self._absent(keys)
        self._note_unread(node, (*keys, *more))
        found = self._absent(keys)
        for name, key in keys.items():
            value = node.need(name, "a value") if key.need else node.get(name)
            if value is not None:
                found[name] = key.read(value, self._folder)
        return found

    @staticmethod
    def _absent(keys: Mapping[str, Key]) -> Table:
        return {name: key.default for name, key in keys.items()}

    def _note_unread(self, node: Node, known: tuple[str, ...]) -> None:
        self._unread += [child for key, child in node.table().items() if key not in known]

    def _refuse_unread(self) -> None:
        if not self._unread:
            return
        places = ", ".join(f"{node.keys} (line {node.line})" for node in self._unread)
        message = f"{self._root.file}: keys that nothing reads: {places}; correct or remove them"
        raise BadManifest(message)
