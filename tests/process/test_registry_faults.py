"""faults.md RG1: what a registry can do wrong ends in bounded time, in clear words, with no password lost."""

import io
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from shim.errors import ShimError
from shim.image.artifact import copy_verified, read_verified
from shim.image.manifest import Descriptor
from shim.manifest.pack import Blob, Package
from shim.registry.client import Repository
from shim.registry.credentials import Credentials
from shim.registry.hosts import Endpoint
from shim.registry.reference import Reference
from shim.registry.transport import Patience
from tests.apps import digest_of
from tests.harness.faulty import METADATA, PASSWORD, USER, Faulty, Handler, Host, expired

BLOB = bytes(range(256)) * 40
WANTED = Descriptor("x/y", digest_of(BLOB), len(BLOB))
PATIENCE = Patience(attempts=3, total=8.0, stall=0.3, slowest=4096, first_wait=0.01)
SERVED = {"none": 1, "429-once": 2, "reset-once": 2, "foreign-urls": 1}
REFUSED = {
    "429": "gave up after 3 tries.*429",
    "429-far": "asked to wait 9999 s; try again later",
    "500": "gave up after 3 tries.*500",
    "502": "gave up after 3 tries.*502",
    "503": "gave up after 3 tries.*503",
    "reset": "gave up after 3 tries",
    "truncated": "gave up after 3 tries",
    "slow": "gave up after 3 tries.*too slow",
    "wrong-digest": "its content has digest",
    "size+1": "wanted at most 10240 bytes, found more",
    "size-1": "its content has digest",
    "gzip": "found Content-Encoding gzip",
    "endless": "wanted at most 10240 bytes, found more",
    "metadata": "redirects to http://169.254.169.254",
    "file": "redirects to file:",
    "loop": "more than 5 redirects",
    "realm": "not of its domain",
}


@pytest.fixture
def thief() -> Iterator[Host]:
    """A host that takes whatever it is given, and gives the blob."""
    with Host(lambda handler: handler.give(200, BLOB)) as host:
        yield host


def repository(base: str, ca: Path | None = None) -> Repository:
    """The repository `a` at a URL, with a password that must not be seen elsewhere."""
    reference = Reference(base.partition("//")[2], "a", "1")
    return Repository(reference, [Endpoint(base, ca)], Credentials(USER, PASSWORD), PATIENCE)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fault", REFUSED)
def test_a_fault_ends_in_a_clear_error(fault: str, seed: int, thief: Host) -> None:
    """Within its time, in our own words, with nothing of the blob handed on and no password shown."""
    began, out = time.monotonic(), io.BytesIO()
    with (
        Host(Faulty(fault, seed, BLOB, thief.base).answer) as host,
        repository(host.base) as source,
        pytest.raises(ShimError, match=REFUSED[fault]),
    ):
        copy_verified(source, WANTED, out, 1 << 20)
    assert time.monotonic() - began < PATIENCE.total
    assert out.getvalue() == b""
    assert [auth for _, auth in thief.seen if auth] == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fault", SERVED)
def test_what_passes_is_waited_for(fault: str, seed: int, thief: Host) -> None:
    """A fault that happens once costs one more request; URLs of foreign layers are never asked."""
    faulty = Faulty(fault, seed, BLOB, thief.base)
    with Host(faulty.answer) as host, repository(host.base) as source:
        assert read_verified(source, WANTED, 1 << 20) == BLOB
    assert faulty.asked == SERVED[fault]
    assert thief.seen == []


@pytest.mark.parametrize("seed", range(5))
def test_a_redirect_to_another_host_goes_without_the_password(seed: int, thief: Host) -> None:
    """Registries keep blobs elsewhere; that place gets no credentials, and is verified like any other."""
    with Host(Faulty("other-host", seed, BLOB, thief.base).answer) as host, repository(host.base) as source:
        assert read_verified(source, WANTED, 1 << 20) == BLOB
    assert thief.seen == [("/blob", "")]


@pytest.mark.parametrize("seed", range(5))
def test_a_manifest_must_be_what_its_headers_say(seed: int) -> None:
    """A digest header that lies is an error; a type that is none is refused when it is parsed."""
    with (
        Host(Faulty("digest-header", seed, BLOB).answer) as host,
        repository(host.base) as source,
        pytest.raises(ShimError, match="the registry names sha256"),
    ):
        source.target()
    with Host(Faulty("wrong-type", seed, BLOB).answer) as host, repository(host.base) as source:
        assert source.target().media_type == "text/html"


def test_an_upload_goes_nowhere_else() -> None:
    """A place for an upload that only this machine has is refused before a byte is sent."""
    blob = Blob("x/y", BLOB)
    package = Package((blob,), blob)

    def elsewhere(handler: Handler) -> None:
        handler.give(202, Location=METADATA) if handler.command == "POST" else handler.give(404)

    with (
        Host(elsewhere) as host,
        repository(host.base) as target,
        pytest.raises(ShimError, match="wants the upload at http://169.254.169.254"),
    ):
        target.push(package, print)


def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    """At once, without a request or a password."""
    with Host(Faulty("none", 0, BLOB).answer, tls=expired(tmp_path)) as host:
        with (
            repository(host.base, tmp_path / "ca.pem") as source,
            pytest.raises(ShimError, match="not to be trusted.*expired"),
        ):
            source.read(WANTED.digest, len(BLOB))
        assert host.seen == []
