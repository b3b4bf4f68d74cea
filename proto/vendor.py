"""Copies the .proto files we need out of the Go module cache, and records where each came from.

Run by hand when a pin moves (`just proto-vendor`); `generate.py` then works offline from the copies.
Law: a vendored file is byte for byte what its module holds; SOURCES names module, version, path and sha256.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path

HERE = Path(__file__).parent
API = "github.com/containerd/containerd/api@v1.12.0"
CGROUPS = "github.com/containerd/cgroups/v3@v3.1.3"
TTRPC = "github.com/containerd/ttrpc@v1.2.10"

# our name -> (Go module, path inside it). Names are flat because they become Python modules of shim.pb.
GO_FILES = {
    "shim": (API, "runtime/task/v2/shim.proto"),
    "bootstrap": (API, "runtime/bootstrap/v1/bootstrap.proto"),
    "task": (API, "types/task/task.proto"),
    "mount": (API, "types/mount.proto"),
    "descriptor": (API, "types/descriptor.proto"),
    "event": (API, "types/event.proto"),
    "fieldpath": (API, "types/fieldpath.proto"),
    "introspection": (API, "types/introspection.proto"),
    "oci": (API, "types/runc/options/oci.proto"),
    "runtimeoptions": (API, "types/runtimeoptions/v1/api.proto"),
    "task_events": (API, "events/task.proto"),
    "events": (API, "services/ttrpc/events/v1/events.proto"),
    "content": (API, "services/content/v1/content.proto"),
    "images": (API, "services/images/v1/images.proto"),
    "introspection_service": (API, "services/introspection/v1/introspection.proto"),
    "platform": (API, "types/platform.proto"),
    "leases": (API, "services/leases/v1/leases.proto"),
    "containers": (API, "services/containers/v1/containers.proto"),
    "cgroup1": (CGROUPS, "cgroup1/stats/metrics.proto"),
    "cgroup2": (CGROUPS, "cgroup2/stats/metrics.proto"),
    "request": (TTRPC, "request.proto"),
}


def module_dir(module: str) -> Path:
    """The unpacked folder of `module` (path@version), downloaded through the Go module proxy if need be."""
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "go.mod").write_text("module vendor\n")
        run = subprocess.run(
            ["go", "mod", "download", "-json", module], cwd=scratch, check=True, capture_output=True
        )
    return Path(json.loads(run.stdout)["Dir"])


def status_proto() -> Path:
    """google/rpc/status.proto, which ttrpc's own file imports, from the googleapis-common-protos wheel."""
    return Path(str(resources.files("google.rpc").joinpath("status.proto")))


def main() -> int:
    """Vendor every file and rewrite SOURCES; returns the exit code."""
    rows = []
    sources = {name: (module, path, module_dir(module) / path) for name, (module, path) in GO_FILES.items()}
    sources["status"] = ("googleapis-common-protos==1.76.0", "google/rpc/status.proto", status_proto())
    for name, (module, path, file) in sorted(sources.items()):
        shutil.copyfile(file, HERE / f"{name}.proto")
        rows.append(f"{name}.proto\t{module}\t{path}\t{hashlib.sha256(file.read_bytes()).hexdigest()}")
    header = "# file\tmodule@version\tpath in the module\tsha256 (all files: Apache-2.0)\n"
    (HERE / "SOURCES").write_text(header + "\n".join(rows) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
