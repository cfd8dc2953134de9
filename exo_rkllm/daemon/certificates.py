"""aiohttp makes two TLS contexts when it is imported, each with all certificates of the system: a tenth of the start.

The daemon serves no TLS, and uses the contexts for models of the Hub and of other servers, so it reads the
certificates when its API already answers.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

_contexts: list[ssl.SSLContext] = []


@contextmanager
def postponed() -> Iterator[None]:
    """Contexts made meanwhile trust nobody until `load`. Only for a process that has one thread."""

    def set_default_verify_paths(context: ssl.SSLContext) -> None:
        _contexts.append(context)

    ssl.SSLContext.set_default_verify_paths = set_default_verify_paths  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        del ssl.SSLContext.set_default_verify_paths  # ssl's own is inherited


def load() -> None:
    """Gives these contexts their certificates."""
    while _contexts:
        _contexts.pop().set_default_verify_paths()
