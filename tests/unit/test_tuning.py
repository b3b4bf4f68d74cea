"""What an operator may turn: three places to write it, one reading, and one error."""

import json
from pathlib import Path

import pytest

from shim.errors import InvalidArgument
from shim.image.app import App, Component, StaticResponse, Trigger, parse_app
from shim.image.manifest import BadArtifact
from shim.image.retain import retained
from shim.manifest import tuning
from tests.apps import digest_of

GOLDEN = Path(__file__).parents[1] / "fixtures" / "plan" / "golden.json"


def from_env(name: str, text: str) -> tuning.Tuning:
    """What one variable of the container's environment leads to."""
    return tuning.choose(tuning.from_env({name: text}))


def test_an_annotation_wins_over_the_environment_over_the_runtime_config() -> None:
    """The three places have one order, and a knob that nobody turned keeps its default (H6-H9)."""
    found = tuning.choose(
        tuning.from_annotations({"spinwheel.dev/request-timeout": "1s", "other/request-timeout": "9s"}),
        tuning.from_env({"SPINWHEEL_REQUEST_TIMEOUT": "2s", "SPINWHEEL_MAX_QUEUE": "2", "PATH": "/bin"}),
        tuning.from_table({"request_timeout": "3s", "max_queue": "3", "max_concurrency": "3"}),
    )
    assert found.limits == tuning.Limits(request_timeout_ms=1000, max_queue=2, max_concurrency=3)
    assert found.http == tuning.Http()


def test_spins_own_names_are_heard() -> None:
    """Spin's variables set what they set in Spin (S86, H3, H4, H106)."""
    assert from_env("SPIN_MAX_INSTANCE_MEMORY", "1048576").limits.memory_bytes == 1 << 20
    assert from_env("SPIN_HTTP1_MAX_BUF_SIZE", "8192").http.http1_max_buf_bytes == 8192
    both = {"SPIN_TLS_CERT": "/tls/tls.crt", "SPIN_TLS_KEY": "/tls/tls.key"}
    assert tuning.choose(tuning.from_env(both)).document()["http"]["tls"] == {
        "cert": "/tls/tls.crt",
        "key": "/tls/tls.key",
    }


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("REQUEST_TIMEOUT", "500ms..2s", "request_timeout_ms", (500, 2000)),
        ("REQUEST_TIMEOUT", "1500us", "request_timeout_ms", 2),
        ("CPU_TIME", "1ns", "cpu_ms", 1),
        ("MAX_INSTANCE_REUSE_COUNT", "10..20", "max_instance_reuse_count", (10, 20)),
        ("MAX_INSTANCE_CONCURRENT_REUSE_COUNT", "4", "max_instance_concurrent_reuse_count", 4),
        ("IDLE_INSTANCE_TIMEOUT", "0s", "idle_instance_timeout_ms", 0),
    ],
)
def test_numbers_times_and_ranges(name: str, text: str, field: str, value: object) -> None:
    """A value or a half-open range of them, in Spin's units; part of a millisecond is one (H6-H9)."""
    assert getattr(from_env(f"SPINWHEEL_{name}", text).limits, field) == value


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("SPIN_MAX_INSTANCE_MEMORY", "lots", "a number of bytes"),
        ("SPIN_MAX_INSTANCE_MEMORY", "0", "a number of bytes"),
        ("SPIN_HTTP1_MAX_BUF_SIZE", "8191", "a number from 8192"),
        ("SPINWHEEL_REQUEST_TIMEOUT", "30", "a time such as 30s"),
        ("SPINWHEEL_REQUEST_TIMEOUT", "2s..1s", "a range whose end"),
        ("SPINWHEEL_MAX_CONCURRENCY", "0", "a number from 1"),
        ("SPINWHEEL_MAX_CONCURRENCY", "1" * 10, "a number from 1"),
        ("SPINWHEEL_HTTP2", "perhaps", "one of 1, true, 0, false"),
    ],
)
def test_a_value_that_is_none_is_refused_with_its_place(name: str, text: str, wanted: str) -> None:
    """Where Spin goes on with a default, we say what is wrong (S86)."""
    with pytest.raises(InvalidArgument, match=f"{name}: wanted {wanted}.*found .{text}"):
        from_env(name, text)


