"""The shared object, opened once its release is known, with every function's types set from the generation's table."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from exo_rkllm.errors import NotSupported, RuntimeMissing
from exo_rkllm.runtime import abi
from exo_rkllm.runtime.version import check, read

# What the loader says when it refuses, and what repairs it (reference 4.5).
LOADER: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"libgomp\.so\.1"), "sudo apt install libgomp1"),
    (re.compile(r"libstdc\+\+\.so\.6: cannot open"), "sudo apt install libstdc++6"),
    (re.compile(r"(?:GLIBC|GLIBCXX|CXXABI)_\S+. not found"), "It needs Debian 11, Ubuntu 20.04 or newer"),
    (re.compile(r"libomp\.so"), "This is the Android build; take the one for Linux aarch64"),
    (re.compile(r"undefined symbol"), "The file is damaged: exo-rkllm runtime --install FILE"),
)


class Library:
    """One loaded librkllmrt of a known release."""

    def __init__(self, path: Path, release: str) -> None:
        self.path = path
        self.release = release
        self.layout: ModuleType = abi.layout(release)
        try:
            self._handle = ctypes.CDLL(str(path))
            self.functions = {name: self._bind(name, *types) for name, types in self.layout.SIGNATURES.items()}
        except (OSError, AttributeError) as error:
            hint = next(
                (hint for pattern, hint in LOADER if pattern.search(str(error))), "exo-rkllm runtime --install FILE"
            )
            raise RuntimeMissing(f"{path} cannot be loaded: {error}.", hint) from error

    @classmethod
    def open(cls, path: Path) -> Library:
        """Version first, library second: nothing of an unknown release is ever mapped."""
        binary = read(path)
        check(binary)
        return cls(path, binary.version)

    def _bind(self, name: str, result: Any, arguments: tuple[Any, ...]) -> Any:
        function = self._handle[name]
        function.restype, function.argtypes = result, arguments
        return function

    def supports(self, feature: str) -> bool:
        return abi.supports(self.release, feature)

    def need(self, feature: str, what: str = "") -> None:
        if not self.supports(feature):
            raise NotSupported(
                f"{what or feature[0].upper() + feature[1:]} is not supported by runtime {self.release}:"
                f" needs {abi.SINCE[feature]} or newer.",
                "exo-rkllm runtime --install FILE with a newer librkllmrt.so",
            )

    def features(self) -> list[str]:
        return [feature for feature in abi.SINCE if self.supports(feature)]
