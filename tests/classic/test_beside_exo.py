"""`NpuBuilder` in exo's own runner, where `EXO_PYTHON` names a Python that has current exo and what this package needs.

EXO_PYTHON=.../bin/python .venv/bin/python -m pytest tests/classic/test_beside_exo.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.classic.test_exo_engine import picture_of, seeing

REPOSITORY = Path(__file__).parent.parent.parent
PYTHON = os.environ.get("EXO_PYTHON", "")
pytestmark = pytest.mark.skipif(not PYTHON, reason="EXO_PYTHON names no Python with exo")

STEPS = "Idle Loading Loaded WarmingUp Ready Running Ready ShuttingDown Shutdown"


def run(tmp_path: Path, model: str, *questions: dict[str, Any]) -> Any:
    (tmp_path / "dashboard").mkdir()
    (tmp_path / "dashboard/index.html").touch()
    ours = {
        "PYTHONPATH": str(REPOSITORY),
        "EXO_HOME": str(tmp_path / "exo"),
        "EXO_DASHBOARD_DIR": str(tmp_path / "dashboard"),
    }
    command = [PYTHON, str(Path(__file__).with_name("beside_exo.py")), model]
    done = subprocess.run(
        command, input=json.dumps(questions), capture_output=True, text=True, timeout=120, env={**os.environ, **ours}
    )
    if missing := re.search(r"No module named '(jinja2|aiohttp)'", done.stderr):
        pytest.skip(f"{PYTHON} has exo, and not what this package needs: {missing[1]}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def text(heard: dict[str, Any]) -> str:
    return "".join(chunk.get("text", "") for chunk in heard["chunks"])


def test_exos_own_runner_answers_with_the_npu(tmp_path: Path, add: Callable[..., str]) -> None:
    add("parrot", reply="you said {user}", decode_tps=100)
    found = run(
        tmp_path,
        "rkllm/parrot",
        {"id": "one", "text": "red apples"},
        {"id": "two", "text": "green pears", "max_output_tokens": 3},
        {"id": "wrong", "text": "x", "min_p": 0.5},
        {"id": "long", "text": "word " * 5000},
        {"id": "gone", "text": "word " * 400, "cancel_after": 3},
        {"id": "last", "text": "the end"},
    )
    heard = found["heard"]
    assert [step.removeprefix("Runner") for step in found["steps"]] == STEPS.split()
    assert "red apples" in text(heard["one"])
    assert heard["one"]["chunks"][-1]["finish_reason"] == "stop"
    assert heard["one"]["chunks"][-1]["stats"]["generation_tokens"] > 0
    assert heard["two"]["chunks"][-1]["finish_reason"] == "length"
    assert "you said x" in text(heard["wrong"]), "a setting that the NPU has not is without effect"
    assert "did not answer] " in text(heard["long"])
    assert "the end" in text(heard["last"])
    assert heard["gone"]["status"] == []
    assert len(heard["gone"]["chunks"]) < 300
    assert all(heard[name]["status"][-1] == "Complete" for name in ("one", "two", "wrong", "long", "last"))


def test_exos_own_runner_shows_the_npu_a_picture(
    tmp_path: Path, add: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeing(add, tmp_path, monkeypatch)
    found = run(tmp_path, "rkllm/seer", {"id": "one", "text": "", **picture_of(b"\xff\0\0")})
    assert text(found["heard"]["one"]) == "I see red. what is this?"
