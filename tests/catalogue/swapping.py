"""Verbs that root runs in a folder of another account, which swaps everything in it for links meanwhile.

`python -m tests.catalogue.swapping FOLDER TRIES` prints how many tries ended how, as JSON. Each try is a process, since
a verb may give up root for good. FOLDER is root's; what may not change lies in FOLDER/protected.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import itertools
import json
import os
import random
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path

from exo_rkllm import privileges
from exo_rkllm.catalogue.importing import import_
from exo_rkllm.catalogue.store import Catalogue
from exo_rkllm.cli import main
from exo_rkllm.errors import ExoRkllmError
from exo_rkllm.runtime.install import install
from exo_rkllm.runtime.install import remove as drop

SERVICE = 65534
AT_ONCE = 3


def forked(work: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            work()
            code = 0
        except ExoRkllmError:
            code = 1
        except OSError:
            code = 2
        finally:
            os._exit(code)
    return pid


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def ended(verb: str, pid: int) -> str:
    return f"{verb} {wait(pid)}"


def become_service() -> None:
    os.setgroups([])
    os.setresgid(SERVICE, SERVICE, SERVICE)
    os.setresuid(SERVICE, SERVICE, SERVICE)


def swap_for_ever(state: Path, protected: Path) -> None:
    """What an intruder in the service would do: any name in its folders may become a link at any moment."""
    become_service()
    os.chdir(state)
    for number in itertools.count():
        time.sleep(random.random() * 0.003)
        folder = Path("models" if number % 16 else ".")
        with contextlib.suppress(OSError):
            for path in list(folder.iterdir()):
                if not path.name.startswith("own") and (path.name.startswith(".") or folder.name != "models"):
                    with contextlib.suppress(OSError):
                        swap(path, protected, number)


def swap(path: Path, protected: Path, number: int) -> None:
    if number % 3 == 0:  # files in a hidden folder
        for file in (path / name for name in ("model.toml", "m.rkllm", "tokenizer_config.json", ".lock")):
            with contextlib.suppress(OSError):
                file.rename(path / f"own-{file.name}")
            with contextlib.suppress(OSError):
                file.symlink_to(protected / "canary")
        return
    path.rename(f"own{number}")
    path.symlink_to(protected)
    if path.parent.name != "models" or number % 3 == 1:  # and back, in the middle of the verb
        path.unlink()
        Path(f"own{number}").rename(path)


def tries(base: Path, number: int) -> Counter[str]:
    state, models = base / "state", base / "state/models"
    source, library = base / "source", base / "librkllmrt.so"

    def import_model() -> None:
        async def run() -> None:
            async for _ in import_(Catalogue(models), source, name="m"):
                pass

        asyncio.run(run())

    def remove() -> None:
        if main(["rm", "m", "--models", str(models)]):
            raise ExoRkllmError("refused")

    def install_library() -> None:
        install(str(library), state / "lib", "", lambda _done, _total: None)

    def drop_library() -> None:
        drop(state / "lib", "1.3.0")

    verbs = {"import": import_model, "rm": remove, "install": install_library, "drop": drop_library}
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        ends: Counter[str] = Counter()
        warm_up(verbs, state, source / "m.rkllm")
        attacker = forked(lambda: swap_for_ever(state, base / "protected"))
        try:
            running: deque[tuple[str, int]] = deque()
            for verb in itertools.islice(itertools.cycle(["import", "rm", "install", "rm", "drop", "install"]), number):
                running.append((verb, forked(verbs[verb])))
                if len(running) == AT_ONCE:
                    ends[ended(*running.popleft())] += 1
            ends.update(itertools.starmap(ended, running))
        finally:
            os.kill(attacker, signal.SIGKILL)
            wait(attacker)
    return ends


def warm_up(verbs: dict[str, Callable[[], None]], state: Path, model: Path) -> None:
    """Imports what the verbs import, since this Python may be in root's home. The model stays root's own."""
    for verb in ("import", "rm", "install"):
        verbs[verb]()
    privileges._check_python = lambda _uid, _folder: None  # type: ignore[assignment]  # nothing is imported any more
    for path in [state, *state.rglob("*")]:
        os.lchown(path, SERVICE, SERVICE)
    os.chown(model, 0, 0)
    gc.freeze()


if __name__ == "__main__":
    sys.stdout.write(json.dumps(tries(Path(sys.argv[1]), int(sys.argv[2]))))
