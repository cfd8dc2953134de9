"""The verbs over the catalogue as people use them: what they print, and how they end."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exo_rkllm.catalogue.progress import PullProgress
from exo_rkllm.cli import main, progress
from tests.hub import LocalHub, large

ROOT = Path(__file__).parent.parent.parent
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXO_RKLLM_MODELS_DIRECTORY", str(tmp_path / "models"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / "models"


@pytest.fixture
def run(models: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(one) for one in arguments])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


@pytest.fixture
def served(make_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """The hub on a thread of its own, since the verbs run a loop of theirs."""
    hub = LocalHub()
    model = make_model(reply="hi").read_bytes()
    hub.add(
        "org/qwen3-0.6b-rk3588",
        {"qwen3-0.6b-rk3588-w8a8.rkllm": large(model), "qwen3-0.6b-rk3576-w4a16.rkllm": large(model)},
    )
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(hub.__aenter__(), loop).result(10)
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    yield hub
    asyncio.run_coroutine_threadsafe(hub.__aexit__(None, None, None), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def test_models_in_an_empty_folder_names_the_pull_command(run: Run, models: Path) -> None:
    assert run("models") == (0, f"No models in {models}. To download one: exo-rkllm pull ORG/REPO\n", "")
    assert run("models", "--json") == (0, "[]\n", "")


def test_pulled_model_is_listed_shown_and_removed(run: Run, served: LocalHub, models: Path) -> None:
    code, out, err = run("pull", "org/qwen3-0.6b-rk3588", "--soc", "rk3588")
    assert (code, out) == (0, "")
    assert "qwen3-0.6b-rk3588-w8a8.rkllm: 1 of 2 files fit RK3588, w8a8 is what runs best there" in err
    assert "100%" in err
    assert err.endswith("qwen3-0.6b is ready\n")

    code, out, err = run("models")
    assert (code, err) == (0, "")
    header, line = out.splitlines()
    assert header.split() == ["NAME", "SIZE", "FOR", "CONTEXT", "FROM"]
    assert line.split()[0] == "qwen3-0.6b"
    assert "rk3588 w8a8" in line
    assert line.endswith("org/qwen3-0.6b-rk3588")
    [row] = json.loads(run("models", "--json")[1])
    assert (row["id"], row["platform"]) == ("qwen3-0.6b", "rk3588")

    code, out, _ = run("show", "qwen3")
    assert code == 0
    assert "tools         hermes" in out
    assert "reasoning     think" in out
    assert "stops at      <|im_end|> <|endoftext|>" in out
    assert "prefix reuse" not in out
    assert run("show", "qwen3", "--card")[1].startswith('id = "qwen3-0.6b"\n')
    assert "<|im_start|>" in run("show", "qwen3", "--template")[1]
    assert json.loads(run("show", "qwen3", "--json")[1])["tools"] == "hermes"

    assert run("rm", "qwen3")[0] == 1
    assert run("rm", "qwen3-0.6b", "nothing")[0] == 1
    code, out, _ = run("rm", "qwen3-0.6b")
    assert (code, out.startswith("removed qwen3-0.6b, ")) == (0, True)
    assert list(models.iterdir()) == []


def test_pull_for_a_binned_soc_picks_its_family_file(run: Run, served: LocalHub) -> None:
    code, _, err = run("pull", "org/qwen3-0.6b-rk3588", "--soc", "rk3582")
    assert code == 0
    assert "qwen3-0.6b-rk3588-w8a8.rkllm: 1 of 2 files fit RK3588" in err


def test_pull_with_json_prints_one_object_per_step(run: Run, served: LocalHub) -> None:
    code, out, err = run("pull", "org/qwen3-0.6b-rk3588:w4a16", "--name", "small", "--json")
    steps = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert (steps[-1]["stage"], steps[-1]["id"]) == ("done", "small")


def test_pull_without_a_board_asks_for_the_soc(run: Run, served: LocalHub) -> None:
    code, _, err = run("pull", "org/qwen3-0.6b-rk3588")
    assert code == 1
    assert "several files that would do" in err
    assert "try: Say which: exo-rkllm pull org/qwen3-0.6b-rk3588:qwen3" in err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("pull", "non sense"), 2, "'non sense' is no repository."),
        (("pull", "nonsense"), 1, "There is no short name 'nonsense'."),
        (("import", "/nowhere"), 1, "There is no /nowhere."),
        (("show", "../../etc"), 1, "No model '../../etc' in"),
        (("rm", ".."), 1, "No model '..' in"),
    ],
)
def test_failed_verb_prints_a_sentence_and_a_hint(run: Run, arguments: tuple[str, ...], code: int, says: str) -> None:
    ended, out, err = run(*arguments)
    assert (ended, out) == (code, "")
    assert err.startswith(f"exo-rkllm: {says}")
    assert err.count("\n") == 2


def test_models_lists_imports_and_reports_broken_folders(
    run: Run, models: Path, make_model: Callable[..., Path]
) -> None:
    code, _, err = run("import", make_model(), "--name", "mine", "--offline")
    assert (code, err.splitlines()[-1]) == (0, "mine is ready")
    (models / "bad").mkdir()
    (models / "bad" / "model.toml").write_text('id = "bad"\ncontex = 3\n')
    code, out, err = run("models")
    assert (code, "mine" in out) == (1, True)
    assert err == (f"bad: {models}/bad/model.toml, line 2: there is no key contex.\n  try: Did you mean context?\n")
    assert run("models", "--models", models / "none")[0] == 0


def test_models_lists_models_of_other_engines(run: Run, models: Path) -> None:
    (models / "far").mkdir(parents=True)
    (models / "far" / "model.toml").write_text(
        'id = "far"\nengine = "openai"\nreuse = false\n[options]\nurl = "http://b"\n'
    )
    assert run("models")[1].splitlines()[1].split() == ["far", "-", "openai", "-", "-"]
    shown = run("show", "far")[1]
    assert 'options       url = "http://b"' in shown
    assert "prefix reuse  off" in shown
    assert run("rm", "far")[1] == "removed far\n"


def test_light_verbs_import_nothing_heavy() -> None:
    code = "import sys, exo_rkllm.cli.models, exo_rkllm.cli.rm, exo_rkllm.models; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"aiohttp", "jinja2", "numpy", "asyncio", "pyudev", "ctypes"}


# ── progress ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("width", [20, 40, 60, 79, 100, 200])
def test_progress_line_fits_its_terminal(width: int) -> None:
    step = PullProgress(
        "downloading", "a-very-long-model-name-rk3588-w8a8-opt-0.rkllm", done=760_000_000, total=1_690_000_000
    )
    line = progress.line(step, 11_000_000, width)
    assert len(line) <= max(width, 48)
    assert "45%  760 MB of 1.69 GB  11 MB/s  1:25" in line
    assert ("█" in line) == (width >= 70)


def test_remaining_time_reads_like_a_clock() -> None:
    assert [progress.clock(seconds) for seconds in (0, 59.6, 61, 3600)] == ["0:00", "1:00", "1:01", "1:00:00"]


def test_progress_without_a_terminal_prints_a_line_per_tenth() -> None:
    out = io.StringIO()
    display = progress.Display(out)
    display.show(PullProgress("resolving", "asking"))
    for done in range(0, 1001, 10):
        display.show(PullProgress("downloading", "file", done=done, total=1000))
    display.show(PullProgress("done", "ready"))
    display.clear()
    lines = out.getvalue().splitlines()
    assert (lines[0], lines[-1]) == ("asking", "ready")
    assert len(lines) == 13


def test_speed_of_a_smaller_second_file_counts_from_its_own_start() -> None:
    """Its bytes are fewer than those that the first one began with, which made "-516732632 B/s"."""
    out = io.StringIO()
    display = progress.Display(out)
    for file, total in (("weights", 2_000_000), ("encoder", 5000)):
        for done in (total // 2, total):
            display.show(PullProgress("verifying", file, done=done, total=total))
    assert "-" not in out.getvalue()


def test_progress_on_a_terminal_rewrites_one_line(served: LocalHub, models: Path) -> None:
    """A real terminal of 60 columns: the bar is rewritten in place and never wraps."""
    served.faults.pause = 0.001
    own, other = pty.openpty()
    import fcntl
    import struct
    import termios

    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    child = subprocess.Popen(
        [sys.executable, "-m", "exo_rkllm", "pull", "org/qwen3-0.6b-rk3588", "--soc", "rk3588"],
        cwd=ROOT, stdin=other, stdout=other, stderr=other, env={**os.environ, "COLUMNS": "60"},
    )  # fmt: skip
    os.close(other)
    said = b""
    try:
        while part := os.read(own, 65536):
            said += part
    except OSError:
        pass  # the terminal's other end is closed
    finally:
        os.close(own)
        assert child.wait(30) == 0
    text = said.decode()
    assert "\rpulling" in text
    assert "100%" in text
    assert text.rstrip().endswith("qwen3-0.6b is ready")
    assert all(len(line) <= 60 for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if "%" in line)


# ── search ───────────────────────────────────────────────────────────────────────────────────────


def test_search_lists_what_pull_takes_with_size_and_marks_what_is_here(
    run: Run, served: LocalHub, board: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXO_RKLLM_BOARD_ROOT", str(board("orangepi-5-plus")))
    served.add("org/poet-rkllm", {"poet-rk3576-w4a16.rkllm": large(b"x")}, downloads=7)
    code, out, err = run("search", "rk")
    assert (code, err) == (0, "")
    target = "org/qwen3-0.6b-rk3588:qwen3-0.6b-rk3588-w8a8.rkllm"
    lines = out.splitlines()
    assert lines[0].split() == ["PULL", "SIZE", "QUANTIZED", "FETCHED"]
    assert lines[1].split()[0] == target and "MB" in lines[1]
    assert "Org/poet-rkllm has files for RK3576 only" in out
    assert run("pull", target)[0] == 0
    found = json.loads(run("search", "qwen3", "--json")[1])
    assert [(model["target"], model["id"]) for model in found["models"]] == [(target, "qwen3-0.6b")]
    assert found["soc"] == "rk3588"
    assert run("search", "nothing-of-the-kind") == (
        1,
        "The Hub has no .rkllm file for nothing-of-the-kind. Try fewer words.\n",
        "",
    )


def test_pull_takes_a_short_name_of_the_gallery(run: Run, served: LocalHub) -> None:
    served.repos["GatekeeperZA/Qwen3-1.7B-RKLLM-v1.2.3"] = served.repos["org/qwen3-0.6b-rk3588"]
    assert run("pull", "qwen3:1.7b", "--soc", "rk3588")[0] == 0
    assert [row["id"] for row in json.loads(run("models", "--json")[1])] == ["qwen3-1.7b"]
    assert "is here already" in run("pull", "qwen3:1.7b", "--soc", "rk3588")[2]
    code, _, err = run("pull", "qwen3:1.7b", "--soc", "rk3576")
    assert code == 1
    assert "The short name 'qwen3-1.7b' is for RK3588, and this board is an RK3576." in err
    assert "exo-rkllm search WORDS" in err
