"""Puts the probe on a computer, has the service's unit run it beside the daemon, and brings its report."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.system.substrate.computer import Computer

SOURCE = Path(__file__).with_name("probe.py")
PROBE = "/usr/local/lib/exo-rkllm-probe.py"
DROP_IN = "/run/systemd/system/exo-rkllm.service.d/probe.conf"
TO = "/run/exo-rkllm/probe.json"
FREE = f"STATE_DIRECTORY=/root python3 -I {PROBE} /root/probe.json && cat /root/probe.json"


def names() -> list[str]:
    """What is attempted, from the probe's own text: it cannot be imported, as it is not of these tests' Python."""
    found = re.findall(r'^    yield "([^"]+)"', SOURCE.read_text(), re.MULTILINE)
    return [*found, *(f"raise capability {number}" for number in (1, 7, 21))]


def put(computer: Computer, *, walk: bool = False) -> None:
    """Into the unit's reload, as what PID 1 learns with its next look at units. `walk`: also try every folder, of which
    there are more than an emulated processor likes."""
    computer.run(f"mkdir -p $(dirname {PROBE}) $(dirname {DROP_IN}) && cat > {PROBE}", stdin=SOURCE.read_text())
    line = f"[Service]\nExecReload=/usr/bin/python3 -I {PROBE} {TO} {'--walk' if walk else ''}\n"
    computer.run(f"cat > {DROP_IN}", stdin=line)


def report(computer: Computer) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(
        computer.run(f"systemctl reload exo-rkllm && cat {TO} && rm {TO}", timeout=120)
    )
    return found