def test_one_of_two_tls_files_is_not_enough() -> None:
    """A certificate without its key is an error before anything starts (H3)."""
    with pytest.raises(InvalidArgument, match="both SPIN_TLS_CERT and SPIN_TLS_KEY"):
        from_env("SPIN_TLS_CERT", "/tls/tls.crt")


def test_the_plan_has_every_knob() -> None:
    """No knob is read and then left out of the plan."""
    golden = json.loads(GOLDEN.read_text())
    document = tuning.Tuning(http=tuning.Http(tls_cert="c", tls_key="k")).document()
    assert document.keys() == {"limits", "http"}
    assert document["limits"].keys() == golden["limits"].keys()
    assert document["http"].keys() == golden["http"].keys()
    assert len(tuning.KNOBS) == len(golden["limits"]) + len(golden["http"]) + 1  # tls is two


def chained(*hosts: str) -> App:
    """An app of two components, of which the first may call `hosts`, and a static route."""
    first = Component("first", digest_of(b""), outbound=hosts)
    triggers = (
        Trigger("1", "first", "/1"),
        Trigger("2", "second", "/2"),
        Trigger("3", None, "/3", StaticResponse()),
    )
    return App("a", "", "", (), triggers, (first, Component("second", digest_of(b""))))


def test_only_what_is_wanted_is_retained() -> None:
    """Names between commas, empty ones dropped; none at all is everything (S85)."""
    app = chained()
    assert retained(app, "") == retained(app, " , ") == app
    kept = retained(app, "second,,")
    assert [component.id for component in kept.components] == ["second"]
    assert [trigger.id for trigger in kept.triggers] == ["2", "3"]


@pytest.mark.parametrize("host", ["http://second.spin.internal", "http://*.spin.internal:80/"])
def test_what_is_retained_may_not_call_what_is_not(host: str) -> None:
    """An unknown id, a callee that is left out, and a wildcard over callees are refused (S85)."""
    with pytest.raises(BadArtifact, match="COMPONENTS_TO_RETAIN names .third.; the app has first, second"):
        retained(chained(), "third")
    with pytest.raises(BadArtifact, match=r"component first may call ..*spin.internal."):
        retained(chained(host), "first")
    assert len(retained(chained("http://second.spin.internal"), "first,second").components) == 2


def locked(config: dict[str, object]) -> bytes:
    """A locked app with one trigger."""
    component = {"id": "c", "source": {"content_type": "application/wasm", "digest": digest_of(b"")}}
    trigger = {"id": "t", "trigger_type": "http", "trigger_config": {"route": "/", **config}}
    document = {"spin_lock_version": 1, "triggers": [trigger], "components": [component]}
    return json.dumps(document).encode()


def test_a_static_response_needs_no_component() -> None:
    """Status, headers and body come from the trigger; the status is 200 where it has none (H17)."""
    static = {"status_code": 301, "headers": {"location": "/new"}, "body": "moved"}
    (trigger,) = parse_app(locked({"static_response": static})).triggers
    assert trigger.static == StaticResponse(301, (("location", "/new"),), "moved")
    (trigger,) = parse_app(locked({"static_response": {}})).triggers
    assert trigger.static == StaticResponse()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "exactly one of component and static_response"),
        ({"component": "c", "static_response": {}}, "exactly one of component and static_response"),
        ({"component": "c", "rout": "/"}, "unknown field .rout.; wanted component, executor, route"),
        ({"static_response": {"status": 200}}, "unknown field .status."),
        ({"static_response": {"status_code": 99}}, "wanted a status_code from 200 to 599, found 99"),
        ({"component": "c", "route": {"private": False}}, "wanted a route"),
    ],
)
def test_a_trigger_is_read_strictly(config: dict[str, object], words: str) -> None:
    """Unknown fields, and more or less than one answer, are errors that name the trigger (H10, H13)."""
    with pytest.raises(BadArtifact, match=f"trigger t.*{words}"):
        parse_app(locked(config))
