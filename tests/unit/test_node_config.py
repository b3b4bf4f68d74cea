"""Which node a tree of files is, and what is written into its containerd's configuration."""

import tomllib
from pathlib import Path

import pytest

from shim.errors import FailedPrecondition, InvalidArgument
from shim.node.edit import (
    CRI_V2,
    CRI_V3,
    RUNTIME,
    Edit,
    Handler,
    decide,
    handlers,
    runtime_class,
    without_block,
)
from shim.node.layouts import Layout, detect, named

NODES = Path(__file__).parents[1] / "fixtures" / "nodes"
RANCHER = "/var/lib/rancher"
MICROK8S = "/var/snap/microk8s/current/args"
# Fixture -> the distribution, the file that is written, whether it was there before.
LAYOUTS = {
    "debian": ("Debian or Ubuntu", "/etc/containerd/config.toml", True),
    "rhel": ("RHEL", "/etc/containerd/conf.d/50-spinwheel.toml", False),
    "k3s": ("k3s", f"{RANCHER}/k3s/agent/etc/containerd/config-v3.toml.d/50-spinwheel.toml", False),
    "rke2": ("RKE2", f"{RANCHER}/rke2/agent/etc/containerd/config.toml.tmpl", False),
    "microk8s": ("MicroK8s", f"{MICROK8S}/containerd-template.toml", True),
    "kind": ("kind", "/etc/containerd/config.toml", True),
    "talos": ("Talos", "/etc/cri/containerd.toml", True),
}


class Folder:
    """A fixture as a tree."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def exists(self, path: str) -> bool:
        """Whether the fixture has it."""
        return bool(path) and (self.root / path.lstrip("/")).exists()

    def read(self, path: str) -> str | None:
        """Its text."""
        file = self.root / path.lstrip("/")
        return file.read_bytes().decode() if file.is_file() else None


class OneFile:
    """A node with nothing but a configuration."""

    def __init__(self, text: str | None) -> None:
        self.text = text

    def exists(self, path: str) -> bool:
        """Whether it has one."""
        return path == PLAIN.config and self.text is not None

    def read(self, path: str) -> str | None:
        """The configuration's text."""
        return self.text if path == PLAIN.config else None


PLAIN = named("/c.toml")


def edited(text: str | None, handler: Handler = Handler(), version: int = 0) -> Edit:  # noqa: B008  # frozen
    """The change to a lone configuration."""
    return decide(OneFile(text), PLAIN, handler, version)


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_recognized_and_edited_where_its_containerd_looks(name: str) -> None:
    """The file is a drop-in, a template, or the configuration, as the distribution has it (N24, N27-N32)."""
    tree = Folder(NODES / name)
    layout = detect(tree)
    edit = decide(tree, layout, Handler())
    assert (layout.name, edit.path, edit.before is not None) == LAYOUTS[name]
    assert RUNTIME in edit.after


@pytest.mark.parametrize("name", LAYOUTS)
def test_taking_the_block_out_gives_the_very_text_from_before(name: str) -> None:
    """Outside the marks not a byte changes, also where the last line has no end."""
    tree = Folder(NODES / name)
    layout = detect(tree)
    edit = decide(tree, layout, Handler())
    if edit.before is not None:
        assert edit.after.startswith(edit.before)
        assert without_block(edit.after) == edit.before


@pytest.mark.parametrize(("version", "plugin"), [(2, CRI_V2), (3, CRI_V3), (4, CRI_V3)])
def test_the_handler_stands_in_the_table_of_the_formats_version(version: int, plugin: str) -> None:
    """Version 2 has CRI's old table, versions 3 and 4 the new one (S4, N24)."""
    after = tomllib.loads(edited(f"version = {version}\n").after)
    assert after["plugins"][plugin]["containerd"]["runtimes"]["spin"] == {"runtime_type": RUNTIME}


def test_a_second_edit_changes_nothing() -> None:
    """The edit of an edited configuration is the same text; another handler's name replaces the block."""
    first = edited("version = 3 # mine")
    assert edited(first.after).after == first.after
    second = edited(first.after, Handler(name="spin-v2"))
    assert list(handlers(tomllib.loads(second.after), 3)) == ["spin-v2"]
    assert without_block(second.after) == "version = 3 # mine"


def test_runc_stays_known_to_containerd_1() -> None:
    """containerd 1.7 forgets its own runc once any handler is configured; a version 2 block restates it."""
    assert set(handlers(tomllib.loads(edited("version = 2\n").after), 2)) == {"runc", "spin"}
    with_runc = f'version = 2\n[plugins."{CRI_V2}".containerd.runtimes.runc]\nruntime_type = "x"\n'
    assert handlers(tomllib.loads(edited(with_runc).after), 2)["runc"] == "x"
    assert set(handlers(tomllib.loads(edited("version = 3\n").after), 3)) == {"spin"}


def test_a_missing_or_empty_configuration_gets_its_version() -> None:
    """Where there is nothing, containerd's release decides; where that is not known, we stop."""
    for text in (None, "", "# nothing yet\n"):
        assert tomllib.loads(edited(text, version=2).after)["version"] == 2
        with pytest.raises(FailedPrecondition, match="--config-version"):
            edited(text)


