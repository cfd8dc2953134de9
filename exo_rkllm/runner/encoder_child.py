"""The child that holds an encoder: it loads one `.rknn` file and turns one picture at a time into rows of floats.

Standard library only, as the language model's child.
"""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Mapping
from typing import Any

from exo_rkllm.errors import NotSupported
from exo_rkllm.rknn.library import EncoderLibrary
from exo_rkllm.rknn.session import FLOAT, EncoderSession
from exo_rkllm.rknn.values import EncoderParams
from exo_rkllm.runner.process import SendRows, serve, settle
from exo_rkllm.runtime.blackbox import BlackBox


class EncoderChild:
    def __init__(self) -> None:
        self._session: EncoderSession | None = None

    def load(self, order: Mapping[str, Any]) -> dict[str, Any]:
        library = EncoderLibrary.open(order["library"])
        session = self._session = EncoderSession.open(library, EncoderParams.from_json(order["params"]))
        return {"shape": session.shape.to_json(), "release": library.release, "driver": session.driver()}

    def run(self, _job: Mapping[str, Any], fds: list[int], send_rows: SendRows) -> None:
        """The rows of the picture whose pixels are in the one memory file, written into another."""
        if self._session is None:
            raise NotSupported("This process holds no encoder yet.")
        shape = self._session.shape
        size = shape.tokens * shape.row_width * FLOAT
        fd = os.memfd_create("rows", os.MFD_CLOEXEC)
        try:
            os.truncate(fd, size)
            pixels = mmap.mmap(fds[0], 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            self._session.encode(pixels, mmap.mmap(fd, size))
            send_rows({"output": "encoding", "rows": shape.tokens, "width": shape.row_width}, fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        if self._session is not None:
            self._session.close()


def main(sock: int, box: int, parent: int, die_with_parent: int) -> None:
    """Called by the command line that `launch.start_child` builds, with descriptors that it inherited."""
    settle(parent, die_with_parent=bool(die_with_parent))
    child = EncoderChild()
    try:
        serve(socket.socket(fileno=sock), BlackBox(box), child)
    finally:
        child.close()
