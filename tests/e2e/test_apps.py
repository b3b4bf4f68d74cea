"""What an app sees and does inside: headers, environment, variables, files, limits, draining."""

import concurrent.futures
import time
import urllib.request

import pytest

from tests.apps import App, Component
from tests.guests.build import guest_path
from tests.harness.node import Node
from tests.images import Shape

FILES = {"small.txt": b"small\n", "deep/er/large.txt": b"L" * 4096}


@pytest.fixture(params=["hello-p2", "hello-p3"])
def app(request: pytest.FixtureRequest) -> App:
    """A guest with everything that an app may have."""
    component = Component(
        guest_path(request.param).read_bytes(),
        env={"COLOUR": "blue"},
        files=FILES,
        config={"url": "https://{{ host }}/{{ token }}"},
    )
    return App([component], variables={"host": "example.org", "token": None})


def test_everything_a_component_sees(node: Node, app: App) -> None:
    """Its environment and nothing of the pod's, its variables, its files, Spin's headers."""
    image = node.add(app, "test.local/apps/full:1")
    node.run("full", image, env={"TOKEN": "s3cret", "POD_SECRET": "hidden"})
    environment = node.get("full", "/env").body
    assert "COLOUR=blue" in environment
    assert "hidden" not in environment
    assert "s3cret" not in environment
    assert node.get("full", "/var/url").body.strip() == "https://example.org/s3cret"
    assert "error" in node.get("full", "/var/nope").body.lower()
    node.remove("full")


@pytest.mark.parametrize("guest", ["hello-p2", "hello-p3"])
@pytest.mark.parametrize("shape", [Shape.SPIN, Shape.SPIN_ARCHIVE])
def test_static_files(node: Node, guest: str, shape: Shape) -> None:
    """Inline, as layers and from an archive, below one mount, read-only (O15, O46, O49)."""
    app = App([Component(guest_path(guest).read_bytes(), files=FILES)])
    node.run("files", node.add(app, f"test.local/apps/files-{shape.value.lower()}:1", shape=shape))
    for path, content in FILES.items():
        assert node.get("files", f"/file/{path}").body == content.decode()
    assert node.get("files", "/file/none").status == 404
    node.remove("files")


@pytest.mark.parametrize("shape", [Shape.APP_AS_CONFIG, Shape.WKG, Shape.INDEX])
def test_other_shapes_are_readable(node: Node, shape: Shape) -> None:
    """`ctr run` refuses B, C and H before it asks us (wire.md 5.3); our reader takes them all the same."""
    from shim.image.artifact import resolve  # noqa: PLC0415  # the code under test, without ctr in front
    from shim.image.containerd import Containerd  # noqa: PLC0415

    app = App([Component(guest_path("hello-p2").read_bytes())])
    image = node.add(app, f"test.local/apps/shape-{shape.value.lower()}:1", shape=shape)
    source = Containerd(str(node.containerd.address), node.namespace)
    artifact = resolve(source, source.target_of(image))
    source.close()
    assert artifact.app.triggers[0].route == "/..."
    assert artifact.app.components[0].source in artifact.code
    node.ctr("images", "rm", image)


def test_spin_headers(node: Node, p2: str) -> None:
    """The eight of H25, and none that the client made up."""
    node.run("headers", p2)
    request = urllib.request.Request(  # noqa: S310  # http to loopback
        node.url("headers") + "/headers?key=value", headers={"spin-evil": "x", "Host": "example.com"}
    )
    with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310  # the same
        seen = dict(line.split(": ", 1) for line in answer.read().decode().splitlines() if ": " in line)
    assert seen["spin-path-info"] == "/headers"
    assert seen["spin-full-url"] == "http://example.com/headers?key=value"
    assert (seen["spin-matched-route"], seen["spin-base-path"]) == ("/...", "/")
    assert seen["spin-client-addr"].startswith("127.0.0.1:")
    assert "spin-evil" not in seen
    node.remove("headers")


def test_output_goes_to_the_containers(node: Node, p2: str) -> None:
    """What a component prints is in the log, stdout and stderr alike."""
    node.run("prints", p2)
    node.get("prints", "/log")
    deadline = time.monotonic() + 3
    while node.log("prints").read_text().count("log") < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    text = node.log("prints").read_text()
    assert "stdout" in text
    assert "stderr" in text
    node.remove("prints")


@pytest.mark.parametrize("guest", ["hello-p2", "hello-p3"])
def test_a_trap_is_500_and_the_next_request_works(node: Node, guest: str) -> None:
    """One request's death is nobody else's."""
    node.run("trap", node.add_guest(guest))
    assert node.get("trap", "/trap").status == 500
    assert node.get("trap").status == 200
    node.remove("trap")


@pytest.mark.parametrize("guest", ["hello-p2", "hello-p3"])
def test_sigterm_drains(node: Node, guest: str) -> None:
    """20 requests in flight are all answered, then the task ends with 0."""
    node.run("drain", node.add_guest(guest))
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(node.get, "drain", "/sleep/1500") for _ in range(20)]
        time.sleep(0.7)
        node.ctr("tasks", "kill", "-s", "SIGTERM", "drain")
        assert [answer.result().status for answer in answers] == [200] * 20
    node.wait_status("drain", "STOPPED")
    assert node.ctr("tasks", "rm", "drain").returncode == 0
    node.ctr("containers", "rm", "drain")


def test_upload_is_echoed(node: Node, p2: str) -> None:
    """A body of 3 MiB passes both ways, byte for byte."""
    node.run("echo", p2)
    body = bytes(range(256)) * 12288
    request = urllib.request.Request(node.url("echo") + "/echo", data=body)  # noqa: S310  # http to loopback
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310  # the same
        assert answer.read() == body
    node.remove("echo")


def test_two_components_two_routes(node: Node) -> None:
    """Requests find their component; what no route matches is 404."""
    p2, p3 = (guest_path(name).read_bytes() for name in ("hello-p2", "hello-p3"))
    app = App([Component(p2, id="two", route="/headers"), Component(p3, id="three", route="/:what")])
    node.run("routes", node.add(app, "test.local/apps/routes:1"))
    assert node.get("routes", "/no/such/route").status == 404
    assert node.get("routes", "/.well-known/spin/health").status == 200
    exact, captured = (node.get("routes", "/headers").body, node.get("routes", "/env"))
    assert "spin-matched-route: /headers" in exact
    assert "spin-path-match" not in exact
    assert captured.status == 200, "what no exact route takes goes to the capture"
    node.remove("routes")
