"""librknnrt, opened: its release, and its functions with their types."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from typing import TypeAlias

from exo_rkllm.errors import RuntimeUnsupported
from exo_rkllm.rknn import abi, version
from exo_rkllm.runtime.library import open_failure
from exo_rkllm.runtime.version import StrPath

EncoderFunction: TypeAlias = Callable[..., int]


class EncoderLibrary:
    """One librknnrt.so in this process. `functions` has every row of `abi.FUNCTIONS`, by its C name."""

    def __init__(self, path: str, release: str, functions: Mapping[str, EncoderFunction]) -> None:
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
        functions: dict[str, EncoderFunction] = {}
        for name, (restype, argtypes) in abi.FUNCTIONS.items():
            try:
                function = getattr(dll, name)
            except AttributeError as error:
                raise RuntimeUnsupported(
                    f"{path} says it is librknnrt {release} and lacks {name}.", version.INSTALL_HINT
                ) from error
            function.restype = restype
            function.argtypes = argtypes
            functions[name] = function
        return cls(path, release, functions)
