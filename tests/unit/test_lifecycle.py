"""argv, stdin and stdout of the shim binary, without processes."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from hypothesis import given
from hypothesis import strategies as st

from shim import lifecycle
from shim.errors import InvalidArgument
from shim.options import Options, parse_bootstrap, parse_options
from shim.pb.bootstrap_pb2 import BootstrapParams
from shim.pb.oci_pb2 import Options as RuncOptions
from shim.pb.runtimeoptions_pb2 import Options as RuntimeOptions
from shim.pb.shim_pb2 import DeleteResponse


def wrapped(message: RuncOptions | RuntimeOptions) -> AnyMessage:
    """An Any with the bare type url that containerd writes."""
    return AnyMessage(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


@pytest.mark.parametrize(
    "argv",
    [
        ["-namespace", "ns", "-id", "a", "-debug", "start"],
        ["--namespace=ns", "--id=a", "-debug=true", "start"],
        ["-namespace", "ns", "-future=1", "-id", "a", "-debug", "start"],
    ],
)
def test_go_flags_in_every_spelling(argv: list[str]) -> None:
    """One dash or two, joined or apart, unknown ones let pass."""
    flags, action = lifecycle.parse_argv(argv)
    assert (flags["namespace"], flags["id"], flags["debug"], action) == ("ns", "a", "true", "start")


@given(st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 2**62))
def test_the_handmade_delete_response_is_protobuf(pid: int, status: int, at: int) -> None:
    """The bytes decode to the fields they were made of."""
    answer = DeleteResponse.FromString(lifecycle.delete_response(pid, status, at))
    found = (answer.pid, answer.exit_status, answer.exited_at.seconds * 10**9 + answer.exited_at.nanos)
    assert found == (pid, status, at)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a..b", "-a", "a" * 77, "a\n"])
def test_bad_ids_are_refused(name: str) -> None:
    """An id that could be a path or is none at all never gets further."""
    with pytest.raises(InvalidArgument, match="-id: wanted"):
        lifecycle.identifier(name, "-id")


def test_missing_id_is_an_error_on_stderr() -> None:
    """Exit code 1, text for a person, nothing on stdout (wire.md 6, item 3)."""
    call = lifecycle.Call({"namespace": "default"}, "start", "/", {})
    outcome = lifecycle.run(call)
    assert (outcome.code, outcome.stdout) == (1, b"")
    assert b"-id" in outcome.stderr


def test_stdin_as_any() -> None:
    """Containerd up to 2.2 writes the options themselves."""
    options = wrapped(RuncOptions(binary_name="crun"))
    assert parse_bootstrap(options.SerializeToString(), "a", "ns").options == options


def test_stdin_as_bootstrap_params() -> None:
    """Containerd 2.3 wraps them; the options are found by type, not by place."""
    params = BootstrapParams(instance_id="a", namespace="ns", containerd_ttrpc_address="/t", socket_dir="/s")
    params.extensions.add().value.CopyFrom(AnyMessage(type_url="other"))
    params.extensions.add().value.CopyFrom(wrapped(RuntimeOptions(config_path="/x")))
    found = parse_bootstrap(params.SerializeToString(), "a", "ns")
    assert (found.ttrpc_address, found.socket_dir) == ("/t", "/s")
    assert found.options.type_url == "runtimeoptions.v1.Options"


def test_bootstrap_params_of_another_container_are_not_ours() -> None:
    """Only matching id and namespace make it BootstrapParams (wire.md 2.4)."""
    params = BootstrapParams(instance_id="b", namespace="ns", socket_dir="/s")
    assert parse_bootstrap(params.SerializeToString(), "a", "ns").socket_dir == ""


def test_empty_stdin_has_no_options() -> None:
    """No options are not an error."""
    assert parse_options(parse_bootstrap(b"", "a", "ns").options) == Options()


def test_garbage_on_stdin_is_refused() -> None:
    """Neither form: a clear error."""
    with pytest.raises(InvalidArgument, match="stdin of start"):
        parse_bootstrap(b"\xff\xff\xff", "a", "ns")


@pytest.mark.parametrize(
    "body",
    [b'BinaryName = "crun"\nSystemdCgroup = true\nFoo = 1', b"binary_name='crun'\nsystemd_cgroup=true"],
)
def test_toml_in_both_spellings(body: bytes) -> None:
    """People copy runc's tables and runwasi's."""
    found = parse_options(wrapped(RuntimeOptions(config_body=body)))
    assert found == Options(binary_name="crun", systemd_cgroup=True)


def test_toml_file(tmp_path: Path) -> None:
    """`ctr run --runtime-config-path` names a file."""
    file = tmp_path / "o.toml"
    file.write_text('Root = "/r"')
    assert parse_options(wrapped(RuntimeOptions(config_path=str(file)))) == Options(root="/r")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (RuntimeOptions(config_body=b"= 1"), "not TOML"),
        (RuntimeOptions(config_path="/no/such"), "cannot read /no/such"),
        (RuntimeOptions(config_body=b"SystemdCgroup = 'yes'"), "wanted bool, found 'yes'"),
    ],
)
def test_bad_options_are_refused(options: RuntimeOptions, words: str) -> None:
    """One error that names the key or the file."""
    with pytest.raises(InvalidArgument, match=words):
        parse_options(wrapped(options))


def test_unknown_option_types_are_ignored() -> None:
    """1.6's --no-pivot sends one of its own (wire.md 4.3)."""
    assert (
        parse_options(AnyMessage(type_url="containerd.linux.runc.CreateOptions", value=b"\x08\x01"))
        == Options()
    )


def test_socket_path_is_containerds_convention() -> None:
    """`ctr shim` computes the same name."""
    path = lifecycle.socket_path(
        Path("/run/containerd/s"), "/run/containerd/containerd.sock", "default", "t1"
    )
    assert path.name == "df6a0c5cd2e9a1a16d9a3f2447365d9fc6021bc1d3d9a4caa2f5b2c4f773758f"


def test_claim_joins_a_live_server_and_replaces_a_dead_one(tmp_path: Path) -> None:
    """EADDRINUSE means: ask who is there (wire.md 2.8)."""
    path = tmp_path / "s" / "x"
    first = lifecycle.claim(path)
    assert first is not None
    assert lifecycle.claim(path) is None
    first.close()
    second = lifecycle.claim(path)
    assert isinstance(second, socket.socket)
    assert path.stat().st_mode & 0o777 == 0o600
    second.close()


def test_start_path_imports_nothing_heavy() -> None:
    """`delete` comes 200 at a time: asyncio and protobuf stay out of its way (style.md 14)."""
    heavy = ("asyncio", "google.protobuf", "grpc")
    code = f"import sys, shim.zygote; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
