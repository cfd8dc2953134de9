"""A library that is not the release it says: what our structs then do to it, and that it ends in a sentence.

Nobody can tell 1.2.3 from 1.3.0 but by the string, so a file with the wrong one gets the wrong structs. Each case runs
in a process of its own, as on a board.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.simulated import REPOSITORY, Library

# What the library is, what it says, and how that shows: `refused` before it is loaded, `load` or `run` by the library.
LIES = [
    ("1.3.0", "1.2.3", "load"),
    ("1.2.3", "1.3.0", "load"),
    ("1.3.1", "1.2.0", "load"),
    ("1.2.0", "1.1.4", "load"),
    ("1.1.4", "1.2.0", "refused"),
    ("1.1.4", "1.3.0", "refused"),
    ("1.2.0", "1.2.3", "refused"),
    # The same but for audio, which lies in the zeros behind the input.
    ("1.3.1", "1.3.0", "works"),
    ("1.3.0", "1.3.1", "works"),
]
PROGRAM = """
import json, sys
from exo_rkllm.errors import ExoRkllmError, RuntimeUnsupported
from exo_rkllm.runtime.blackbox import redirected
from exo_rkllm.runtime.session import ImageEmbeds, Library, LoadParams, MultimodalInput, PromptInput, Session

library, model = sys.argv[1:]
heard = []
stage = "refused"
with redirected() as box:
    try:
        opened = Library.open(library)
        stage = "load"
        session = Session.open(opened, LoadParams(model), box)
        stage = "run"
        session.run(PromptInput("hi"), lambda text, *_: heard.append(text))
        session.run(MultimodalInput("<image>", ImageEmbeds(bytes(4 * 64), 1)), lambda text, *_: heard.append(text))
        stage, error = "works", None
        session.close()
    except ExoRkllmError as caught:
        error = caught
print(json.dumps([stage, error and error.sentence, error and error.hint, b"".join(heard).decode()]))
"""


@pytest.mark.parametrize(("is_really", "says", "shows"), LIES)
def test_a_wrong_string_ends_in_a_sentence_and_not_in_a_crash(
    library: Library,
    board_root: Path,
    make_model: Callable[..., Path],
    tmp_path: Path,
    is_really: str,
    says: str,
    shows: str,
) -> None:
    data = library(is_really).read_bytes()
    liar = tmp_path / "librkllmrt.so"
    liar.write_bytes(data.replace(f"(version: {is_really} ".encode(), f"(version: {says} ".encode()))
    model = make_model(reply="ok ", vision=True)
    command = [sys.executable, "-c", PROGRAM, str(liar), str(model)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    stage, sentence, hint, heard = json.loads(done.stdout)
    assert stage == shows, sentence
    if shows == "works":
        assert heard == "ok ok "
    else:
        assert sentence
        assert hint
