"""The manual and the completions hold every verb and every flag that the parsers have."""

from __future__ import annotations

import argparse
import shlex
import subprocess
from pathlib import Path

import pytest

from exo_rkllm.cli import NAMES, VERBS, verb_parser
from exo_rkllm.config.table import TABLE, assigned
from tools import completion, manual
from tools.commands import commands
from tools.package_data import files

PAGES = {"exo-rkllm.1": manual.program, "exo-rkllm.toml.5": manual.settings, "exo-rkllm-simulator.1": manual.simulator}


def flags() -> list[tuple[str, str]]:
    """Those that --help shows."""
    return [
        (verb.name, flag)
        for verb in VERBS
        for action in verb_parser(verb)._actions
        for flag in action.option_strings
        if action.help != argparse.SUPPRESS
    ]


def test_command_table_contains_every_verb_and_flag() -> None:
    assert [command.name for command in commands()] == [verb.name for verb in VERBS]
    assert [
        (command.name, flag) for command in commands() for argument in command.flags for flag in argument.flags
    ] == flags()


@pytest.mark.parametrize("name", PAGES)
def test_mandoc_accepts_the_manual(name: str, tmp_path: Path) -> None:
    page = tmp_path / name
    page.write_text(PAGES[name](1_700_000_000))
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True)
    assert not done.stdout and done.returncode == 0, done.stdout


def rendered(name: str, tmp_path: Path) -> str:
    page = tmp_path / name
    page.write_text(PAGES[name](1_700_000_000))
    shown = subprocess.run(
        ["mandoc", "-T", "utf8", "-O", "width=200", page], capture_output=True, text=True, check=True
    )
    return subprocess.run(["col", "-b"], input=shown.stdout, capture_output=True, text=True, check=True).stdout


def test_manual_contains_every_verb_and_flag(tmp_path: Path) -> None:
    page = rendered("exo-rkllm.1", tmp_path)
    sections = {part.split("\n", 1)[0].strip(): part for part in page.split("\n   exo-rkllm ")}
    for name, flag in flags():
        assert flag in sections[name], f"{name} {flag}"
    for verb in VERBS:
        assert manual.sentence(verb.summary) in sections[verb.name]
        assert not verb.aliases or f"Also: {', '.join(verb.aliases)}." in sections[verb.name]


def test_settings_page_contains_every_setting(tmp_path: Path) -> None:
    page = rendered("exo-rkllm.toml.5", tmp_path)
    for section, table in TABLE.items():
        assert f"[{section}]" in page
        for spec in table.fields:
            assert assigned(spec, spec.default) in page


# What the completions ask: of the runtimes as `exo-rkllm runtime --json` prints them.
STAND_IN = """if [ "$1" = runtime ]; then printf '  "version": "%s",\\n' 1.3.0 1.3.0 1.2.3; echo '"version": null'; else
printf 'NAME  SIZE\\nqwen3-1.7b  2 GB\\n'; fi;"""


def complete(words: list[str], tmp_path: Path) -> list[str]:
    """What bash offers for the last word."""
    script = tmp_path / "exo-rkllm"
    script.write_text(completion.bash())
    program = (
        f"source {script}; compopt() {{ :; }}; exo-rkllm() {{ {STAND_IN} }};"
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _exo_rkllm; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", program, "bash", *words], capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_bash_completes_verbs_flags_values_and_models(tmp_path: Path) -> None:
    assert {name for verb in VERBS for name in verb.names} <= set(complete(["exo-rkllm", ""], tmp_path))
    assert complete(["exo-rkllm", "sel"], tmp_path) == ["selftest"]
    assert complete(["exo-rkllm", "config", "re"], tmp_path) == ["reload"]
    for verb_name in ("unload", "stop"):
        assert complete(["exo-rkllm", verb_name, "qw"], tmp_path) == ["qwen3-1.7b"]
    assert complete(["exo-rkllm", "selftest", "--runtimes", ""], tmp_path) == ["qwen3-1.7b"]
    for flag in ("--default", "--remove"):
        assert complete(["exo-rkllm", "runtime", flag, ""], tmp_path) == ["1.2.3", "1.3.0"]
    for verb in VERBS:
        assert complete(["exo-rkllm", verb.name, "-"], tmp_path) == [
            flag for name, flag in flags() if name == verb.name
        ]


SHELLS = {"bash": "bash/exo-rkllm", "zsh": "zsh/_exo-rkllm", "fish": "fish/exo-rkllm.fish"}


@pytest.mark.parametrize("shell", SHELLS)
def test_shell_parses_its_completion(shell: str, tmp_path: Path) -> None:
    path = tmp_path / "completion"
    path.write_text(files(0)[SHELLS[shell]])
    subprocess.run([shell, "-n", path], check=True)


def test_fish_completes_installed_versions(tmp_path: Path) -> None:
    path = tmp_path / "exo-rkllm.fish"
    path.write_text(completion.fish())
    stand_in = f"function exo-rkllm; bash -c {shlex.quote(STAND_IN)} exo-rkllm $argv; end"
    program = f"{stand_in}; source {path}; complete -C 'exo-rkllm runtime --default '"
    done = subprocess.run(["fish", "--no-config", "-c", program], capture_output=True, text=True, check=True)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["1.2.3", "1.3.0"], done.stderr


def test_zsh_and_fish_complete_every_verb_and_flag() -> None:
    zsh, fish = completion.zsh(), completion.fish()
    for verb, flag in flags():
        spelt_names = NAMES[verb].names
        section = zsh.split(f"\n        {'|'.join(spelt_names)})\n", 1)[1].split(";;", 1)[0]
        assert f"{flag}[" in section, f"{verb} {flag}"
        spelt = f" -l {flag[2:]}" if flag.startswith("--") else f" -s {flag[1:]}"
        lines = [line for line in fish.splitlines() if f"_from {' '.join(spelt_names)}'" in line]
        assert any(spelt + " " in line for line in lines), f"{verb} {flag}"
