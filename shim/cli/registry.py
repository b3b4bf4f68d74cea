"""`spinwheel push`, `pull`, `login`, `logout`: apps to and from registries."""

from __future__ import annotations

import argparse
import datetime as dt
import getpass
import json
import os
import sys
from pathlib import Path
from typing import Any

import urllib3

from shim.cli.building import run_build
from shim.errors import InvalidArgument, Unavailable
from shim.image.artifact import MAX_DATA, resolve
from shim.image.manifest import MAX_DOCUMENT, Descriptor, parse_document, parse_manifest
from shim.manifest.assets import gather, load
from shim.manifest.pack import MANIFEST_TYPE, pack
from shim.registry import credentials
from shim.registry.client import Repository
from shim.registry.hosts import CERTS, endpoints
from shim.registry.reference import Reference, parse_reference


def add(verbs: argparse._SubParsersAction[Any]) -> None:
    """Adds the verbs."""
    _add_push(verbs)
    parser = verbs.add_parser(
        "pull", help="fetch an app and verify every byte of it, into an OCI layout folder"
    )
    add_reference(parser)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the folder, made if need be")
    parser.set_defaults(run=run_pull)
    _add_login(verbs)


def _add_push(verbs: argparse._SubParsersAction[Any]) -> None:
    parser = verbs.add_parser("push", help="push an app to a registry, as `spin registry push` does")
    add_reference(parser)
    parser.add_argument("-f", "--from", "--file", dest="file", type=Path, default=Path("spin.toml"))
    parser.add_argument("--profile", default="", help="the profile of each component to use")
    parser.add_argument(
        "--build", action="store_true", default="SPIN_ALWAYS_BUILD" in os.environ, help="build first"
    )
    parser.add_argument("--annotation", action="append", default=[], metavar="KEY=VALUE")
    parser.set_defaults(run=run_push)


def add_reference(parser: argparse.ArgumentParser) -> None:
    """Adds the words that name an artifact."""
    parser.add_argument("reference", help="HOST/REPOSITORY[:TAG][@DIGEST]")
    add_connection(parser)


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Adds the words that say how to reach a registry."""
    parser.add_argument("-k", "--insecure", action="store_true", help="plain http")
    parser.add_argument(
        "--hosts-dir", type=Path, default=CERTS, help="mirrors and CAs in containerd's layout (%(default)s)"
    )


def _add_login(verbs: argparse._SubParsersAction[Any]) -> None:
    parser = verbs.add_parser("login", help="check credentials with a registry and keep them")
    parser.add_argument("server", help="the registry's host[:port]")
    parser.add_argument("-u", "--username")
    parser.add_argument("-p", "--password", help="seen by others in `ps`; better --password-stdin")
    parser.add_argument("--password-stdin", action="store_true")
    add_connection(parser)
    parser.set_defaults(run=run_login)
    parser = verbs.add_parser("logout", help="forget a registry's credentials")
    parser.add_argument("server")
    parser.set_defaults(run=run_logout)


def open_repository(arguments: argparse.Namespace) -> Repository:
    """The repository that the words name, with the credentials that are kept for it."""
    reference = parse_reference(arguments.reference)
    ends = endpoints(reference.host, arguments.hosts_dir, insecure=arguments.insecure)
    return Repository(reference, ends, credentials.find(reference.host))


def run_push(arguments: argparse.Namespace) -> None:
    """Packs the app and pushes it; prints the digest."""
    if "@" in arguments.reference:
        message = f"push: wanted a tag, found {arguments.reference}; the digest is what push answers"
        raise InvalidArgument(message)
    if arguments.build:
        run_build(arguments)
    manifest = load(arguments.file, arguments.profile)
    assets = gather(manifest, arguments.file.parent, fetch)
    created = dt.datetime.now(dt.UTC).isoformat()
    archive = "SPIN_OCI_ARCHIVE_LAYERS" in os.environ
    package = pack(manifest, assets, pairs(arguments.annotation, "--annotation"), created, archive=archive)
    with open_repository(arguments) as repository:
        digest = repository.push(package, lambda line: print(line, file=sys.stderr))
    print(f"Pushed with digest {digest}")


def pairs(words: list[str], option: str) -> dict[str, str]:
    """The KEY=VALUE words of an option; raises InvalidArgument."""
    for word in words:
        if "=" not in word:
            message = f"{option}: wanted KEY=VALUE, found {word}"
            raise InvalidArgument(message)
    return dict(word.split("=", 1) for word in words)


def fetch(url: str, limit: int) -> bytes:
    """At most `limit` + 1 bytes of a URL; raises Unavailable."""
    try:
        response = urllib3.request("GET", url, preload_content=False, timeout=30.0)
        data = response.read(limit + 1)
    except urllib3.exceptions.HTTPError as error:
        message = f"{url}: {error}"
        raise Unavailable(message) from error
    if response.status != 200:
        message = f"{url}: wanted the component, found status {response.status}"
        raise Unavailable(message)
    return data


def run_pull(arguments: argparse.Namespace) -> None:
    """Fetches every blob into an OCI layout; the index appears last, so a half pull is none."""
    output: Path = arguments.output
    with open_repository(arguments) as repository:
        artifact = resolve(repository, repository.target())
        manifest = repository.read(artifact.digest, MAX_DOCUMENT)
        kind = str(parse_document(manifest, "manifest").get("mediaType", MANIFEST_TYPE))
        root = Descriptor(kind, artifact.digest, len(manifest))
        document = parse_manifest(manifest, root.media_type)
        blobs = output / "blobs" / "sha256"
        blobs.mkdir(parents=True, exist_ok=True)
        for blob in getattr(document, "blobs", ()):
            _keep(blobs, blob.digest, repository.read(blob.digest, min(blob.size, MAX_DATA)))
        _keep(blobs, root.digest, manifest)
    (output / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    scratch = output / ".index.json"
    scratch.write_text(json.dumps(_index(root, parse_reference(arguments.reference))))
    scratch.rename(output / "index.json")
    print(f"Pulled {artifact.app.name} with digest {root.digest}")


def _keep(folder: Path, digest: str, data: bytes) -> None:
    name = digest.removeprefix("sha256:")
    scratch = folder / f".{name}"
    scratch.write_bytes(data)
    scratch.rename(folder / name)


def _index(root: Descriptor, reference: Reference) -> dict[str, Any]:
    names = {"io.containerd.image.name": str(reference), "org.opencontainers.image.ref.name": reference.tag}
    target = {"mediaType": root.media_type, "digest": root.digest, "size": root.size, "annotations": names}
    return {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [target]}


def run_login(arguments: argparse.Namespace) -> None:
    """Keeps credentials that the registry has accepted."""
    host = arguments.server.removeprefix("https://").removeprefix("http://").rstrip("/")
    user = arguments.username or input("Username: ")
    password = arguments.password
    if arguments.password_stdin:
        password = sys.stdin.readline().rstrip("\n")
    given = credentials.Credentials(user, getpass.getpass() if password is None else password)
    reference = parse_reference(f"{host}/spinwheel/login")
    ends = endpoints(reference.host, arguments.hosts_dir, insecure=arguments.insecure)
    with Repository(reference, ends, given) as repository:
        repository.check()
    print(f"Logged in to {host}; credentials are in {credentials.store(reference.host, given)}")


def run_logout(arguments: argparse.Namespace) -> int:
    """Forgets credentials; the exit code is 1 when there were none."""
    if credentials.forget(arguments.server):
        return 0
    print(f"spinwheel: no credentials for {arguments.server} in {credentials.spin_file()}", file=sys.stderr)
    return 1
