"""`exo-rkllm run` as its user meets it: answers, refusals with their repair, Ctrl-C."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exo_rkllm.cli import main
from tests.cli.terminal import Terminal
from tests.simulated import Library

ANSWER = "the answer of the simulated model"


@pytest.fixture(autouse=True)
def runtime(library: Library, board_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXO_RKLLM_BOARD_ROOT", str(board_root))
    use(monkeypatch, library("1.3.0"))


def use(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    monkeypatch.setenv("EXO_RKLLM_RUNTIME_LIBRARY", str(path))


def test_run_prints_the_answer_to_one_question(
    make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(make_model(reply=ANSWER)), "hello"]) == 0
    out, err = capsys.readouterr()
    assert out == ANSWER + "\n"
    assert err == ""


@pytest.mark.parametrize(
    "words",
    [
        ["--max-tokens", "2", "MODEL", "hello there"],
        ["MODEL", "--max-tokens", "2", "hello there"],
        ["MODEL", "hello", "--max-tokens", "2", "there"],
        ["MODEL", "hello", "there", "--max-tokens", "2"],
        ["MODEL", "--max-tokens", "2", "--", "hello", "there"],
    ],
)
def test_flags_may_stand_between_positional_words(
    make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    model = str(make_model(reply="{user}", template="none"))
    assert main(["run", *(model if word == "MODEL" else word for word in words)]) == 0
    assert capsys.readouterr().out == "hello there\n"


def test_verbose_prints_runtime_lines_and_figures(
    make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model = make_model(reply=ANSWER, decode_tps=1000, prefill_tps=1000)
    assert main(["run", str(model), "hello", "--verbose"]) == 0
    err = capsys.readouterr().err
    assert "SIMULATOR" in err
    assert "eval rate:" in err
    assert "prompt eval count:" in err


def test_json_prints_one_object_per_event(make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(make_model(reply=ANSWER)), "hello", "--json"]) == 0
    *pieces, last = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert "".join(piece["text"] for piece in pieces) == ANSWER
    assert last["finish"]["reason"] == "stop"
    assert last["finish"]["usage"]["completion"] == len(pieces)


def test_sampling_flags_reach_the_runtime(make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model(reply="[[a|b|c|d|e|f|g|h]] " * 12)
    answers = set()
    for _ in range(2):
        assert main(["run", str(model), "x", "--temperature", "0", "--max-tokens", "12"]) == 0
        answers.add(capsys.readouterr().out)
    assert len(answers) == 1


def test_older_runtime_takes_sampling_flags_at_load(
    make_model: Callable[..., Path],
    library: Library,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(monkeypatch, library("1.2.3"))
    assert main(["run", str(make_model(reply=ANSWER)), "x", "--temperature", "0.1", "--max-tokens", "2"]) == 0
    assert ANSWER.startswith(capsys.readouterr().out.rstrip("\n"))


def test_older_runtime_takes_sampling_flags_for_a_catalogue_model(
    make_model: Callable[..., Path],
    library: Library,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(monkeypatch, library("1.2.3"))
    folder = tmp_path / "models" / "demo"
    folder.mkdir(parents=True)
    make_model(reply=ANSWER).rename(folder / "m.rkllm")
    (folder / "model.toml").write_text(
        'id = "demo"\n[weights]\nfile = "m.rkllm"\n[sampling]\ntop_k = 5\n[options]\nruntime_template = true\n'
    )
    monkeypatch.setenv("EXO_RKLLM_MODELS_DIRECTORY", str(folder.parent))
    assert main(["run", "demo", "x", "--temperature", "0.1", "--context", "600"]) == 0
    assert capsys.readouterr().out == ANSWER + "\n"
    assert "600" in refused(capsys, "demo", "word " * 700, "--context", "600")


def refused(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 1) -> str:
    """One sentence and one hint, and nothing of a stack trace; returns both."""
    assert main(["run", *argv]) == code
    err = capsys.readouterr().err
    lines = err.strip().splitlines()
    assert len(lines) == 2, err
    assert lines[0].startswith("exo-rkllm: ")
    assert lines[0].endswith(".")
    assert lines[1].startswith("  try: ")
    return err


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no file"),
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "LFS"),
        (b"<!DOCTYPE html><html>not found</html>", "web page"),
        (b"GGUF" + b"\x03\0\0\0" * 400000, "GGUF"),
        (b"\x7fELF" + bytes(2 << 20), "not a .rkllm"),
    ],
)
def test_run_refuses_a_file_that_is_not_a_model(
    content: bytes | None, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "some.rkllm"
    if content is not None:
        path.write_bytes(content)
    assert says in refused(capsys, str(path), "x")


def test_run_refuses_a_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is a directory" in refused(capsys, str(tmp_path), "x")


def test_run_refuses_a_truncated_file(make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    model = make_model()
    os.truncate(model, 1_200_000)
    refused(capsys, str(model), "x")


def test_run_refuses_an_unknown_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EXO_RKLLM_MODELS_DIRECTORY", str(tmp_path))
    assert "nosuchmodel" in refused(capsys, "nosuchmodel", "x")


def test_run_refuses_a_model_for_another_soc(
    make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused(capsys, str(make_model(platform="RK3576", npu_cores=2)), "x")
    assert "RK3588" in text


def test_run_on_an_unsupported_soc_says_that_no_file_fits(
    make_model: Callable[..., Path],
    make_board: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for variable in ("EXO_RKLLM_BOARD_ROOT", "RKLLM_SIM_ROOT"):
        monkeypatch.setenv(variable, str(make_board("rk3566")))
    text = refused(capsys, str(make_model()), "x")
    assert "RK3566) cannot run RKLLM models." in text
    assert "RKLLM runs on RK3588" in text
    assert "RK3566) cannot run" in inspected(capsys, str(make_model()))


def inspected(capsys: pytest.CaptureFixture[str], path: str) -> str:
    main(["inspect", path])
    return capsys.readouterr().out


def test_run_refuses_a_model_newer_than_the_runtime(
    make_model: Callable[..., Path],
    library: Library,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(monkeypatch, library("1.2.3"))
    text = refused(capsys, str(make_model(toolkit="1.3.0")), "x")
    assert "1.3.0" in text
    assert "exo-rkllm runtime --install" in text


def test_run_refuses_a_context_over_the_limit(
    make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused(capsys, str(make_model(max_context=2048)), "x", "--context", "4096")
    assert "2048" in text


def test_run_refuses_a_prompt_longer_than_the_context(
    make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "token" in refused(capsys, str(make_model()), "word " * 5000)


def test_run_explains_missing_memory(
    make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RKLLM_SIM_NPU_BYTES", "1000000")
    assert "memory" in refused(capsys, str(make_model(npu_bytes=8 << 30)), "x")


def test_run_explains_a_library_that_dies_of_missing_memory(
    make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "There is not enough RAM for" in refused(capsys, str(make_model(malloc_bytes=1 << 50)), "x")


@pytest.mark.parametrize("version", ["1.0.1", "9.9.0"])
def test_run_refuses_an_unknown_runtime(
    version: str,
    make_model: Callable[..., Path],
    library: Library,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(monkeypatch, library(version))
    text = refused(capsys, str(make_model()), "x")
    assert version in text
    assert "1.3.1" in text


def test_run_refuses_a_runtime_for_another_machine(
    make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "librkllmrt.so"
    foreign.write_bytes(
        b"\x7fELF\x02\x01\x01" + bytes(9) + (3).to_bytes(2, "little") + (243).to_bytes(2, "little") + bytes(2000)
    )
    use(monkeypatch, foreign)
    refused(capsys, str(make_model()), "x")


def test_run_refuses_a_file_that_is_not_a_runtime(
    make_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, tmp_path / "nothing.so")
    refused(capsys, str(make_model()), "x")


def test_run_explains_an_unreadable_library(
    make_model: Callable[..., Path],
    library: Library,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As somebody who may not read it; root may, so a test that runs as root is nobody for a moment."""
    model = str(make_model())
    main(["run", model, "x"])
    copy = tmp_path / "librkllmrt.so"
    copy.write_bytes(library("1.3.0").read_bytes())
    copy.chmod(0)
    use(monkeypatch, copy)
    capsys.readouterr()
    user = os.geteuid()
    os.seteuid(user or 65534)
    try:
        assert "Permission denied" in refused(capsys, model, "x")
    finally:
        os.seteuid(user)


