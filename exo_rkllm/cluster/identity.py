"""What a node keeps across restarts: its id, the reason to stay out, and the clusters it has joined."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from exo_rkllm.cluster.discovery.packets import valid_node_id

FOLDER = "cluster"  # in the state folder
# The reason to stay out that `exo-rkllm cluster leave` gives; until `join`, the board does not even search.
LEFT = "The board was told to leave the exo cluster and joins none."
JOIN = "exo-rkllm cluster join"


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
            _write(self._id, node_id)
        return node_id

    def stay_out(self) -> str:
        """Why the cluster is not to be joined; empty if it may be."""
        try:
            return self._out.read_text(errors="replace").strip()
        except OSError:
            return ""

    def keep_out(self, sentence: str) -> None:
        """Stay out from now on, or with an empty sentence no more; raises the OSError of a folder that is closed."""
        if sentence:
            _write(self._out, sentence)
        else:
            self._out.unlink(missing_ok=True)


class KnownClusters:
    """The clusters that this board joined although nobody had named them, and which of them the operator confirmed.

    A folder that cannot be written makes each start the first one.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "known-clusters"

    def add(self, namespace: str, *, confirmed: bool = False) -> tuple[bool, bool]:
        """Whether it is new, and whether it is confirmed, now or earlier."""
        known = self._read()
        new, confirmed = namespace not in known, confirmed or known.get(namespace, False)
        if known.get(namespace) != confirmed:
            known[namespace] = confirmed
            lines = [f"{name}{CONFIRMED if sure else ''}" for name, sure in known.items()]
            with contextlib.suppress(OSError):
                _write(self._path, "\n".join(lines))
        return new, confirmed

    def _read(self) -> dict[str, bool]:
        try:
            lines = self._path.read_text(errors="replace").splitlines()
        except OSError:
            return {}
        return {line.removesuffix(CONFIRMED): line.endswith(CONFIRMED) for line in lines}


CONFIRMED = " confirmed"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".new")
    beside.write_text(text + "\n")
    beside.replace(path)
