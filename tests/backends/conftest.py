"""Models behind servers, and the NPU's engine, for every file here."""

from tests.backends.chat_fixtures import gguf, serve
from tests.backends.npu_fixtures import opened

__all__ = ["gguf", "opened", "serve"]
