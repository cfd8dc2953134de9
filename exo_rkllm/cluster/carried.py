"""Where the Debian package keeps eclipse-zenoh, which no release has a package of: off every path but ours."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

CARRIED = Path("/usr/lib/exo-rkllm/vendor")


def zenoh_is_there(carried: Path = CARRIED) -> bool:
    """One that pip installed stands first in the path and is taken; the package's own is for those who have none."""
    if carried.is_dir() and str(carried) not in sys.path:
        sys.path.append(str(carried))
    return importlib.util.find_spec("zenoh") is not None
