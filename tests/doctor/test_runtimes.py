"""`selftest --runtimes`: each installed version is tried, and what works stands in the card afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from exo_rkllm.catalogue.card import parse
from exo_rkllm.cli import main
from exo_rkllm.doctor import runtimes
from exo_rkllm.doctor.report import bad, good
from exo_rkllm.doctor.runtimes import RuntimeTrial, babble, best
from exo_rkllm.errors import CardError
from tests.runtime import folders
from tests.simulated import Library

Make = Callable[..., Path]
CARD = """\
# my own words
id = "deep"  # as I call it

[weights]
file = "m.rkllm"
[chat]
family = "deepseek-r1"
"""


@pytest.fixture
def deep(
    tmp_path: Path, library: Library, board_root: Path, make_model: Make, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Path]:
    """The card of a model in a catalogue, on a machine with 1.3.1 (the default), 1.2.3 and 1.2.0."""
    for name in ("EXO_RKLLM_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    folder = folders.filled(tmp_path / "lib", library, "1.3.1", "1.2.3", "1.2.0")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("EXO_RKLLM_RUNTIME_LIBRARY", str(folder))
    monkeypatch.setenv("EXO_RKLLM_BOARD_ROOT", str(board_root))
    monkeypatch.setenv("EXO_RKLLM_MODELS_DIRECTORY", str(tmp_path / "models"))

    def make(options: str = "", **situation: object) -> Path:
        entry = tmp_path / "models" / "deep"
        entry.mkdir(parents=True)
        make_model(**situation).rename(entry / "m.rkllm")
        (entry / "model.toml").write_text(CARD + options)
        return entry / "model.toml"

    return make


def test_version_that_works_is_written_into_the_card(
    deep: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    card = deep(toolkit="1.1.4", pads_on="1.2.3", faults=("bus@init",), faults_on="1.3.1")
    card.chmod(0o640)
    assert main(["selftest", "--runtimes", "deep"]) == 0
    crashed, babbled, worked, *_, last = capsys.readouterr().out.splitlines()
    assert "1.3.1" in crashed
    assert crashed.endswith("was killed by SIGBUS while loading."), "and no advice to do what is being done"
    assert "1.2.3" in babbled
    assert "[PAD151935]" in babbled
    assert worked.split()[:2] == ["ok", "1.2.0"]
    assert last == f'deep works with 1.2.0: {card} now has runtime = "1.2.0" under [options].'
    assert card.read_text() == CARD + '\n[options]\nruntime = "1.2.0"\n'
    assert card.stat().st_mode & 0o777 == 0o640


def test_version_that_would_be_used_anyway_is_kept_where_it_works(
    deep: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    card = deep('[options]\nn_keep = 3\nruntime = "1.2.3"  # since May\n', toolkit="1.1.4")
    assert main(["selftest", "--runtimes", "deep"]) == 0
    assert parse(card.read_text()).options == {"n_keep": 3, "runtime": "1.2.3"}
    assert capsys.readouterr().out.count("answers; load") == 3


def test_card_is_left_alone_where_nothing_works(deep: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    card = deep('[options]\nruntime = "9.9.9"\n', toolkit="1.1.4", faults=("segv@prefill",))
    before = card.read_text()
    assert main(["selftest", "--runtimes", "deep"]) == 1
    assert "works with none of them. Its card stays as it is." in capsys.readouterr().out
    assert card.read_text() == before


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), CardError("The folder is not yours.")])
def test_what_works_is_told_where_the_card_cannot_be_written(
    deep: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def refuse(*_: object) -> None:
        raise error

    deep(toolkit="1.1.4")
    monkeypatch.setattr("exo_rkllm.catalogue.store.Catalogue.set_option", refuse)
    assert main(["selftest", "--runtimes", "deep"]) == 1
    told = capsys.readouterr().err
    assert "deep works with 1.3.1, but its card could not be written. " in told
    assert "try: sudo exo-rkllm selftest --runtimes deep" in told


def test_version_that_hangs_is_given_up(
    deep: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deep(toolkit="1.3.1", load_seconds=20)
    monkeypatch.setattr(runtimes, "SECONDS", 0.5)
    assert main(["selftest", "--runtimes", "deep"]) == 1
    assert "No end after 0 s." in capsys.readouterr().out


def test_measurements_take_a_model_of_the_catalogue(
    deep: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its engine wants a rendered prompt, as the daemon sends it."""
    deep(toolkit="1.1.4", reply="A lamp turns.")
    command = ["selftest", "--model", "deep", "--only", "answers", "--only", "abort", "--only", "long-abort"]
    assert main([*command, "--output", str(tmp_path / "report.md")]) == 0, capsys.readouterr().out


