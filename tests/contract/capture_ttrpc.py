"""Captures the bytes that Go's ttrpc puts on the wire, as fixtures for the codec's tests.

Run by hand when containerd's pin moves: `python -m tests.contract.capture_ttrpc BIN_DIR`. Both directions:
what Go's server (the runc shim) answers, and what Go's client (`ctr shim`) asks.
"""

import json
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from shim.pb.request_pb2 import Request
from shim.pb.shim_pb2 import ConnectRequest, StateRequest
from shim.ttrpc.wire import HEADER, MAX_PAYLOAD, make_request
from tests.harness import goshim

OUT = Path(__file__).parents[1] / "fixtures" / "ttrpc" / "go.json"


def frame(stream: int, kind: int, flags: int, payload: bytes, length: int | None = None) -> bytes:
    """A frame written by hand, so that the fixtures do not depend on the codec under test."""
    return HEADER.pack(len(payload) if length is None else length, stream, kind, flags) + payload


def questions() -> dict[str, bytes]:
    """What is sent to Go's server, by name."""
    state = StateRequest(id="nobody").SerializeToString()

    def ask(service: str, method: str, payload: bytes) -> bytes:
        return make_request(service, method, payload, 0, None).SerializeToString()

    connect = ask(goshim.SERVICE, "Connect", ConnectRequest(id="nobody").SerializeToString())
    return {
        "connect": frame(1, 1, 0, connect),
        "state of nobody": frame(1, 1, 0, ask(goshim.SERVICE, "State", state)),
        "unknown method": frame(1, 1, 0, ask(goshim.SERVICE, "Nope", state)),
        "unknown service": frame(1, 1, 0, ask("no.such.Service", "State", state)),
        "even stream id": frame(2, 1, 0, connect),
        "data on a stream nobody opened": frame(1, 3, 0, b"x"),
        "request that does not decode": frame(1, 1, 0, b"\xff\xff\xff"),
        "payload that does not decode": frame(1, 1, 0, ask(goshim.SERVICE, "State", b"\xff\xff\xff")),
        "oversized": frame(1, 1, 0, b"\0" * (MAX_PAYLOAD + 1)),
    }


def asked(bin_dir: Path, question: bytes) -> dict[str, str | None]:
    """Question and answer in hex, from a shim of its own: some questions end Go's shim."""
    with tempfile.TemporaryDirectory() as scratch, goshim.running(bin_dir, Path(scratch)) as path:
        answer = answer_of(path, question).hex()
    return {"question": None if len(question) > 1 << 16 else question.hex(), "answer": answer}


def answer_of(path: Path, question: bytes) -> bytes:
    """One whole answer frame of the server at *path*; empty when it closes instead."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(5)
        peer.connect(str(path))
        try:
            peer.sendall(question)
            return whole_frame(peer)
        except (ConnectionError, TimeoutError):
            return b""


def whole_frame(peer: socket.socket) -> bytes:
    """Header and payload of the next frame."""
    header = peer.recv(HEADER.size, socket.MSG_WAITALL)
    if len(header) < HEADER.size:
        return b""
    return header + peer.recv(HEADER.unpack(header)[0], socket.MSG_WAITALL)


def asked_by_ctr(bin_dir: Path, folder: Path, *words: str) -> bytes:
    """The first frame that `ctr shim` sends, with what its clock put in set to a fixed value."""
    path = folder / "fake.sock"
    seen: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def record() -> None:
            peer, _ = listener.accept()
            seen.append(whole_frame(peer))
            peer.close()

        thread = threading.Thread(target=record)
        thread.start()
        argv = [str(bin_dir / "ctr"), "shim", "--id", "t1", "--shim-address", f"unix://{path}", *words]
        subprocess.run(argv, check=False, capture_output=True)
        thread.join()
    path.unlink()
    return seen[0]


def main(bin_dir: Path) -> None:
    """Write the fixtures."""
    answers = {name: asked(bin_dir, question) for name, question in questions().items()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        client = {
            "state": asked_by_ctr(bin_dir, folder, "state", "--task-id", "t1", "--api-version", "2").hex(),
            "shutdown": asked_by_ctr(bin_dir, folder, "shutdown").hex(),
            "delete": asked_by_ctr(bin_dir, folder, "delete").hex(),
        }
    version = subprocess.run(
        [bin_dir / "ctr", "--version"], capture_output=True, text=True, check=True
    ).stdout
    document = {"source": version.strip(), "server": answers, "client": client}
    OUT.write_text(json.dumps(document, indent=1) + "\n")
    for frame_hex in client.values():
        print(Request.FromString(bytes.fromhex(frame_hex)[HEADER.size :]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
