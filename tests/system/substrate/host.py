"""Commands on this machine. What fails says what it said, since a system test's reader has nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
# A user's PATH may have another Python or another tar first; these tests are about Debian's.
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
TAIL = 40


class Broken(Exception):
    """Something that the tests stand on does not stand: they fail, and never skip."""


def environment(**more: str) -> Mapping[str, str]:
    kept = {name: os.environ[name] for name in os.environ if name.lower().endswith("_proxy")}
    return {"PATH": PATH, "HOME": os.environ.get("HOME", "/root"), "LC_ALL": "C.UTF-8", **kept, **more}


def run(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None, stdin: str = "") -> str:
    words = [str(word) for word in command]
    if shutil.which(words[0], path=PATH) is None:
        raise Broken(f"{words[0]} is not on this machine: sudo tools/setup system")
    done = subprocess.run(words, cwd=cwd, env=env or environment(), input=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-TAIL:])
        raise Broken(f"{shown(words)} ended with {done.returncode}:\n{said}")
    return done.stdout


def in_own_mounts(script: str, *arguments: str | Path, env: Mapping[str, str] | None = None) -> str:
    """A shell script whose mounts nobody else sees and which are gone when it ends, however it ends."""
    return run("unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh", *arguments, env=env)


def shown(words: Sequence[str]) -> str:
    line = " ".join(words)
    return line if len(line) < 300 else line[:300] + " ..."
