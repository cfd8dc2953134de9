"""Client libraries themselves, each installed from its registry into a folder of its own, against the daemon.

They bring hundreds of packages, so TESTS_LONG=1 runs them; docs/clients.md says which versions were seen when. A
program in `programs/` gets the daemon's address and the runtime's version, fails by its exit status, and prints the
version of its library.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import openai
import pytest

from tests.clients.conftest import Service

PROGRAMS = Path(__file__).parent / "programs"
BUILT = Path(__file__).parent.parent.parent / "build/clients"
# What each program is installed with.
PACKAGES = {
    "instructor_tools.py": ("instructor",),
    "langchain_openai_chat.py": ("langchain-openai",),
    "litellm_completion.py": ("litellm",),
    "pydantic_ai_agent.py": ("pydantic-ai-slim[openai]",),
    "lm_eval_tasks.py": ("lm_eval[api]", "transformers"),
    "openai_node.mjs": ("openai",),
    "ai_sdk.mjs": ("ai", "@ai-sdk/openai-compatible", "zod"),
    "ollama_api.go": ("github.com/ollama/ollama/api",),
}


def run(command: Sequence[str | Path], folder: Path, seconds: float = 1200.0) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def installed(program: str) -> list[str | Path]:
    """The command that runs the program, once its packages are there."""
    folder, packages = BUILT / program.partition(".")[0], PACKAGES[program]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = folder / ".installed"
        there = stamp.exists() and stamp.read_text() == repr(packages)
        kind = Path(program).suffix
        shutil.copy(PROGRAMS / program, folder / ("main.go" if kind == ".go" else program))
        if kind == ".py":
            if not there:
                run([sys.executable, "-m", "venv", "venv"], folder)
                run(["venv/bin/pip", "install", "-q", "--disable-pip-version-check", *packages], folder)
            command: list[str | Path] = [folder / "venv/bin/python", folder / program]
        elif kind == ".mjs":
            if not there:
                run(["npm", "install", "--no-audit", "--no-fund", "--prefix", ".", *packages], folder)
            command = ["node", folder / program]
        else:
            if not there:
                (folder / "go.mod").unlink(missing_ok=True)
                run(["go", "mod", "init", "program"], folder)
                run(["go", "get", *(f"{package}@latest" for package in packages)], folder)
            run(["go", "build", "-o", "program", "."], folder)
            command = [folder / "program"]
        stamp.write_text(repr(packages))
    return command


@pytest.mark.skipif(not os.environ.get("TESTS_LONG"), reason="it installs a client library: TESTS_LONG=1 runs it")
@pytest.mark.parametrize("program", PACKAGES)
def test_client_library_is_answered(service: Service, program: str) -> None:
    tool = {".mjs": "npm", ".go": "go"}.get(Path(program).suffix)
    if tool is not None and shutil.which(tool) is None:
        pytest.skip(f"no {tool} on this machine")
    version = run([*installed(program), service.url, service.runtime], BUILT / program.partition(".")[0], 300).split()[
        -1
    ]
    print(f"{program}: {version} on runtime {service.runtime}")  # noqa: T201 - with -s, for docs/clients.md


def test_every_program_is_installed_by_a_row() -> None:
    assert {path.name for path in PROGRAMS.iterdir() if path.is_file()} == PACKAGES.keys()


def test_openai_client_walks_over_the_habits(service: Service) -> None:
    client = openai.OpenAI(base_url=f"{service.url}/v1", api_key="any")
    assert "qwen3-4b" in [model.id for model in client.models.list()]
    answer = client.chat.completions.create(
        model="qwen3-4b",
        messages=[{"role": "user", "content": "hi"}],
        seed=1,
        temperature=0.3,
        logprobs=True,
        top_logprobs=5,
        logit_bias={"1": 1},
        reasoning_effort="low",
    )
    assert answer.choices[0].message.content == "Hello there."
    response = client.responses.create(model="qwen3-4b", input="hi", truncation="auto")
    listed = client.responses.input_items.list(response.id)
    assert [item.type for item in listed] == ["message"]
    assert client.responses.input_tokens.count(model="qwen3-4b", input="hi").input_tokens > 5