def test_run_explains_a_board_without_driver(
    make_board: Callable[..., Path],
    make_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RKLLM_SIM_ROOT", str(make_board("rk3588", driver="")))
    assert "driver" in refused(capsys, str(make_model()), "x")


def test_nonsensical_limit_is_a_usage_error(
    make_model: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, str(make_model()), "x", "--max-tokens", "0", code=2)


# ── in a terminal ────────────────────────────────────────────────────────────────────────────────


def test_conversation_remembers_and_ends_with_bye(
    make_model: Callable[..., Path], terminal: Callable[..., Terminal]
) -> None:
    chat = terminal("run", str(make_model(reply="you said {user}")))
    chat.until(">>> ")
    chat.type("first\n")
    chat.until("you said first")
    chat.until(">>> ")
    chat.type("second\n")
    chat.until("you said second")
    chat.until(">>> ")
    chat.type("/bye\n")
    assert chat.process.wait(10) == 0


def test_ctrl_c_stops_the_answer_but_not_the_program(
    make_model: Callable[..., Path], terminal: Callable[..., Terminal]
) -> None:
    chat = terminal("run", str(make_model(reply="go on " * 300, rules=(("short", "done"),), decode_tps=50)))
    chat.until(">>> ")
    chat.type("long\n")
    chat.until("go on go on")
    chat.type("\x03")
    chat.until("stopped")
    chat.until(">>> ")
    chat.type("short\n")
    chat.until("done")
    chat.until(">>> ")
    chat.type("\x03")
    chat.until("Ctrl-D ends")
    chat.type("\x04")
    assert chat.process.wait(10) == 0


def test_ctrl_c_during_loading_ends_the_program(
    make_model: Callable[..., Path], terminal: Callable[..., Terminal]
) -> None:
    chat = terminal("run", str(make_model(load_seconds=30)), "hello")
    chat.until("loading")
    chat.type("\x03")
    began = time.monotonic()
    assert chat.process.wait(10) == 130
    assert time.monotonic() - began < 1.5, "on a board 0.3 s; the library's load takes 30 s"


def test_crash_in_a_conversation_is_reported_and_ends_it(
    make_model: Callable[..., Path], terminal: Callable[..., Terminal]
) -> None:
    chat = terminal("run", str(make_model(reply="one two three four", faults=("segv@token:2",))))
    chat.until(">>> ")
    chat.type("hello\n")
    chat.until("killed by SIGSEGV")
    assert "\r\nexo-rkllm: " in chat.screen  # the reason stands on a line of its own
    assert chat.process.wait(10) == 1
