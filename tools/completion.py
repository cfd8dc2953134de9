"""Completions for bash, zsh and fish, generated from the parsers. QUERIES are asked at completion time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from shlex import quote

from tools.commands import Argument, Command, Value, commands

# The installed ones, a line each.
QUERIES: Mapping[Value, str] = {
    "model": "exo-rkllm models 2>/dev/null | awk 'NR > 1 { print $1 }'",
    "version": """exo-rkllm runtime --json 2>/dev/null | awk -F'"' '$2 == "version" && $4 { print $4 }' | sort -u""",
}


def bash() -> str:
    verbs = " ".join(name for command in commands() for name in command.names)
    cases = "\n".join(_bash_verb(command) for command in commands())
    queries = "\n".join(
        f'        {kind}) COMPREPLY=($(compgen -W "$words $({query})" -- "$cur")) ;;' for kind, query in QUERIES.items()
    )
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
{queries}
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
    lines = [
        f"        {'|'.join(command.names)})",
        f"            words={quote(f'{flags} {choices}'.strip())} kind={kind}",
    ]
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
    named = [(name, command) for command in commands() for name in command.names]
    verbs = "\n".join(f"        {quote(f'{name}:{command.summary}')}" for name, command in named)
    cases = "\n".join(_zsh_verb(command) for command in commands())
    queries = "\n\n".join(_zsh_query(kind, query) for kind, query in QUERIES.items())
    return f"""\
#compdef exo-rkllm
# generated from the parsers of exo-rkllm
{queries}

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


def _zsh_query(kind: Value, query: str) -> str:
    return f"""\
{ZSH_ACTIONS[kind]}() {{
    local -a names
    names=(${{(f)"$({query})"}})
    compadd -a names
}}"""


def _zsh_verb(command: Command) -> str:
    specs = [f"            {quote(spec)}" for argument in command.arguments for spec in _zsh_specs(argument)]
    return f"        {'|'.join(command.names)})\n            _arguments \\\n" + " \\\n".join(specs) + "\n            ;;"


def _zsh_specs(argument: Argument) -> Iterator[str]:
    text = argument.help.replace("[", "(").replace("]", ")").replace(":", "\\:")
    action = f"({' '.join(argument.choices)})" if argument.choices else ZSH_ACTIONS[argument.value]
    value = f":{argument.metavar.replace(':', ' ')}:{action}" if argument.metavar else ""
    if not argument.flags:
        yield f"{'*' if argument.many else ''}{':' if argument.optional else ''}{value}"
    for flag in argument.flags:
        yield f"{flag}[{text}]{value}"


ZSH_ACTIONS: Mapping[Value, str] = {
    "": "",
    "text": " ",
    "file": "_files",
    "folder": "_files -/",
    "model": "_exo_rkllm_models",
    "version": "_exo_rkllm_versions",
}


def fish() -> str:
    lines = [
        "# completion for exo-rkllm, generated from its parsers",
        "complete -c exo-rkllm -f",
        "complete -c exo-rkllm -n __fish_use_subcommand -l version -d 'show the version'",
    ]
    for command in commands():
        summary = _fish_quoted(command.summary)
        lines += [f"complete -c exo-rkllm -n __fish_use_subcommand -a {name} -d {summary}" for name in command.names]
        here = f"complete -c exo-rkllm -n '__fish_seen_subcommand_from {' '.join(command.names)}'"
        lines += [here + _fish_argument(argument) for argument in command.arguments]
    return "\n".join(lines) + "\n"


def _fish_argument(argument: Argument) -> str:
    spelling = "".join(f" -l {flag[2:]}" if flag.startswith("--") else f" -s {flag[1:]}" for flag in argument.flags)
    takes = FISH_VALUES[argument.value] if not argument.choices else f" -a {_fish_quoted(' '.join(argument.choices))}"
    needs = (" -r" if argument.value == "file" else " -x") if argument.flags and argument.metavar else ""
    return f"{spelling}{needs}{takes} -d {_fish_quoted(argument.help)}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


FISH_VALUES: Mapping[Value, str] = {
    "": "",
    "text": "",
    "file": " -F",
    "folder": " -a '(__fish_complete_directories)'",
    **{kind: f" -a {_fish_quoted(f'({query})')}" for kind, query in QUERIES.items()},
}
