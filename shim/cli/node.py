"""`spinwheel node install|upgrade|uninstall`: this version on this node's containerd, and off it again.

Knows words and what they print. Laws: steps are told on stderr; stdout has the RuntimeClass to apply, or with
--dry-run what would be done, and nothing is changed then.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from pathlib import Path

from shim.errors import FailedPrecondition
from shim.node import facts, install
from shim.node.edit import Edit, runtime_class
from shim.node.facts import Request
from shim.node.files import Root
from shim.node.layouts import detect

FLAGS = {
    "--config": "containerd's configuration, on a node that is not recognized",
    "--address": "containerd's socket",
    "--service": "the unit that runs containerd",
    "--programs": "the folder of containerd's own programs",
    "--bin-dir": "a folder on containerd's PATH, for the launcher",
    "--restart-command": "what restarts containerd and spares its shims, where systemd does not",
}


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the verb and its own verbs."""
    parser = verbs.add_parser("node", help="install on this node's containerd, upgrade, uninstall")
    inner = parser.add_subparsers(metavar="VERB", required=True)
    for verb, text in (
        ("install", "put this version on the node, prove that apps run, print the RuntimeClass"),
        ("upgrade", "the same where another version is installed; running pods keep theirs"),
    ):
        each = inner.add_parser(verb, help=text)
        _add_common(each)
        for flag, help_text in FLAGS.items():
            each.add_argument(flag, default="", help=help_text)
        each.add_argument("--config-version", type=int, default=0, help="its format, where there is none yet")
        each.add_argument("--handler", default="spin", help="the name in the RuntimeClass (%(default)s)")
        each.set_defaults(run=run_install, upgrade=verb == "upgrade")
    each = inner.add_parser("uninstall", help="put every file back as it was")
    _add_common(each)
    each.set_defaults(run=run_uninstall)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prefix", default="", help="where it is installed (/opt/spinwheel)")
    parser.add_argument("--host-root", type=Path, default=Path("/"), help="the node's root, seen from here")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")


def run_install(arguments: argparse.Namespace) -> None:
    """Installs or upgrades."""
    words = {
        flag.lstrip("-").replace("-", "_") for flag in (*FLAGS, "--prefix", "--handler", "--config-version")
    }
    request = Request(root=_root(arguments), **{word: getattr(arguments, word) for word in words})
    node = facts.look(request, os.environ)
    _say(f"found {node.layout.name}: {node.edit.path}, version {node.edit.version}")
    if arguments.dry_run:
        _print_plan(node)
        return
    install.install(node, _say, upgrade=arguments.upgrade)
    if node.layout.by_hand:
        print(_by_hand(node), file=sys.stderr)
    print(runtime_class(node.handler), end="")


def run_uninstall(arguments: argparse.Namespace) -> None:
    """Uninstalls."""
    root = _root(arguments)
    prefix = arguments.prefix or detect(root).prefix
    if arguments.dry_run:
        for change in reversed(install.journal_of(root, prefix).changes):
            print(f"would take back {change.describe()}")
        return
    install.uninstall(root, prefix, _say)


def _root(arguments: argparse.Namespace) -> Root:
    path = arguments.host_root.resolve()
    if not path.is_dir():
        message = f"--host-root: wanted the folder where the node's root is mounted, found none at {path}"
        raise FailedPrecondition(message)
    return Root(path)


def _print_plan(node: facts.Node) -> None:
    changes = install.pending(node, install.journal_of(node.root, node.prefix))
    print(f"would make {node.prefix}/versions/{node.environment.version}")
    for change in changes:
        print(f"would make {change.describe()}")
    print(_by_hand(node) or _diff(node.edit))


def _by_hand(node: facts.Node) -> str:
    lines = "\n".join(f"  {line}" for line in node.edit.added.splitlines())
    return node.layout.by_hand and f"to do by hand: {node.layout.by_hand}{lines}"


def _diff(edit: Edit) -> str:
    before, after = (edit.before or "").splitlines(), edit.after.splitlines()
    return "\n".join(difflib.unified_diff(before, after, edit.path, edit.path, lineterm=""))


def _say(line: str) -> None:
    print(f"spinwheel: {line}", file=sys.stderr)
