"""Where containerd and what belongs to it lie on a node, distribution by distribution.

Knows: paths, as each distribution documents them, and how to tell which one a tree of files is. Must not
know: what is written where. Laws: pure (a `Tree` is asked, nothing is touched); the files of a bundled
Kubernetes (MicroK8s, RKE2, k3s) win over the name of the system below it, because its containerd is the one
that runs pods; what is not recognized is refused with the flags that name everything by hand.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Protocol

from shim.errors import FailedPrecondition

SYSTEM_CONFIG, SYSTEM_SOCKET = "/etc/containerd/config.toml", "/run/containerd/containerd.sock"
OS_RELEASE = ("/etc/os-release", "/usr/lib/os-release")
DEBIAN, RED_HAT = ("debian", "ubuntu"), ("rhel", "fedora", "centos")
RANCHER_SOCKET = "/run/k3s/containerd/containerd.sock"
TALOS_STEP = """\
apply this with `talosctl patch machineconfig`; Talos writes /etc itself, and restarts CRI:
apiVersion: v1alpha1
kind: CRICustomizationConfig
name: spinwheel
content: |
"""


class Tree(Protocol):
    """The node's files, by absolute path."""

    def exists(self, path: str) -> bool:
        """Whether there is anything at `path`."""

    def read(self, path: str) -> str | None:
        """The text of a file; None when there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One node's containerd.

    Args:
        name: The distribution, in words for people.
        config: What containerd reads.
        template: What `config` is made from whenever containerd starts; empty where it is not generated.
        is_go_template: Whether the template is one of Go's, which is no TOML before it is filled in.
        address: containerd's socket.
        services: systemd's units that run containerd; the node has one of them.
        programs: The folder of a bundled containerd's `ctr`, `containerd` and `runc`; empty: those on PATH.
        prefix: Where we install by default.
        bin_dir: A folder on containerd's PATH; empty where none can be written to.
        by_hand: Where only the system itself may write the configuration: what its operator does.

    """

    name: str
    config: str
    template: str = ""
    is_go_template: bool = False
    address: str = SYSTEM_SOCKET
    services: tuple[str, ...] = ("containerd.service",)
    programs: str = ""
    prefix: str = "/opt/spinwheel"
    bin_dir: str = "/usr/local/bin"
    by_hand: str = ""


def detect(tree: Tree) -> Layout:
    """The layout of a node; raises FailedPrecondition for one that is not known."""
    release = os_release(tree)
    for recognize in (_microk8s, _rancher, _talos, _kind, _system):
        layout = recognize(tree, release)
        if layout is not None:
            return layout
    found = release.get("PRETTY_NAME") or release.get("ID") or "no os-release"
    message = (
        f"wanted a distribution with a known containerd, found {found}; nothing is changed. Name its parts "
        "yourself: --config FILE --address SOCKET --service UNIT"
    )
    raise FailedPrecondition(message)


def named(config: str) -> Layout:
    """The layout of a node whose operator names the configuration file."""
    return Layout(name="named by flags", config=config)


def os_release(tree: Tree) -> dict[str, str]:
    """The keys of os-release; empty without such a file."""
    text = next((found for path in OS_RELEASE if (found := tree.read(path)) is not None), "")
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): _unquoted(value) for key, _, value in pairs}


def _unquoted(value: str) -> str:
    try:
        return " ".join(shlex.split(value))
    except ValueError:
        return value


def _microk8s(tree: Tree, _release: dict[str, str]) -> Layout | None:
    arguments = "/var/snap/microk8s/current/args"
    if not tree.exists(f"{arguments}/containerd-template.toml"):
        return None
    return Layout(
        name="MicroK8s",
        config=f"{arguments}/containerd.toml",
        template=f"{arguments}/containerd-template.toml",
        address="/var/snap/microk8s/common/run/containerd.sock",
        services=("snap.microk8s.daemon-containerd.service",),
        programs="/snap/microk8s/current/bin",
    )


def _rancher(tree: Tree, _release: dict[str, str]) -> Layout | None:
    """RKE2 and k3s: one design, two folders. RKE2 first, because it has k3s inside."""
    for name, programs, services in (
        ("rke2", "bin", ("rke2-server.service", "rke2-agent.service")),
        ("k3s", "data/current/bin", ("k3s.service", "k3s-agent.service")),
    ):
        base = f"/var/lib/rancher/{name}"
        folder = f"{base}/agent/etc/containerd"
        if tree.exists(folder):
            return Layout(
                name={"rke2": "RKE2"}.get(name, name),
                config=f"{folder}/config.toml",
                template=f"{folder}/config.toml.tmpl",
                is_go_template=True,
                address=RANCHER_SOCKET,
                services=services,
                programs=f"{base}/{programs}",
            )
    return None


def _talos(_tree: Tree, release: dict[str, str]) -> Layout | None:
    if release.get("ID") != "talos":
        return None
    return Layout(
        name="Talos",
        config="/etc/cri/containerd.toml",
        services=(),
        prefix="/var/opt/spinwheel",
        bin_dir="",
        by_hand=TALOS_STEP,
    )


def _kind(tree: Tree, _release: dict[str, str]) -> Layout | None:
    return Layout(name="kind", config=SYSTEM_CONFIG) if tree.exists("/kind") else None


def _system(_tree: Tree, release: dict[str, str]) -> Layout | None:
    """A distribution whose containerd is a package: the same paths for both families."""
    families = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    for name, members in (("Debian or Ubuntu", DEBIAN), ("RHEL", RED_HAT)):
        if not families.isdisjoint(members):
            return Layout(name=name, config=SYSTEM_CONFIG)
    return None