def test_file_is_tried_and_has_no_card_to_write(deep: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    card = deep(toolkit="1.3.0")
    assert main(["selftest", "--runtimes", str(card.with_name("m.rkllm"))]) == 0
    out = capsys.readouterr().out
    assert out.count("is too old for") == 2
    assert 'm works with 1.3.1. A card of it says so by runtime = "1.3.1" under [options].' in out


def test_model_of_another_engine_is_refused(deep: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    card = deep()
    card.write_text('id = "deep"\nengine = "dummy"\n')
    assert main(["selftest", "--runtimes", "deep"]) == 2
    assert "deep does not run on librkllmrt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "toolkit", "says"),
    [
        ("", "1.1.4", "1.3.1 (the default)"),
        ("", "1.2.1", "1.2.3 (the default, 1.3.1, crashes (SIGBUS) while it loads some files of toolkit 1.2)"),
        ('[options]\nruntime = "1.2.0"\n', "1.1.4", "1.2.0 (its card says so)"),
    ],
)
def test_show_and_doctor_say_which_version_and_why(
    deep: Callable[..., Path], capsys: pytest.CaptureFixture[str], options: str, toolkit: str, says: str
) -> None:
    deep(options, toolkit=toolkit)
    assert main(["show", "deep"]) == 0
    assert re.search(rf"^runtime +{re.escape(says)}$", capsys.readouterr().out, re.MULTILINE)
    assert main(["show", "--json", "deep"]) == 0
    assert json.loads(capsys.readouterr().out)["runtime"] == says
    main(["doctor", "--model", "deep", "--json"])
    checks = {check["name"]: check["fact"] for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["models"].endswith(f", runtime {says}")
    assert checks["runtime"].endswith(", and beside it 1.2.3, 1.2.0")


@pytest.mark.parametrize("by_owner", [False, True])
def test_show_tells_what_is_known_against_the_version(
    deep: Callable[..., Path], tmp_path: Path, library: Library, capsys: pytest.CaptureFixture[str], by_owner: bool
) -> None:
    """Unless the owner chose it, who knows."""
    folders.set_default(tmp_path / "lib", folders.put(tmp_path / "lib", library, "1.3.0").name)
    for release in ("1.3.1", "1.2.3", "1.2.0"):
        (tmp_path / "lib/runtimes" / f"librkllmrt-{release}.so").unlink()
    deep('[options]\nruntime = "1.3.0"\n' if by_owner else "", toolkit="1.2.2")
    assert main(["show", "deep"]) == 0
    told = capsys.readouterr().out
    assert "1.3.0 (its card says so)" in told if by_owner else "1.3.0 (the only one installed)" in told
    assert ("runtime 1.3.0 misses the end token of files of toolkits 1.2.2 and 1.2.3" in told) is not by_owner


def test_show_and_doctor_name_the_version_that_is_missing(
    deep: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    deep('[options]\nruntime = "1.2.2"\n')
    assert main(["show", "deep"]) == 0
    says = "wants runtime 1.2.2, and installed are only: 1.3.1, 1.2.3, 1.2.0."
    assert says in capsys.readouterr().out
    assert main(["doctor", "--model", "deep", "--json"]) == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert checks["models"]["level"] == "fail"
    assert says in checks["models"]["fact"]


def test_show_tells_what_selftest_has_measured(deep: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    card = deep()
    assert main(["show", "deep"]) == 0
    assert "\nmeasured " not in capsys.readouterr().out
    known = {
        "runtime": "1.2.3",
        "end_tokens": [7, 8],
        "logits_rows": [1],
        "temperature_zero_is_greedy": False,
        "abort_in_prefill_seconds": 1.3,
    }
    card.with_name("selftest.json").write_text(json.dumps({"m.rkllm": known, "other.rkllm": {"end_tokens": [9]}}))
    assert main(["show", "deep"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("measured ")]
    assert line.removeprefix("measured").strip().split(", ") == [
        *("answers end by token 7", "8", "rows of logits for 8 tokens: 1", "temperature 0 is greedy: no"),
        "an abort in a long prompt took 1.3 s (runtime 1.2.3)",
    ]


def test_show_says_nothing_of_runtimes_where_none_is_installed(
    deep: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep()
    monkeypatch.setenv("EXO_RKLLM_RUNTIME_LIBRARY", str(tmp_path / "none.so"))
    assert main(["show", "deep"]) == 0
    assert "\nruntime " not in capsys.readouterr().out


def test_first_that_works_is_best_unless_the_present_one_does() -> None:
    trials = [RuntimeTrial("1.3.1", bad("no", "")), RuntimeTrial("1.2.3", good("")), RuntimeTrial("1.2.0", good(""))]
    assert best(trials, "") == "1.2.3"
    assert best(trials, "1.2.0") == "1.2.0"
    assert best(trials, "1.3.1") == "1.2.3"
    assert best(trials[:1], "1.3.1") == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (" \n", "nothing"),
        ("[PAD151935]" * 20, r"[PAD151935] again"),
        ("ok <unk><unk> <unk>", "<unk> again"),
        ("A lamp " + "the the " * 20, "the again"),
        ("!" * 64, "! again"),
        ("\ufffd\ufffd\ufffda", "no text"),
    ],
)
def test_babble_is_told_from_an_answer(text: str, says: str) -> None:
    assert says in babble(text)


@pytest.mark.parametrize(
    "text",
    [
        "Yes.",
        "A lamp turns, and a lens throws its light far over the sea.",
        "<think>\nOkay, so",
        "灯塔用光来引导船只。",
    ],
)
def test_answer_is_no_babble(text: str) -> None:
    assert babble(text) == ""
