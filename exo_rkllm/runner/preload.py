"""Libraries and modules that plugins load into a model's process before the vendor's library. Standard library only."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exo_rkllm.errors import PluginError

if TYPE_CHECKING:
    import ctypes


@dataclass(frozen=True, slots=True)
class Preload:
    """`first` are opened, then `libraries`, of each of which `init` is called; then each of `modules` is run.

    A module is `module`, or `module:function`, found where the daemon finds modules.
    """

    first: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    init: str = ""
    modules: tuple[str, ...] = ()
    path: tuple[str, ...] = ()  # a child starts without site-packages

    def after(self, libraries: tuple[str, ...]) -> Preload:
        """The same with the operator's `libraries` opened first; `init` is not called for them."""
        return replace(self, first=libraries) if libraries else self

    def order(self) -> dict[str, Any] | None:
        """The JSON form for the child; None where there is nothing to load."""
        if self == Preload():
            return None
        path = [entry or os.curdir for entry in sys.path] if self.modules else []
        return {
            "first": self.first,
            "libraries": self.libraries,
            "init": self.init,
            "modules": self.modules,
            "path": [str(Path(entry).absolute()) for entry in path],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Preload:
        first, libraries, modules = (tuple(value[name]) for name in ("first", "libraries", "modules"))
        return cls(first, libraries, value["init"], modules, tuple(value["path"]))

    def run(self) -> None:
        for library in self.first:
            open_library(where(library))
        for library in self.libraries:
            open_library(library, self.init)
        sys.path += [entry for entry in self.path if entry not in sys.path]
        for module in self.modules:
            run_module(module)


def open_library(path: str, init: str = "") -> ctypes.CDLL:
    """Opens a library whose symbols later ones may use. `init` takes no argument and returns 0, else PluginError."""
    import ctypes  # only where there is something to open: a plugin's own import stays cheap

    try:
        library = ctypes.CDLL(path, os.RTLD_GLOBAL | os.RTLD_NOW)
    except OSError as error:
        # The loader's words begin with the path it was given.
        reason = str(error).removeprefix(f"{path}: ")
        raise PluginError(f"The native library {path} cannot be opened: {reason}.", f"ldd {path}") from error
    if init:
        try:
            begin = getattr(library, init)
        except AttributeError:
            raise PluginError(f"The native library {path} has no function {init}.", f"nm -D {path}") from None
        if code := begin():
            raise PluginError(f"{init} of the native library {path} returned {code}.", "exo-rkllm logs")
    return library


def where(path: str) -> str:
    """The absolute path of a file; a bare name is left to the loader's own search."""
    return str(Path(path).expanduser().resolve()) if os.sep in path or path.startswith("~") else path


def run_module(value: str) -> None:
    module, _, name = value.partition(":")
    try:
        target = import_module(module)
        if name:
            getattr(target, name)()
    except BaseException as error:
        says = " ".join(f"{type(error).__name__}: {error}".split())
        raise PluginError(f"A plugin's {value} failed in the model's process: {says}.", "exo-rkllm plugins") from error
