"""The check of the committed figures: it fails for what is worse twice, and not for one bad minute."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from bench import check, results
from bench.work import counting

Figures = Mapping[str, float]
GOOD: Figures = {"a token": 100.0, "a request": 1000.0}
SLOW: Figures = {**GOOD, "a token": 126.0}
OTHER: Figures = {**GOOD, "a request": 1300.0}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The check over these tries, against GOOD; how many it took."""
    file = tmp_path / "results.json"
    file.write_text(json.dumps({results.python(): {"figures": GOOD, "machine": "one"}}))
    monkeypatch.setattr(results, "FILE", file)

    def check_all(*tries: Figures) -> int:
        left = list(tries)
        monkeypatch.setattr(check, "measure", lambda: left.pop(0))
        check.main()
        return len(tries) - len(left)

    return check_all


def test_good_figures_pass_at_once(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run({**GOOD, "a token": 124.0, "something new": 7.0}) == 1
    assert "1.24" in capsys.readouterr().out


def test_one_bad_try_is_not_the_change(run: Callable[..., int]) -> None:
    assert run(SLOW, GOOD) == 2
    assert run(SLOW, OTHER, GOOD) == 3
    assert run(SLOW, OTHER, {**GOOD, "something new": 9.0}) == 3


@pytest.mark.parametrize("tries", [(SLOW, SLOW), (SLOW, OTHER, SLOW)])
def test_what_is_worse_twice_fails_with_both_figures(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], tries: tuple[Figures, ...]
) -> None:
    with pytest.raises(SystemExit, match=r"twice: a token.*bench results"):
        run(*tries)
    out = capsys.readouterr().out
    assert out.count("try ") == len(tries)
    assert "126" in out and "100" in out and "1.26" in out


def test_python_without_figures_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(results, "FILE", tmp_path / "none.json")
    check.main()
    assert "no figures" in capsys.readouterr().out


def test_figures_are_written_beside_those_of_other_pythons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"2.7": {"figures": SLOW, "machine": "old"}}))
    monkeypatch.setattr(results, "FILE", file)
    monkeypatch.setattr(results, "measure", lambda: GOOD)
    results.main()
    assert json.loads(file.read_text()).keys() == {"2.7", results.python()}
    assert results.committed() == GOOD


def test_committed_figures_are_those_of_this_tree() -> None:
    """Names that nobody measures any more would be kept for ever."""
    figures = json.loads((Path(results.__file__).parent / "results.json").read_text())
    assert all(results.RATIO in one["figures"] for one in figures.values())


def test_instructions_are_the_same_each_time() -> None:
    def some() -> int:
        return sum(number * number for number in range(100))

    counts = []
    for _ in range(2):
        with counting() as work:
            some()
        counts.append(work.instructions)
    assert counts[0] == counts[1] > 500
