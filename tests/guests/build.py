#!/usr/bin/env python3
"""Builds the guests, or finds them built: `python3 tests/guests/build.py [name ...]`.

Knows: which guest has which recipe. Laws: stdout is one JSON object {name: path} and nothing
else; what cannot be built is one message on stderr and exit code 1.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

if not __package__:
    # Run as a script: the path holds this folder, where the name `tests` does not exist.
    sys.path[0] = str(Path(__file__).parents[2])

from tests.guests import python, rust
from tests.guests.product import BuildError

RECIPES: dict[str, Callable[[str], Path]] = {
    "hello-p2": rust.build,
    "hello-p3": rust.build,
    "hello-python": python.build,
}


def guest_path(name: str) -> Path:
    """Return the component of a guest, building it if need be; BuildError if that cannot be."""
    recipe = RECIPES.get(name)
    if recipe is None:
        message = f"wanted one of {', '.join(RECIPES)}, found {name!r}. Name one of these"
        raise BuildError(message)
    return recipe(name) / f"{name}.wasm"


def main(argv: Sequence[str] | None = None) -> int:
    """Build the named guests, or all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(RECIPES))
    names = parser.parse_args(argv).names or list(RECIPES)
    try:
        paths = {name: str(guest_path(name)) for name in names}
    except BuildError as error:
        print(f"tests/guests/build.py: {error}", file=sys.stderr)
        return 1
    print(json.dumps(paths, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
