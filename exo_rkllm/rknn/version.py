"""Which release a librknnrt.so is, told from its bytes alone: nothing of it is loaded or called."""

from __future__ import annotations

import re

from exo_rkllm.errors import RuntimeMissing, RuntimeUnsupported
from exo_rkllm.rknn import abi
from exo_rkllm.runtime import version
from exo_rkllm.runtime.version import StrPath

# The vendor's x86-64 build of the same interface, part of its toolkit, calls itself librknn_api.
STRING = re.compile(rb"librknn(?:rt|_api) version: ([0-9][0-9A-Za-z.]*)")
NUMBERS = re.compile(r"(\d+)\.(\d+)")
INSTALL_HINT = "exo-rkllm runtime --install FILE puts the vendor's librknnrt.so for aarch64 in place"


def is_librknnrt(path: StrPath) -> bool:
    """Whether a file says that it is a release of this library, supported or not."""
    try:
        with version.mapped(path, INSTALL_HINT) as data:
            return STRING.search(data) is not None
    except RuntimeMissing:
        return False


def check(path: StrPath, *, for_board: bool = False) -> str:
    """The release of a file that this program supports and this interpreter can load; anything else raises.

    `for_board` takes the boards' own machine as well: an image for a board is often built elsewhere.
    """
    with version.mapped(path, INSTALL_HINT) as data:
        version.check_elf(path, data, (version.BOARD,) if for_board else (), INSTALL_HINT)
        match = STRING.search(data)
        release = match[1].decode() if match else ""
    if not release:
        raise RuntimeUnsupported(f"{path} does not say which release of librknnrt it is.", INSTALL_HINT)
    numbers = NUMBERS.match(release)
    if numbers is None or not abi.FIRST <= (int(numbers[1]), int(numbers[2])) < abi.BEFORE:
        raise RuntimeUnsupported(
            f"{path} is librknnrt {release}, which is not supported; supported are 1.6.0 to 2.x.", INSTALL_HINT
        )
    return release
