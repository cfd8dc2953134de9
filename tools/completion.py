"""Completions for bash, zsh and fish out of the same parsers. Names of models are asked for when they are wanted."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from tools.words import Command, Word, commands

MODELS = "exo-rkllm models 2>/dev/null | awk 'NR > 1 { print $1 }'"


def bash() -> str:
    verbs = " ".join(command.name for command in commands())
    cases = "\n".join(_bash_verb(command) for command in commands())
    return f"""\
# bash completion for exo-rkllm, made from its parsers
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
    flags = " ".join(flag for word in command.flags for flag in word.flags)
    own = command.positionals[0] if command.positionals else None
    choices = " ".join(own.choices) if own else ""
    kind = own.value if own and not own.choices else ""
    lines = [f"        {command.name})", f"            words={quote(f'{flags} {choices}'.strip())} kind={kind}"]
    taking = [word for word in command.flags if word.shown]
    if taking:
        lines.append("            case $prev in")
        for word in taking:
            what = f"words={quote(' '.join(word.choices))} kind=" if word.choices else f"words= kind={word.value}"
            lines.append(f"                {'|'.join(word.flags)}) {what} ;;")
        lines.append("            esac")
    return "\n".join([*lines, "            ;;"])


def zsh() -> str:
    verbs = "\n".join(f"        {quote(f'{command.name}:{command.summary}')}" for command in commands())
    cases = "\n".join(_zsh_verb(command) for command in commands())
    return f"""\
#compdef exo-rkllm
# made from the parsers of exo-rkllm
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
        _arguments '--help[say more]' '--version[say the version]'
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
    specs = [f"            {quote(spec)}" for word in command.words for spec in _zsh_specs(word)]
    return f"        {command.name})\n            _arguments \\\n" + " \\\n".join(specs) + "\n            ;;"


def _zsh_specs(word: Word) -> Iterator[str]:
    says = word.says.replace("[", "(").replace("]", ")").replace(":", "\\:")
    action = f"({' '.join(word.choices)})" if word.choices else ZSH_ACTIONS[word.value]
    value = f":{word.shown.replace(':', ' ')}:{action}" if word.shown else ""
    if not word.flags:
        yield f"{'*' if word.many else ''}{':' if word.optional else ''}{value}"
    for flag in word.flags:
        yield f"{flag}[{says}]{value}"


ZSH_ACTIONS = {"": "", "text": " ", "file": "_files", "folder": "_files -/", "model": "_exo_rkllm_models"}


def fish() -> str:
    lines = [
        "# completion for exo-rkllm, made from its parsers",
        "complete -c exo-rkllm -f",
        "complete -c exo-rkllm -n __fish_use_subcommand -l version -d 'say the version'",
    ]
    for command in commands():
        lines.append(
            f"complete -c exo-rkllm -n __fish_use_subcommand -a {command.name} -d {_fish_quoted(command.summary)}"
        )
        here = f"complete -c exo-rkllm -n '__fish_seen_subcommand_from {command.name}'"
        lines += [here + _fish_word(word) for word in command.words]
    return "\n".join(lines) + "\n"


def _fish_word(word: Word) -> str:
    spelt = "".join(f" -l {flag[2:]}" if flag.startswith("--") else f" -s {flag[1:]}" for flag in word.flags)
    takes = FISH_VALUES[word.value] if not word.choices else f" -a {_fish_quoted(' '.join(word.choices))}"
    needs = " -r" if word.flags and word.shown else ""
    return f"{spelt}{needs}{takes} -d {_fish_quoted(word.says)}"


FISH_VALUES = {
    "": "",
    "text": "",
    "file": " -F",
    "folder": " -a '(__fish_complete_directories)'",
    "model": f' -a "({MODELS.replace("$", chr(92) + "$")})"',
}


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
