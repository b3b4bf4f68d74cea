"""References: what is one, what is a folder, and what never becomes part of a URL."""

import pytest

from shim.errors import InvalidArgument
from shim.registry.reference import names_registry, parse_reference


@pytest.mark.parametrize(
    ("text", "is_reference"),
    [
        *(
            (word, True)
            for word in ("ghcr.io/me/app", "ghcr.io/me/app:1", "localhost/app", "localhost:5000/a:1")
        ),
        *((word, True) for word in ("app:1", "me/app:latest", f"app@sha256:{'0' * 64}")),
        *(
            (word, False)
            for word in ("app", "me/app", ".", "./app", "../app", "/srv/app", "app/", "spin.toml", "")
        ),
    ],
)
def test_a_reference_has_a_registry_or_a_tag(text: str, is_reference: bool) -> None:  # noqa: FBT001  # a table
    """As Spin tells them apart: another registry than the implied one, or an explicit tag (O32)."""
    assert names_registry(text) is is_reference


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "/",
            ":",
            "@",
            "a@",
            "a:",
            "A/b",
            "a b",
            "a/../b",
            "../a",
            "a//b",
            "a/b/",
            "http://a/b",
            "a/b?c",
            "a#b",
        ),
        *("a/b:c/d", "a.b/c@sha256:1", "a.b/c@md5:0", "a.b:99999x/c", "user:pw@a.b/c", "a/b:ä", "a/%2e%2e/b"),
        *("x" * 600, "a\n/b", "a.b/c:" + "t" * 129, "-a/b", "a/-b", "a/b_", "[::1/b"),
    ],
)
def test_what_is_no_reference(text: str) -> None:
    """Nothing in one can be a step of a path, a query or another host (faults.md A5)."""
    with pytest.raises(InvalidArgument, match="wanted"):
        parse_reference(text)
