"""Which release has which layout, and since when it can do what.

The structs changed eight times without a version field in any of them, so the layout is chosen by the version text that
the file itself carries, and a release that is not in this table is refused.
"""

from __future__ import annotations

import importlib
from types import ModuleType

# Release to the module with its structs and signatures, oldest first: the order is also what "newer" means.
RELEASES: dict[str, str] = {
    "1.1.0": "v1_1",
    "1.1.1": "v1_1",
    "1.1.2": "v1_1",
    "1.1.3": "v1_1",
    "1.1.4": "v1_1",
    "1.2.0": "v1_2_0",
    "1.2.1b1": "v1_2_1b1",
    "1.2.1": "v1_2_1",
    "1.2.2": "v1_2_1",
    "1.2.3": "v1_2_1",
    "1.3.0": "v1_3_0",
    "1.3.1": "v1_3_1",
}

# What a caller may want that not every release has, and the first release that has it.
SINCE: dict[str, str] = {
    "audio": "1.3.1",
    "chat template": "1.2.0",
    "clearing a range of the KV cache": "1.2.1",
    "clearing the KV cache": "1.2.0",
    "cross attention": "1.2.1",
    "embedding callback": "1.3.0",
    "function tools": "1.2.1",
    "going on after the end token": "1.3.0",
    "history": "1.2.0",
    "image sizes": "1.2.1b1",
    "KV cache size": "1.2.1",
    "logits": "1.2.0",
    "max_new_tokens per run": "1.3.0",
    "n_keep": "1.2.0",
    "performance figures": "1.2.1",
    "roles": "1.2.1",
    "sampling per run": "1.3.0",
    "several inputs at once": "1.2.1",
    "tokenizer callback": "1.3.0",
    "video": "1.3.0",
}


def layout(release: str) -> ModuleType:
    """The generation's structs and signatures; only this one module is imported."""
    return importlib.import_module(f"exo_rkllm.runtime.abi.{RELEASES[release]}")


def supports(release: str, feature: str) -> bool:
    order = list(RELEASES)
    return order.index(release) >= order.index(SINCE[feature])
