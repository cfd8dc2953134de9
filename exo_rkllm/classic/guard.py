"""exo replaces every engine it does not know when a second node appears (classic-plugin 2.6); not this one."""

from __future__ import annotations

import functools
import sys
from typing import Any

MARK = "_exo_rkllm_keeps"


def keep_engine(ours: type[Any]) -> bool:
    """Wraps the node's choice once, in whatever process has a node; True where there is one to keep."""
    node = getattr(sys.modules.get("exo.orchestration.node"), "Node", None)
    chooses = getattr(node, "select_best_inference_engine", None)
    if chooses is None:
        return False
    if not hasattr(chooses, MARK):

        @functools.wraps(chooses)
        async def keeps(self: Any, *args: Any, **keywords: Any) -> Any:
            if isinstance(getattr(self, "inference_engine", None), ours):
                return None
            return await chooses(self, *args, **keywords)

        setattr(keeps, MARK, True)
        node.select_best_inference_engine = keeps  # type: ignore[union-attr]
    return True
