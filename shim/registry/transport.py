"""HTTP with a registry: bounded in time, bytes and attempts, and careful with passwords (faults.md RG1).

Laws: bounded tries in bounded time, Retry-After obeyed within that; a connection that brings
nothing for a while, or too little a second, is a failed try; a redirect goes without credentials and only
where `challenge.may_follow` lets it; no body is larger than its reader asked for; bodies come unencoded.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urljoin

import urllib3
from urllib3.exceptions import HTTPError

from shim.errors import InvalidArgument, NotFound, Unavailable
from shim.image.manifest import parse_document
from shim.registry.challenge import Challenge, joined, may_follow, may_have_credentials, parse_challenge
from shim.registry.credentials import Credentials
from shim.registry.hosts import Endpoint

REDIRECTS = frozenset({301, 302, 303, 307, 308})
RETRIED = frozenset({408, 429, 500, 502, 503, 504})
MAX_REDIRECTS = 5
MAX_SMALL = 1 << 20
CHUNK = 64 << 10


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often to try; seconds."""

    attempts: int = 6
    total: float = 300.0
    stall: float = 5.0
    slowest: int = 1024
    first_wait: float = 0.5


@dataclass(frozen=True, slots=True)
class Answer:
    """A response whose whole body was read."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class TryAgain(Exception):
    """An attempt failed in a way that another may not; `wait` is what the registry asked for."""

    def __init__(self, why: str, wait: float | None = None) -> None:
        super().__init__(why)
        self.wait = wait


class Transport:
    """One endpoint of one registry, for one repository."""

    def __init__(self, endpoint: Endpoint, credentials: Credentials | None, patience: Patience) -> None:
        self.base = endpoint.base
        self._credentials = credentials
        self._patience = patience
        self._tokens: dict[str, str] = {}
        self._lock = threading.Lock()
        verify = {} if endpoint.verify else {"cert_reqs": "CERT_NONE", "assert_hostname": False}
        trust = {"ca_certs": str(endpoint.ca)} if endpoint.ca else {}
        timeout = urllib3.Timeout(connect=patience.stall, read=patience.stall)
        self._pool = urllib3.PoolManager(maxsize=8, timeout=timeout, retries=False, **verify, **trust)  # type: ignore[arg-type]  # each has its own type

    def close(self) -> None:
        """Ends the connections."""
        self._pool.clear()

    def ask(
        self, method: str, path: str, *, limit: int = MAX_SMALL, body: bytes | None = None, accept: str = ""
    ) -> Answer:
        """One request with all its retries; `path` is below the base, or a URL the registry gave.

        Raises NotFound for 404, InvalidArgument for what the registry refuses, Unavailable for the rest.
        """
        url = urljoin(f"{self.base}/", path)
        headers = {"Accept-Encoding": "identity", "User-Agent": "spinwheel"}
        if accept:
            headers["Accept"] = accept
        if body is not None:
            headers["Content-Type"] = accept or "application/octet-stream"
        deadline = time.monotonic() + self._patience.total
        for attempt in range(1, self._patience.attempts + 1):
            try:
                answer = self._authorized(method, url, headers, body, limit)
            except TryAgain as error:
                self._wait(error, attempt, deadline, f"{method} {url}")
                continue
            return self._checked(answer, f"{method} {url}")
        raise AssertionError  # _wait raises on the last attempt

    def _wait(self, error: TryAgain, attempt: int, deadline: float, what: str) -> None:
        backoff = self._patience.first_wait * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)  # noqa: S311  # jitter
        wait = backoff if error.wait is None else error.wait
        if attempt >= self._patience.attempts or time.monotonic() + wait > deadline:
            hint = f"; it asked to wait {error.wait:.0f} s" if error.wait else ""
            message = f"{what}: gave up after {attempt} tries: {error}{hint}; try again later"
            raise Unavailable(message) from error
        time.sleep(wait)

    def _checked(self, answer: Answer, what: str) -> Answer:
        if answer.status < 400:
            return answer
        detail = answer.body[:300].decode(errors="replace").strip()
        if answer.status == 404:
            message = f"{what}: the registry has no such thing ({detail})"
            raise NotFound(message)
        if answer.status in (401, 403):
            who = f"as {self._credentials.user}" if self._credentials else "without credentials"
            message = f"{what}: the registry refuses us {who} ({answer.status}); run `spinwheel login` first"
            raise InvalidArgument(message)
        message = f"{what}: the registry answered {answer.status}: {detail}"
        raise InvalidArgument(message)

    def _authorized(
        self, method: str, url: str, headers: dict[str, str], body: bytes | None, limit: int
    ) -> Answer:
        """The request with what authorization we have, and once more with what the registry asks for."""
        scope = f"{method} {url}"
        with self._lock:
            known = self._tokens.get(scope) or self._tokens.get(method) or ""
        ours = url.startswith(f"{self.base}/")
        first = {**headers, "Authorization": known} if known and ours else headers
        answer = self._once(method, url, first, body, limit)
        if answer.status != 401 or not ours:
            return answer
        token = self._token(parse_challenge(answer.headers.get("WWW-Authenticate", "")))
        if not token:
            return answer
        with self._lock:
            self._tokens[method] = token
        return self._once(method, url, {**headers, "Authorization": token}, body, limit)

    def _token(self, challenge: Challenge) -> str:
        if challenge.scheme == "basic":
            return self._credentials.basic if self._credentials else ""
        given = {"service": challenge.service, "scope": challenge.scope}
        query = urlencode({key: value for key, value in given.items() if value})
        url = f"{challenge.realm}{'&' if '?' in challenge.realm else '?'}{query}"
        headers = {"Accept-Encoding": "identity", "User-Agent": "spinwheel"}
        if self._credentials and may_have_credentials(self.base, challenge.realm):
            headers["Authorization"] = self._credentials.basic
        elif self._credentials:
            message = (
                f"{self.base} sends us for a token to {challenge.realm}, which is not of its domain; "
                "credentials are not sent there"
            )
            raise Unavailable(message)
        if not may_follow(self.base, challenge.realm):
            message = f"{self.base} sends us for a token to {challenge.realm}, where we do not go"
            raise Unavailable(message)
        answer = self._once("GET", url, headers, None, MAX_SMALL)
        if answer.status != 200:
            return ""
        fields = parse_document(answer.body, "token")
        return f"Bearer {fields.get('token') or fields.get('access_token') or ''}"

    def _once(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, limit: int
    ) -> Answer:
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._send(method, url, headers, body, limit)
            where = answer.headers.get("Location", "")
            if answer.status not in REDIRECTS or not where:
                return answer
            target = joined(url, where)
            if not may_follow(url, target):
                message = f"{method} {url}: it redirects to {target}, where we do not go"
                raise Unavailable(message)
            if not target.startswith(f"{self.base}/"):
                headers = {key: value for key, value in headers.items() if key != "Authorization"}
            url = target
        message = f"{method} {url}: more than {MAX_REDIRECTS} redirects"
        raise Unavailable(message)

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, limit: int
    ) -> Answer:
        try:
            response = self._pool.request(
                method, url, headers=dict(headers), body=body, redirect=False, preload_content=False
            )
            try:
                data = b"".join(self._pieces(response, limit, url))
            finally:
                response.close()
        except HTTPError as error:
            if "CERTIFICATE" in str(error).upper():
                message = (
                    f"{url}: its certificate is not to be trusted: {error}; see certs.d for a private CA"
                )
                raise Unavailable(message) from error
            raise TryAgain(str(error)) from error
        if response.status in RETRIED:
            text = data[:200].decode(errors="replace").strip()
            message = f"the registry answered {response.status}: {text}"
            raise TryAgain(message, _retry_after(response.headers))
        return Answer(response.status, response.headers, data)

    def _pieces(self, response: urllib3.BaseHTTPResponse, limit: int, url: str) -> Iterator[bytes]:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            message = f"{url}: wanted plain bytes, found Content-Encoding {encoding}"
            raise Unavailable(message)
        began, total = time.monotonic(), 0
        while piece := response.read1(CHUNK, decode_content=False):
            total += len(piece)
            yield piece
            if total > limit:
                response.close()
                return
            taken = time.monotonic() - began
            if taken > self._patience.stall and total / taken < self._patience.slowest:
                message = f"{total} bytes in {taken:.0f} s are too slow"
                raise TryAgain(message)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a registry asks for; a date is taken as no wish of its own."""
    text = headers.get("Retry-After", "")
    return float(text) if text.isdigit() and len(text) < 6 else None
