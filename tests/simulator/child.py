"""One load and one run in a process of their own, for what ends processes: `python -m tests.simulator.child`.

Tells on stderr what happened, since stdout belongs to the library.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tests.simulator.raw import Event, Runtime


def tell(*words: object) -> None:
    sys.stderr.write(" ".join(map(str, words)) + "\n")
    sys.stderr.flush()


def main(version: str, library: str, model: str, *steps: str) -> None:
    runtime = Runtime(Path(library), version)
    handle: int | None = None

    def on_event(event: Event) -> int:
        tell("event", event.state, event.text)
        return 0

    runtime.on_event = on_event
    for step in steps:
        if step == "init":
            status, opened = runtime.init(runtime.param(model))
            handle = handle or opened
            tell("init", status)
        elif step == "run":
            tell("run", runtime.ask(handle).status)
        elif step == "destroy":
            tell("destroy", runtime.lib.rkllm_destroy(handle))
        elif step == "vanish":
            os._exit(0)  # leaves stdio's buffers behind
        else:
            model = step


if __name__ == "__main__":
    main(*sys.argv[1:])
