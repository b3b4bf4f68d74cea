"""A registry that misbehaves in one chosen way, with a second host that nobody should send a password to.

Knows: the distribution protocol's reading half. Must not know: our client. Laws: without a fault it serves
the artifact whole; it asks for a password first; what a host was shown is in `seen`.
"""

import http.server
import json
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.apps import digest_of
from tests.harness.registry import PASSWORD, USER, make_certificates

METADATA = "http://169.254.169.254/latest/meta-data"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass
class Host:
    """A server on a port of its own; `answer` is given each request's handler."""

    answer: Callable[["Handler"], None]
    tls: Path | None = None
    seen: list[tuple[str, str]] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Starts it."""
        handler = type("Bound", (Handler,), {"host": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.tls / "cert.pem", self.tls / "key.pem")
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops it."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def base(self) -> str:
        """Its URL."""
        return f"{'https' if self.tls else 'http'}://localhost:{self._server.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    """One request; every write may find the client gone, which is what faults do."""

    host: Host

    def do_GET(self) -> None:
        """Notes what was shown, and answers."""
        self.host.seen.append((self.path, self.headers.get("Authorization", "")))
        self.close_connection = True
        try:
            self.host.answer(self)
        except (OSError, ssl.SSLError):
            return

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base's own name
        """Tests print nothing."""

    def give(self, status: int, body: bytes = b"", size: int | None = None, **headers: str) -> None:
        """A whole answer, or one whose Content-Length lies."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if size is None else size))
        self.end_headers()
        self.wfile.write(body)


@dataclass
class Faulty:
    """The artifact, and the fault that its blobs (or its manifest) are served with."""

    fault: str
    seed: int
    blob: bytes
    thief: str = ""
    asked: int = 0

    @property
    def manifest(self) -> bytes:
        """The manifest of a one-blob artifact; with foreign URLs where that is the fault."""
        layer = {"mediaType": "x/y", "digest": digest_of(self.blob), "size": len(self.blob)}
        if self.fault == "foreign-urls":
            layer["urls"] = [f"{self.thief}/stolen"]
        return json.dumps({"schemaVersion": 2, "config": layer, "layers": [layer]}).encode()

    def answer(self, handler: Handler) -> None:
        """Answers one request."""
        if not handler.headers.get("Authorization"):
            realm = f'Bearer realm="{self.thief}/token",service="s"' if self.fault == "realm" else "Basic"
            handler.give(401, WWW_Authenticate=realm)
        elif "/manifests/" in handler.path:
            kind = "text/html" if self.fault == "wrong-type" else MANIFEST
            claimed = digest_of(b"lie" if self.fault == "digest-header" else self.manifest)
            handler.give(200, self.manifest, Content_Type=kind, Docker_Content_Digest=claimed)
        else:
            self.asked += 1
            self._blob(handler)

    def _blob(self, handler: Handler) -> None:
        cut = 1 + self.seed * 97 % (len(self.blob) - 2)
        statuses = {"429": 429, "429-far": 429, "500": 500, "502": 502, "503": 503}
        if self.fault in statuses:
            after = "9999" if self.fault == "429-far" else "soon"
            handler.give(statuses[self.fault], b"not now", Retry_After=after)
        elif self.fault in ("429-once", "reset-once") and self.asked == 1:
            self._once(handler, cut)
        elif self.fault == "wrong-digest":
            handler.give(200, self.blob[:cut] + b"\xff" + self.blob[cut + 1 :])
        elif self.fault in ("size+1", "size-1"):
            handler.give(200, self.blob + b"x" if self.fault == "size+1" else self.blob[:-1])
        elif self.fault in ("truncated", "reset"):
            handler.give(200, self.blob[:cut], size=len(self.blob))
        elif self.fault == "gzip":
            handler.give(200, self.blob, Content_Encoding="gzip")
        elif self.fault in ("slow", "endless"):
            self._drip(handler)
        else:
            self._elsewhere(handler)

    def _once(self, handler: Handler, cut: int) -> None:
        if self.fault == "429-once":
            handler.give(429, Retry_After="1")
        else:
            handler.give(200, self.blob[:cut], size=len(self.blob))

    def _drip(self, handler: Handler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x" if self.fault == "slow" else bytes(1 << 20))
            time.sleep(0.05 if self.fault == "slow" else 0)

    def _elsewhere(self, handler: Handler) -> None:
        targets = {
            "other-host": f"{self.thief}/blob",
            "metadata": METADATA,
            "loop": handler.path,
            "file": "file:///etc/passwd",
        }
        if self.fault in targets:
            handler.give(301, Location=targets[self.fault])
        else:
            handler.give(200, self.blob)


def expired(folder: Path) -> Path:
    """A folder with a CA and a certificate that ran out yesterday."""
    make_certificates(folder, days=-1)
    return folder


__all__ = ["PASSWORD", "USER", "Faulty", "Handler", "Host", "expired"]
