"""Completions for bash, zsh and fish, generated from the parsers. Model names are queried at completion time."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from tools.commands import Argument, Command, commands

MODELS = "exo-rkllm models 2>/dev/null | awk 'NR > 1 { print $1 }'"


def bash() -> str:
    verbs = " ".join(command.name for command in commands())
    cases = "\n".join(_bash_verb(command) for command in commands())
    return f"""\
# bash completion for exo-rkllm, generated from its parsers
_exo_rkllm() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}} words= kind=
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{verbs} --help --version" -- "$cur"))
        return
    fi
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
    case $cur in
        -*) kind= ;;
    esac
    case $kind in
        file) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")) ;;
        folder) compopt -o filenames; COMPREPLY=($(compgen -d -- "$cur")) ;;
        model) COMPREPLY=($(compgen -W "$words $({MODELS})" -- "$cur")) ;;
        text) ;;
        *) COMPREPLY=($(compgen -W "$words" -- "$cur")) ;;
    esac
}}
complete -F _exo_rkllm exo-rkllm
"""


def _bash_verb(command: Command) -> str:
    flags = " ".join(flag for argument in command.flags for flag in argument.flags)
    first = command.positionals[0] if command.positionals else None
    choices = " ".join(first.choices) if first else ""
    kind = first.value if first and not first.choices else ""
    lines = [f"        {command.name})", f"            words={quote(f'{flags} {choices}'.strip())} kind={kind}"]
    with_value = [argument for argument in command.flags if argument.metavar]
    if with_value:
        lines.append("            case $prev in")
        for argument in with_value:
            candidates = (
                f"words={quote(' '.join(argument.choices))} kind="
                if argument.choices
                else f"words= kind={argument.value}"
            )
            lines.append(f"                {'|'.join(argument.flags)}) {candidates} ;;")
        lines.append("            esac")
    return "\n".join([*lines, "            ;;"])


def zsh() -> str:
    verbs = "\n".join(f"        {quote(f'{command.name}:{command.summary}')}" for command in commands())
    cases = "\n".join(_zsh_verb(command) for command in commands())
    return f"""\
#compdef exo-rkllm
# generated from the parsers of exo-rkllm
_exo_rkllm_models() {{
    local -a names
    names=(${{(f)"$({MODELS})"}})
    compadd -a names
}}

_exo_rkllm() {{
    local -a verbs
    verbs=(
{verbs}
    )
    if (( CURRENT == 2 )); then
        _describe -t verbs verb verbs
        _arguments '--help[show help]' '--version[show the version]'
        return
    fi
    local verb=${{words[2]}}
    shift words
    (( CURRENT-- ))
    case $verb in
{cases}
    esac
}}

_exo_rkllm "$@"
"""


def _zsh_verb(command: Command) -> str:
    specs = [f"            {quote(spec)}" for argument in command.arguments for spec in _zsh_specs(argument)]
    return f"        {command.name})\n            _arguments \\\n" + " \\\n".join(specs) + "\n            ;;"


def _zsh_specs(argument: Argument) -> Iterator[str]:
    text = argument.help.replace("[", "(").replace("]", ")").replace(":", "\\:")
    action = f"({' '.join(argument.choices)})" if argument.choices else ZSH_ACTIONS[argument.value]
    value = f":{argument.metavar.replace(':', ' ')}:{action}" if argument.metavar else ""
    if not argument.flags:
        yield f"{'*' if argument.many else ''}{':' if argument.optional else ''}{value}"
    for flag in argument.flags:
        yield f"{flag}[{text}]{value}"


ZSH_ACTIONS = {"": "", "text": " ", "file": "_files", "folder": "_files -/", "model": "_exo_rkllm_models"}


def fish() -> str:
    lines = [
        "# completion for exo-rkllm, generated from its parsers",
        "complete -c exo-rkllm -f",
        "complete -c exo-rkllm -n __fish_use_subcommand -l version -d 'show the version'",
    ]
    for command in commands():
        lines.append(
            f"complete -c exo-rkllm -n __fish_use_subcommand -a {command.name} -d {_fish_quoted(command.summary)}"
        )
        here = f"complete -c exo-rkllm -n '__fish_seen_subcommand_from {command.name}'"
        lines += [here + _fish_argument(argument) for argument in command.arguments]
    return "\n".join(lines) + "\n"


def _fish_argument(argument: Argument) -> str:
    spelling = "".join(f" -l {flag[2:]}" if flag.startswith("--") else f" -s {flag[1:]}" for flag in argument.flags)
    takes = FISH_VALUES[argument.value] if not argument.choices else f" -a {_fish_quoted(' '.join(argument.choices))}"
    needs = " -r" if argument.flags and argument.metavar else ""
    return f"{spelling}{needs}{takes} -d {_fish_quoted(argument.help)}"


FISH_VALUES = {
    "": "",
    "text": "",
    "file": " -F",
    "folder": " -a '(__fish_complete_directories)'",
    "model": f' -a "({MODELS.replace("$", chr(92) + "$")})"',
}


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