def test_launcher_and_runtime_are_named_where_they_are_not_found_by_themselves() -> None:
    """A launcher off PATH is `runtime_path`, a bundled OCI runtime the `BinaryName` of the options."""
    after = edited("version = 3\n", Handler(launcher="/p/shim", oci_runtime="/p/runc")).after
    spin = tomllib.loads(after)["plugins"][CRI_V3]["containerd"]["runtimes"]["spin"]
    assert spin == {"runtime_type": RUNTIME, "runtime_path": "/p/shim", "options": {"BinaryName": "/p/runc"}}


def test_text_that_is_no_toml_is_refused_with_its_place() -> None:
    """A configuration that does not parse is refused by file and line, with the command that shows more."""
    with pytest.raises(InvalidArgument, match=r"/c\.toml: wanted TOML.*line 2.*config dump"):
        edited("version = 3\n[plugins\n")


@pytest.mark.parametrize("text", ['disabled_plugins = ["cri"]\n', "version = 1\n", "version = 9\n"])
def test_a_version_whose_tables_we_do_not_know_is_refused(text: str) -> None:
    """Docker's file states no version, which means 1: refused with the command that migrates it."""
    with pytest.raises(FailedPrecondition, match="config migrate"):
        edited(text)


def test_a_handler_of_somebody_else_is_refused() -> None:
    """A handler of our name that we did not write is refused with its type and the flag for another name."""
    text = f'version = 3\n[plugins."{CRI_V3}".containerd.runtimes.spin]\nruntime_type = "other"\n'
    with pytest.raises(FailedPrecondition, match=r"'other'.*--handler"):
        edited(text)
    assert edited(text, Handler(name="spin-v2")).after.startswith(text)


def test_an_inline_table_is_refused_with_the_lines_to_add() -> None:
    """TOML forbids adding to an inline table; the message then has our lines to add by hand."""
    with pytest.raises(FailedPrecondition, match=r"by hand:\n# BEGIN spinwheel(.|\n)*runtime_type"):
        edited(f'version = 3\nplugins."{CRI_V3}" = {{containerd = {{runtimes = {{}}}}}}\n')


def test_a_name_that_is_no_label_is_refused() -> None:
    """The handler's name becomes a TOML key and a Kubernetes label; what is neither is refused."""
    with pytest.raises(InvalidArgument, match="--handler"):
        edited("version = 3\n", Handler(name='a"]\nb'))


def test_switched_off_cri_is_noted() -> None:
    """A configuration that disables CRI is edited, with a note that Kubernetes cannot use it."""
    (note,) = edited('version = 3\ndisabled_plugins = ["io.containerd.cri.v1.runtime"]\n').notes
    assert "Kubernetes" in note


def test_a_template_of_k3s_keeps_what_is_in_it() -> None:
    """An operator's Go template is extended without being parsed; one that we make has k3s's own in it."""
    tree = Folder(NODES / "rke2")
    made = decide(tree, detect(tree), Handler())
    assert made.after.startswith('{{ template "base" . }}\n')

    class WithTemplate(Folder):
        def read(self, path: str) -> str | None:
            return "{{ if .x }}y{{ end }}" if path.endswith(".tmpl") else super().read(path)

    edit = decide(WithTemplate(NODES / "rke2"), detect(tree), Handler())
    assert without_block(edit.after) == edit.before == "{{ if .x }}y{{ end }}"


def test_a_configuration_generated_from_our_template_is_not_somebody_elses() -> None:
    """After k3s has filled the template in, the generated file has our handler; a second run still agrees."""
    tree = Folder(NODES / "rke2")
    layout = detect(tree)
    first = decide(tree, layout, Handler())

    class Generated(Folder):
        def read(self, path: str) -> str | None:
            block = first.after.removeprefix('{{ template "base" . }}\n')
            own = super().read(path)
            return (
                first.after if path == first.path else (own or "") + block if path == layout.config else own
            )

    assert decide(Generated(NODES / "rke2"), layout, Handler()).after == first.after


def test_an_unknown_distribution_is_refused_with_the_flags() -> None:
    """A node that nothing recognizes is named as it names itself, with the flags that describe it by hand."""

    class Arch(OneFile):
        def read(self, path: str) -> str | None:
            return 'PRETTY_NAME="Arch Linux"\nID=arch\n' if path == "/etc/os-release" else None

    with pytest.raises(FailedPrecondition, match=r"Arch Linux.*nothing is changed.*--config FILE --address"):
        detect(Arch(None))


def test_bundled_kubernetes_wins_over_the_system_below_it() -> None:
    """k3s on Ubuntu is k3s: socket, unit and programs are its own."""
    layout: Layout = detect(Folder(NODES / "k3s"))
    assert layout.address == "/run/k3s/containerd/containerd.sock"
    assert "k3s-agent.service" in layout.services
    assert layout.programs == "/var/lib/rancher/k3s/data/current/bin"


def test_the_runtime_class_names_the_handler() -> None:
    """What is printed for Kubernetes is named as SpinKube expects it, and points to the handler (S6)."""
    text = runtime_class(Handler(name="spin-v2"))
    assert "name: wasmtime-spin-v2\nhandler: spin-v2\n" in text
