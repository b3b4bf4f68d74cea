"""A real registry (Debian's `docker-registry`, which is `distribution`), with a password and with TLS.

Knows: its configuration, how to wait for it. Must not know: our client. Laws: loopback and a port of the
kernel's choice only; everything is below the folder it was given; ended by pid.
"""

import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

USER, PASSWORD = "ada", "l0velace"
START_SECONDS = 10.0

CONFIG = """\
version: 0.1
log: {{level: error}}
storage:
  filesystem: {{rootdirectory: {folder}/data}}
  delete: {{enabled: true}}
http:
  addr: 127.0.0.1:{port}
{tls}{auth}"""
AUTH = """\
auth:
  htpasswd: {{realm: test, path: {folder}/htpasswd}}
"""
TLS = """\
  tls: {{certificate: {folder}/cert.pem, key: {folder}/key.pem}}
"""


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Registry:
    """A running registry, as a context manager."""

    folder: Path
    password: bool = False
    tls: bool = False
    port: int = 0

    @property
    def host(self) -> str:
        """As it stands in a reference."""
        return f"localhost:{self.port}"

    @property
    def ca(self) -> Path:
        """The certificate that signs the registry's."""
        return self.folder / "ca.pem"

    def __enter__(self) -> Self:
        """Starts it and waits until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        if self.password:
            words = ["htpasswd", "-Bbn", USER, PASSWORD]
            done = subprocess.run(words, capture_output=True, check=True)
            (self.folder / "htpasswd").write_bytes(done.stdout)
        if self.tls:
            make_certificates(self.folder)
        parts = {"tls": TLS if self.tls else "", "auth": AUTH if self.password else ""}
        text = CONFIG.format(
            folder=self.folder,
            port=self.port,
            **{name: part.format(folder=self.folder) for name, part in parts.items()},
        )
        (self.folder / "config.yml").write_text(text)
        with (self.folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", self.folder / "config.yml"], stdout=log, stderr=log
            )
        try:
            self._wait()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends it."""
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def _wait(self) -> None:
        scheme = "https" if self.tls else "http"
        trust = ssl.create_default_context(cafile=self.ca) if self.tls else None
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{scheme}://{self.host}/v2/", context=trust, timeout=1).close()  # noqa: S310  # loopback
            except urllib.error.HTTPError as error:
                error.close()
                return  # it asks for a password, so it is up
            except OSError:
                log = (self.folder / "log").read_text()
                assert time.monotonic() < deadline, log
                assert self._process.poll() is None, log
                time.sleep(0.05)
            else:
                return


def make_certificates(folder: Path, days: int = 2) -> None:
    """A CA and a certificate for `localhost` signed by it."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    commands = [
        ["req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test CA"],
        ["req", *key, "-keyout", "key.pem", "-out", "csr.pem", "-subj", "/CN=localhost"],
        [
            *("x509", "-req", "-in", "csr.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
            *("-out", "cert.pem", "-days", str(days), "-extfile", "san.txt"),
        ],
    ]
    (folder / "san.txt").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for words in commands:
        subprocess.run(["openssl", *words], cwd=folder, capture_output=True, check=True)
