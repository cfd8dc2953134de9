"""A umockdev test bed through ctypes, so that any Python can drive it; wants to run under umockdev-wrapper."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

from simulator import boards
from simulator.boards_tree import umockdev

WRAPPER = shutil.which("umockdev-wrapper")
LIBRARY = "libumockdev.so.0"


class TestBed:
    """While it lives, /sys and /dev of this process are the test bed's, and so are libudev's events."""

    __test__ = False

    def __init__(self) -> None:
        self._library = ctypes.CDLL(LIBRARY)
        self._library.umockdev_testbed_new.restype = ctypes.c_void_p
        self._library.umockdev_testbed_get_root_dir.restype = ctypes.c_char_p
        self._library.umockdev_testbed_get_root_dir.argtypes = [ctypes.c_void_p]
        self._library.umockdev_testbed_add_from_string.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        self._library.umockdev_testbed_uevent.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p]
        self._library.umockdev_testbed_remove_device.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._library.g_object_unref.argtypes = [ctypes.c_void_p]
        self._bed = ctypes.c_void_p(self._library.umockdev_testbed_new())

    @property
    def root(self) -> Path:
        return Path(os.fsdecode(self._library.umockdev_testbed_get_root_dir(self._bed)))

    def add(self, profile: str) -> None:
        """The profile's devices, and then every other file of its tree below the test bed's root."""
        tree = boards.build(profile)
        error = ctypes.c_void_p(None)
        assert self._library.umockdev_testbed_add_from_string(self._bed, umockdev(tree).encode(), ctypes.byref(error))
        assert not error.value
        root = self.root
        tree.entries = {
            name: entry
            for name, entry in tree.entries.items()
            if not name.startswith("dev/") and not os.path.lexists(root / name)
        }
        tree.write(root)

    def uevent(self, device: str, action: str) -> None:
        self._library.umockdev_testbed_uevent(self._bed, device.encode(), action.encode())

    def remove(self, device: str) -> None:
        self._library.umockdev_testbed_remove_device(self._bed, device.encode())

    def close(self) -> None:
        self._library.g_object_unref(self._bed)
