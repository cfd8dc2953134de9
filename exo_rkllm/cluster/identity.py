"""The node's id and the reason to stay out of the cluster, both kept across restarts."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from exo_rkllm.cluster.discovery.packets import valid_node_id


class NodeIdentity:
    """Files in the state folder. A new id after a restart would leave requests hanging for 40 s (reference 3)."""

    def __init__(self, folder: Path) -> None:
        self._id = folder / "node-id"
        self._out = folder / "stay-out"

    def node_id(self) -> str:
        """The id of the last start, or a new one; an unreadable file is replaced."""
        try:
            node_id = self._id.read_text().strip()
        except (OSError, UnicodeDecodeError):
            node_id = ""
        if valid_node_id(node_id):
            return node_id
        node_id = os.urandom(16).hex().lstrip("0")
        with contextlib.suppress(OSError):  # a folder that cannot be written costs a new id at each start, no more
            self._write(self._id, node_id)
        return node_id

    def stay_out(self) -> str:
        """Why the cluster is not to be joined; empty if it may be."""
        try:
            return self._out.read_text(errors="replace").strip()
        except OSError:
            return ""

    def keep_out(self, sentence: str) -> None:
        with contextlib.suppress(OSError):
            if sentence:
                self._write(self._out, sentence)
            else:
                self._out.unlink(missing_ok=True)

    def _write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        beside.write_text(text + "\n")
        beside.replace(path)
