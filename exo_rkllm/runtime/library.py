"""The vendor's library, opened: its release, what it can do, and its functions with their types."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

from exo_rkllm.errors import ExoRkllmError, RuntimeMissing, RuntimeUnsupported
from exo_rkllm.runtime import abi, version
from exo_rkllm.runtime.abi.shared import Generation, Signatures
from exo_rkllm.runtime.features import Features
from exo_rkllm.runtime.version import StrPath, Version

Function: TypeAlias = Callable[..., int]

# What dlopen says, and what repairs it (reference 4.5).
OPEN_FAILURES: tuple[tuple[str, str, str], ...] = (
    (r"libgomp\.so\.1: cannot open", "needs libgomp.so.1, which is not installed", "apt install libgomp1"),
    (r"libstdc\+\+\.so\.6: cannot open", "needs libstdc++.so.6, which is not installed", "apt install libstdc++6"),
    (r"libomp\.so: cannot open", "is the Android build (it needs libomp.so)",
     "exo-rkllm runtime --install FILE with the library for Linux aarch64"),
    (r"(\S+\.so\S*): cannot open shared object file", "needs {0}, which is not installed", "apt-file search {0}"),
    (
        r"version `(\S+)' not found",
        "needs {0}, and this system is older",
        "Use Debian 11, Ubuntu 20.04 or newer, or an older librkllmrt",
    ),
    (
        r"wrong ELF class|Exec format error|invalid ELF header",
        "is not built for this system",
        "exo-rkllm runtime --install FILE with the aarch64 library on a 64-bit system",
    ),
    (r"cannot apply additional memory protection|Permission denied|failed to map", "may not be mapped here: {text}",
     "Check that its file system is not mounted noexec: findmnt -T {path}"),
)  # fmt: skip


class Library:
    """One librkllmrt.so in this process. `functions` has every one of the generation's, by its C name."""

    def __init__(self, path: str, found: Version, generation: Generation, dll: ctypes.CDLL) -> None:
        self.path = path
        self.version = found.release
        self.generation = generation
        self.features = Features(found.release)
        self.functions = bind(dll, generation.functions, path, f"librkllmrt {found.release}", version.INSTALL_HINT)

    @classmethod
    def open(cls, path: StrPath) -> Library:
        """Tell the release from the file's bytes, then load it; nothing of it runs before its layout is known."""
        path = os.path.abspath(path)  # noqa: PTH100 - a model's process does without pathlib's 0.7 MB
        found = version.check(path)
        try:
            dll = ctypes.CDLL(path)
        except OSError as error:
            raise open_failure(path, str(error)) from error
        return cls(path, found, abi.load(found.release), dll)

    def supports(self, feature: str) -> bool:
        """A name of `features.FEATURES`."""
        return self.features.has(feature)


def bind(
    dll: ctypes.CDLL, functions: Signatures, path: str, name_and_release: str, hint: str
) -> Mapping[str, Function]:
    """The functions of a table, each with its types; raises RuntimeUnsupported where the library lacks one."""
    bound: dict[str, Function] = {}
    for name, (restype, argtypes) in functions.items():
        try:
            function = getattr(dll, name)
        except AttributeError as error:
            raise RuntimeUnsupported(
                f"{path} says it is {name_and_release} and lacks {name}, which that release has.", hint
            ) from error
        function.restype = restype
        function.argtypes = argtypes
        bound[name] = function
    return bound


def open_failure(path: str, text: str) -> ExoRkllmError:
    """What the dynamic loader's sentence means for whoever installed the library."""
    text = text.removeprefix(f"{path}: ")  # the loader begins with it, and so does each sentence
    for pattern, meaning, hint in OPEN_FAILURES:
        if (match := re.search(pattern, text)) is not None:
            words = {"text": text, "path": path}
            return RuntimeMissing(
                f"{path} {meaning.format(*match.groups(), **words)}.", hint.format(*match.groups(), **words)
            )
    return RuntimeMissing(f"{path} cannot be loaded: {text}.", f"ldd {path}")
