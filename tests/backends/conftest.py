"""Models behind servers, for every file here."""

from tests.backends.chat_fixtures import gguf, serve

__all__ = ["gguf", "serve"]
