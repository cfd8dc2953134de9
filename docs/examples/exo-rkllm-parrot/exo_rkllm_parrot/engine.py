"""An engine whose model file is a name: it answers with the last words that it was told, and signs with the name."""

import asyncio
import re
import time
from contextlib import aclosing

from exo_rkllm.backends.base import Capabilities, Engine, Finish, Piece, Progress, Timings, Usage
from exo_rkllm.backends.registry import EngineOption, EngineSpec
from exo_rkllm.errors import ContextOverflow, ModelFileError, NotSupported, RunnerLost

OPTIONS = {"words_per_second": EngineOption(float, 0.0, "pace of the answer; 0 means as fast as possible")}
LAST_WORDS = re.compile(r".*<\|user\|>(.*?)<\|squawk\|>", re.DOTALL)


class ParrotEngine(Engine):
    def __init__(self, model, host):
        super().__init__(model)
        self._pace = SPEC.options_of(model)["words_per_second"]
        self._name = ""
        self._turn = asyncio.Lock()
        self._running = {}  # request id -> whether it was aborted
        self._lost = None

    async def initialize(self):
        """What takes long belongs into a thread or a process of its own: the daemon's loop serves everybody."""
        try:
            self._name = (await asyncio.to_thread(self.model.path.read_text)).strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ModelFileError(f"{self.model.path} is no parrot: {error}.", f"file {self.model.path}") from None
        self._lost = asyncio.get_running_loop().create_future()

    @property
    def capabilities(self):
        # Not `chat`: exo-rkllm renders the messages by the model's template, and cuts the stop strings.
        return Capabilities(context=self.model.context or 2048, tokens=False)

    async def generate(self, request):
        """Pieces, then one Finish. Closing this generator ends the run, whatever it waits for."""
        if request.output != "text" or request.prompt is None:
            raise NotSupported(f"{self.model.id} takes a prompt and gives text, nothing else.")
        if self._lost is None or self._lost.done():
            raise RunnerLost(f"{self.model.id} is not loaded.", "exo-rkllm load NAME")
        asked = time.monotonic()
        self._running[request.id] = False
        try:
            async with self._turn, aclosing(self._answer(request, asked)) as events:
                async for event in events:
                    yield event
        finally:
            del self._running[request.id]

    async def _answer(self, request, asked):
        began = time.monotonic()
        told = LAST_WORDS.match(request.prompt)
        words = (told[1] if told else request.prompt).split()
        prompt = len(request.prompt.split())
        if prompt > self.capabilities.context:
            raise ContextOverflow(f"The prompt has {prompt} words.", "Shorten the conversation.")
        yield Progress("prefill", prompt, prompt)
        answer = [f"{word} " for word in words] + [f"says {self._name}", "<|squawk|>"]
        limit = len(answer) if request.max_tokens is None else request.max_tokens
        reason = "stop" if len(answer) <= limit else "length"
        sent = 0
        for text in answer[:limit]:
            await asyncio.sleep(1 / self._pace if self._pace else 0)
            if self._running[request.id]:
                reason = "abort"
                break
            yield Piece(text, sent)
            sent += 1
        times = Timings(queued=began - asked, decode=time.monotonic() - began)
        yield Finish(reason, Usage(prompt=prompt, completion=sent), times)

    async def abort(self, request_id):
        if request_id in self._running:
            self._running[request_id] = True

    async def lost(self):
        return await asyncio.shield(self._lost)

    async def close(self):
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(RunnerLost(f"{self.model.id} was closed.", "exo-rkllm load NAME"))


SPEC = EngineSpec(
    "parrot", "repeats the last words of the prompt", make=ParrotEngine, options=OPTIONS, formats=(".parrot",)
)
