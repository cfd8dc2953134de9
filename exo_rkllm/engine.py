"""What classic exo loads: `exo.inference_engines` names this class, and its calls are the host's (classic-plugin 2.2).

A model is answered whole, by the runtime's own sampling, one token a call; all that is known of an answer is under the
host's request id, and the inference state, which the host shares between requests, goes back as it came.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exo_rkllm.assembly import LocalSource, open_node
from exo_rkllm.backends.base import GenerationRequest
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.classic import hooks
from exo_rkllm.classic.contract import host_class, part, whole
from exo_rkllm.classic.runs import ClassicCounters, Runs
from exo_rkllm.classic.token_ids import NO_ID, TokenIds, token_ids_of
from exo_rkllm.client.answers import AnswerSource, DaemonSource
from exo_rkllm.client.control import NotInTheGroup, listening
from exo_rkllm.config import load, places
from exo_rkllm.errors import ExoRkllmError, ModelNotFound, NotSupported
from exo_rkllm.models import classic_id

if TYPE_CHECKING:
    from exo_rkllm.classic.contract import Ids

log = logging.getLogger(__name__)

SUFFIX = ".rkllm"

# exo's DEBUG: 0 says nothing, 1 the life cycle, 2 the requests.
LEVELS = {0: logging.WARNING, 1: logging.INFO}
TRAINING = "A .rkllm model is compiled for the NPU: it can be asked, and neither trained nor evaluated."


class RKLLMInferenceEngine(host_class()):  # type: ignore[misc]
    """`shard_downloader` is the host's. Made before any event loop runs, so nothing is begun here."""

    def __init__(self, shard_downloader: Any) -> None:
        config = load(os.environ)
        self.shard_downloader = shard_downloader
        self.shard: Any = None
        self.tokenizer: TokenIds | None = None
        self.session: dict[str, Any] = {}
        self._classic = config.classic
        self._node = open_node(config)
        self._files: dict[str, Path] = {}  # by the host's name for the model: what load_checkpoint named
        self._tokenizers: dict[str, TokenIds] = {}
        self._counters = ClassicCounters()
        self._runs: Runs | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        speak(os.environ.get("DEBUG", ""))
        if self._classic.keep_engine:
            hooks.keep_engine(RKLLMInferenceEngine)
        hooks.name_models()
        hooks.name_the_npu()
        hooks.fit_tokenizers(self._node.catalogue.list)
        if self._classic.shard_downloads:
            hooks.use_local_shards(shard_downloader, self._node.catalogue.list)
        atexit.register(self._at_exit)

    # ── answering ────────────────────────────────────────────────────────────────────────────────

    async def infer_prompt(
        self, request_id: str, shard: Any, prompt: str, inference_state: dict[str, Any] | None = None
    ) -> tuple[Ids, dict[str, Any] | None]:
        """The answer's first token; whatever is in the way is raised here, where the host gives it to the client."""
        if part(shard, self._classic.ring) == "relay":
            raise NotSupported(f"This node has no first layer of {shard.model_id}.", "Ask the node that has it.")
        await self.ensure_shard(shard)
        entry = self._entry(shard)
        log.debug("%s asks %s: %d characters.", request_id, entry.id, len(prompt))
        request = GenerationRequest(model=self._entry_id(entry), prompt=prompt, id=request_id)
        return self._ids(await self._answers().begin(request_id, request), shard), inference_state

    async def infer_tensor(
        self, request_id: str, shard: Any, input_data: Ids, inference_state: dict[str, Any] | None = None
    ) -> tuple[Ids, dict[str, Any] | None]:
        """A token more. From the second call on nothing is raised: the host would swallow it and its client wait."""
        import numpy as np

        ids = np.asarray(input_data)
        if not np.issubdtype(ids.dtype, np.integer):
            log.error("%s came with another engine's activations: every node of the ring needs this one.", request_id)
            return self._ids(None, shard), inference_state
        if request_id in self._answers():
            return self._ids(await self._answers().next(request_id), shard), inference_state
        if self._relays(shard):
            return ids, inference_state  # a token on its way from the node that answers to the one that asked
        if ids.size == 1:
            return self._ids(await self._answers().next(request_id), shard), inference_state
        await self.ensure_shard(shard)
        request = GenerationRequest(
            model=self._entry_id(self._entry(shard)), tokens=tuple(int(one) for one in ids.flat), id=request_id
        )
        return self._ids(await self._answers().begin(request_id, request), shard), inference_state

    async def sample(self, x: Ids, temp: float = 0.0, top_p: float = 1.0, **_others: Any) -> Ids:
        """The runtime has sampled already: ids go through. Of logits, which another engine made, the largest."""
        import numpy as np

        values = np.asarray(x)
        if np.issubdtype(values.dtype, np.integer):
            return values.reshape(-1)[-1:].astype(np.int32)
        return np.array([int(values.reshape(-1, values.shape[-1])[-1].argmax())], dtype=np.int32)

    def _ids(self, token: int | None, shard: Any) -> Ids:
        """By the words of the model that is asked: the host may have come to another one meanwhile."""
        import numpy as np

        if token is not None:
            self._counters.count_token()
        words = self._tokenizers.get(shard.model_id)
        if words is None:
            return np.array([[NO_ID if token is None else token]], dtype=np.int32)
        return np.array([[words.eos_token_id if token is None or token in words.ends else token]], dtype=np.int32)

    # ── tokens and text ──────────────────────────────────────────────────────────────────────────

    async def encode(self, shard: Any, prompt: str) -> Ids:
        import numpy as np

        await self.ensure_shard(shard)
        return np.array(self._tokenizer_in_use().encode(prompt), dtype=np.int32)

    async def decode(self, shard: Any, tokens: Any) -> str:
        await self.ensure_shard(shard)
        return self._tokenizer_in_use().decode(tokens)

    def _tokenizer_in_use(self) -> TokenIds:
        if self.tokenizer is None:
            raise ModelNotFound("No model was named yet.", "exo-rkllm models lists them.")
        return self.tokenizer

    # ── models ───────────────────────────────────────────────────────────────────────────────────

    async def ensure_shard(self, shard: Any) -> None:
        """Called after every token, so the model of before costs one comparison. Weights come with the first
        question: exo calls this on nodes that will not compute, too."""
        if shard == self.shard:
            return
        entry = self._entry(shard)
        words = self._tokenizers.get(shard.model_id)
        if words is None:
            words = await asyncio.get_running_loop().run_in_executor(None, token_ids_of, entry)
            self._tokenizers[shard.model_id] = words
            log.info("%s is %s in %s.", shard.model_id, entry.id, entry.folder)
        # In this order: the host's view reads the tokenizer once there is a shard.
        self.tokenizer, self.shard = words, shard

    async def load_checkpoint(self, shard: Any, path: str | None = None) -> None:
        """Without a path the card says which file it is; with one it has to be that model's."""
        if path is not None:
            self._files[shard.model_id] = chosen_file(Path(path))
        await self.ensure_shard(shard)

    async def save_checkpoint(self, shard: Any, path: str) -> None:
        raise NotImplementedError(TRAINING)

    async def train(self, *_args: Any, **_keywords: Any) -> Any:
        raise NotImplementedError(TRAINING)

    async def evaluate(self, *_args: Any, **_keywords: Any) -> Any:
        raise NotImplementedError(TRAINING)

    async def save_session(self, key: str, value: Any) -> None:
        self.session[key] = value

    async def clear_session(self) -> None:
        self.session.clear()

    def _entry(self, shard: Any) -> Entry:
        for entry in self._node.catalogue.list():
            if shard.model_id in (entry.id, classic_id(entry)):
                return entry
        raise ModelNotFound(
            f"exo asks for {shard.model_id}, of which there is no .rkllm file here.",
            "exo-rkllm models lists those that are; exo's --default-model names what is asked without a name.",
        )

    def _entry_id(self, entry: Entry) -> str:
        """A file of the user's own has to be the entry's: the daemon and the queue know models by their name."""
        file = self._files.get(classic_id(entry)) or self._files.get(entry.id)
        if file is not None and entry.path is not None and file.resolve() != entry.path.resolve():
            raise NotSupported(f"{file} is not the file of {entry.id}.", f"exo-rkllm import {file}")
        return entry.id

    def _relays(self, shard: Any) -> bool:
        return not whole(shard) and part(shard, self._classic.ring) == "relay"

    # ── the one source of answers ────────────────────────────────────────────────────────────────

    def _answers(self) -> Runs:
        """Made with the first question: there is no loop before. A host that makes a new loop gets a new one."""
        loop = asyncio.get_running_loop()
        if self._runs is None or self._loop is not loop:
            self._runs = Runs(self._source(), self._classic.idle, self._counters.count_end)
            self._loop = loop
        return self._runs

    def _source(self) -> AnswerSource:
        """The board's daemon where this user may use one, so that the NPU has one queue; else this process."""
        if self._classic.daemon:
            with suppress(NotInTheGroup):
                path = listening(places(os.environ).sockets)
                if path is not None:
                    log.info("The daemon at %s answers.", path)
                    return DaemonSource(path)
        return LocalSource(self._node.dispatcher())

    async def close(self) -> None:
        """The host never calls it; a child of ours ends with this process in any case."""
        runs, self._runs = self._runs, None
        if runs is not None:
            await runs.close()

    def _at_exit(self) -> None:
        loop = self._loop
        if self._runs is not None and loop is not None and not loop.is_closed() and not loop.is_running():
            loop.run_until_complete(self.close())


def chosen_file(path: Path) -> Path:
    if path.is_dir():
        files = sorted(path.glob(f"*{SUFFIX}"))
        if len(files) != 1:
            raise ModelNotFound(f"{path} has {len(files)} {SUFFIX} files, not one.", f"ls {path}")
        return files[0]
    if not path.is_file():
        raise ModelNotFound(f"There is no file {path}.", f"ls {path.parent}")
    return path


def speak(debug: str) -> None:
    """By exo's DEBUG, on stderr as exo itself; a host that has set up logging has its way."""
    ours = logging.getLogger("exo_rkllm")
    level = int(debug) if debug.isdecimal() else 0
    if ours.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("exo-rkllm: %(message)s"))
    ours.addHandler(handler)
    ours.setLevel(LEVELS.get(level, logging.DEBUG))


__all__ = ["ExoRkllmError", "RKLLMInferenceEngine"]
