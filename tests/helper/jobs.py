"""What a test's helper process does: a stranger's program in one word."""

from __future__ import annotations

import os
import resource
import signal
import time
from typing import Any

from exo_rkllm.errors import TemplateError


def do(what: str, argument: Any = 0) -> str:
    if what == "repr":
        return repr(argument)
    if what == "sleep":
        time.sleep(argument)
    elif what == "spin":
        while True:
            pass
    elif what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "memory":
        return str(len(bytearray(argument)))
    elif what == "long":
        return "x" * int(argument)
    elif what == "refuse":
        raise TemplateError("It refuses.", "Ask otherwise.")
    elif what == "fail":
        raise ValueError("odd")
    elif what == "descriptors":
        return " ".join(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no pathlib in a helper
    elif what == "write":
        with open(f"/tmp/helper-{os.getpid()}", "wb") as file:  # noqa: PTH123 - only to see it refused
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            file.write(b"x")
    elif what == "limits":
        names = ("RLIMIT_AS", "RLIMIT_CPU", "RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_CORE")
        return " ".join(str(resource.getrlimit(getattr(resource, name))[0]) for name in names)
    return what
