"""`spinwheel completion`: words for the shell, out of the parser itself, so that they cannot differ."""

from __future__ import annotations

import argparse
from typing import Any

SCRIPT = """\
# For bash: eval "$(spinwheel completion)". For zsh, first: autoload -U bashcompinit && bashcompinit
_spinwheel() {{
    local words
    case "${{COMP_WORDS[1]}}" in
{cases}
    *) words="{verbs}" ;;
    esac
    COMPREPLY=($(compgen -W "$words" -f -- "${{COMP_WORDS[COMP_CWORD]}}"))
}}
complete -o filenames -F _spinwheel spinwheel"""


def add(verbs: argparse._SubParsersAction[Any]) -> None:
    """Adds the verb, which knows all that are there."""
    parser = verbs.add_parser("completion", help="print what makes bash and zsh complete spinwheel's words")
    parser.set_defaults(run=lambda _arguments: print(script(verbs)))


def script(verbs: argparse._SubParsersAction[Any]) -> str:
    """The shell's function: verbs first, then the options and choices of the verb that was typed."""
    cases = "\n".join(
        f'    {name}) words="{" ".join(_words(verb))}" ;;' for name, verb in verbs.choices.items()
    )
    return SCRIPT.format(cases=cases, verbs=" ".join(verbs.choices))


def _words(parser: argparse.ArgumentParser) -> list[str]:
    found = []
    for action in parser._actions:  # noqa: SLF001  # there is no public list of what was added
        found += [option for option in action.option_strings if option.startswith("--")]
        found += [str(choice) for choice in action.choices or ()]
    return found
