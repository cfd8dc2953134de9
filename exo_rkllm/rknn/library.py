"""librknnrt, opened: its release, and its functions with their types."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

from exo_rkllm.rknn import abi, version
from exo_rkllm.runtime.library import Function, bind, open_failure
from exo_rkllm.runtime.version import StrPath


class EncoderLibrary:
    """One librknnrt.so in this process. `functions` has every row of `abi.FUNCTIONS`, by its C name."""

    def __init__(self, path: str, release: str, functions: Mapping[str, Function]) -> None:
        self.path = path
        self.release = release
        self.functions = functions

    @classmethod
    def open(cls, path: StrPath) -> EncoderLibrary:
        """Tell the release from the file's bytes, then load it."""
        path = os.path.abspath(path)  # noqa: PTH100 - a model's process does without pathlib's 0.7 MB
        release = version.check(path)
        try:
            dll = ctypes.CDLL(path)
        except OSError as error:
            raise open_failure(path, str(error)) from error
        functions = bind(dll, abi.FUNCTIONS, path, f"librknnrt {release}", version.INSTALL_HINT)
        return cls(path, release, functions)
