"""Any server with OpenAI's chat API, such as vLLM or another board: the model is there, only its card is here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from exo_rkllm.backends.base import Capabilities, GenerationRequest, Model
from exo_rkllm.backends.chat_body import VLLM_FORMS
from exo_rkllm.backends.chat_body import body as chat_body
from exo_rkllm.backends.chat_client import ChatClient, ChatServerEngine
from exo_rkllm.backends.registry import EngineOption, EngineSpec
from exo_rkllm.errors import CardError, ConfigError, ModelNotFound
from exo_rkllm.sampling import VLLM

OPTIONS: Mapping[str, EngineOption] = {
    "base_url": EngineOption(str, "", "where the API is, with its version: http://10.0.0.7:8000/v1"),
    "model": EngineOption(str, "", "the model's name there; empty where it is the same or the only one"),
    "loras": EngineOption(dict, {}, "adapters: name here to the model's name there, as vLLM serves them"),
    "key": EngineOption(str, "", "file with the key, or the name of one of the service's credentials"),
    "silence_seconds": EngineOption(float, 120.0, "how long the server may say nothing"),
    "parallel": EngineOption(int, 8, "runs at a time"),
}
# top_k, min_p and repeat_penalty are vLLM's additions to OpenAI's own.
TAKES = frozenset(
    ("temperature", "top_p", "top_k", "min_p", "repeat_penalty", "frequency_penalty", "presence_penalty", "seed")
)


class OpenAIEngine(ChatServerEngine):
    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self._options = SPEC.options_of(model)
        url = urlsplit(self._options["base_url"])
        if url.scheme not in ("http", "https") or not url.hostname or url.query or url.fragment:
            raise CardError(
                f"The card of {model.id} has no usable base_url: {self._options['base_url']!r}.",
                'Write under [options]: base_url = "http://HOST:PORT/v1"',
            )
        self._who = f"The server at {url.netloc.rpartition('@')[2]}"
        self._remote = self._options["model"]
        self._context = model.context

    async def initialize(self) -> None:
        key = read_key(self._options["key"], os.environ)
        self._client = ChatClient(self._who, self._options["base_url"], key, silence=self._options["silence_seconds"])
        try:
            models = (await self._client.get("/models")).get("data")
            rows = [row for row in models or () if isinstance(row, dict) and isinstance(row.get("id"), str)]
            self._choose(rows)
            await self._client.knock()
        except BaseException:
            await self.close()
            raise

    def _choose(self, rows: list[dict[str, object]]) -> None:
        names = [str(row["id"]) for row in rows]
        name = self._remote or (names[0] if len(names) == 1 else self.model.id)
        if name not in names:
            raise ModelNotFound(
                f"{self._who} has no model {name}.",
                f"It has: {', '.join(names[:10]) or 'none'}. Name one: model = ...",
            )
        self._remote = name
        size = rows[names.index(name)].get("max_model_len")
        if not self._context and isinstance(size, int):
            self._context = size

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            chat=True,
            sampling=TAKES,
            images=True,
            structure=True,
            logprobs=True,
            parallel=self._options["parallel"],
            context=self._context,
        )

    def body(self, request: GenerationRequest) -> tuple[str, dict[str, Any]]:
        remote = self._options["loras"].get(request.lora, self._remote)
        return chat_body(request, str(remote), self.model.sampling, TAKES, self._who, VLLM, VLLM_FORMS)


def read_key(reference: str, environment: Mapping[str, str]) -> str:
    """The key in a file, or in one of systemd's credentials, by its path or name; raises ConfigError."""
    if not reference:
        return ""
    path = Path(reference)
    if not path.is_absolute():
        folder = environment.get("CREDENTIALS_DIRECTORY", "")
        if not folder or path.name != reference:
            raise ConfigError(
                f"There is no credential {reference!r} for this process.", "Name a file by its whole path."
            )
        path = Path(folder) / reference
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"The key in {path} cannot be read: {why}.", f"ls -l {path}") from None


SPEC = EngineSpec(
    "openai",
    "a server with OpenAI's API, such as vLLM or another board",
    make=lambda model, _host: OpenAIEngine(model),
    options=OPTIONS,
    parallelism="server",
    sampling=TAKES,
    images=True,
    logprobs=True,
)
