"""The NPU: one child process with the vendor library and one model, behind the `Engine` seam."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from exo_rkllm.backends.base import (
    Array,
    Capabilities,
    Engine,
    Finish,
    GenerationEvent,
    GenerationRequest,
    Ignored,
    Message,
    Model,
    Piece,
    Progress,
    TakePiece,
)
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.ledger import EMPTY, CachedRun, Ledger, cached_after
from exo_rkllm.backends.prefix_plan import PrefixPlan
from exo_rkllm.backends.registry import EngineSpec
from exo_rkllm.backends.rkllm_ahead import OrderedRun, follows_at_once, goes_ahead
from exo_rkllm.backends.rkllm_finish import GENERATED, finish_of, usage_of
from exo_rkllm.backends.rkllm_limits import IMPORT_HINT, check_tokens, max_tokens_of, own_prompt
from exo_rkllm.backends.rkllm_load import OPTIONS, SAMPLING
from exo_rkllm.backends.rkllm_prefixes import EnginePrefixes
from exo_rkllm.backends.rkllm_process import NpuProcess
from exo_rkllm.backends.rkllm_sampling import LoadedSampling
from exo_rkllm.errors import (
    ExoRkllmError,
    NotSupported,
    RunError,
    unloaded,
)
from exo_rkllm.runner.jobs import RunnerJob
from exo_rkllm.runner.parent import Runner
from exo_rkllm.runner.stream import ArrayRows, RunDone, RunStarted

if TYPE_CHECKING:
    from exo_rkllm.backends.rkllm_vision import EngineVision

# What a model that is unloaded may take to save its conversation.
KEEP_SECONDS = 5.0


class RkllmEngine(Engine):
    # The runner kills a child that is silent for too long, which for a prompt of 16,384 tokens is 1,700 s.
    settle_seconds = 1800.0

    def __init__(self, model: Model, host: EngineHost) -> None:
        super().__init__(model)
        self._host = host
        self._options = SPEC.options_of(model)
        self._sampling = LoadedSampling(model, host.sampling)
        self._process = NpuProcess(model, host, self._options, self._sampling)
        # A load with another sampling: one at a time, between two runs, whoever leaves meanwhile.
        self._load_lock = asyncio.Lock()
        self._reload_task: asyncio.Future[ExoRkllmError | None] | None = None
        self._runs: dict[str, OrderedRun] = {}
        self._ahead: OrderedRun | None = None  # before its turn
        self._withdrawn: OrderedRun | None = None  # until the child has told whether it had begun
        self._ledger = Ledger()
        self._prefixes = EnginePrefixes(host.prefixes, model.id)
        self._stash_task: asyncio.Future[None] | None = None
        self._left_run: tuple[RunnerJob, CachedRun] | None = None  # what it had read
        # Whose work the cache holds, where there are adapters; None while that is not known.
        self._adapter: str | None = self._options["lora"]
        # What the runtime's own history holds; grows only where its own template is used.
        self._history: tuple[Message, ...] = ()
        self._vision: EngineVision | None = None

    async def initialize(self) -> None:
        await self._start(self._sampling.defaults)

    async def _start(self, sampling: Mapping[str, float]) -> None:
        prefixes = await self._process.start(sampling)
        # A saved prompt is in the cache at once, and stays behind every one that is cleared.
        self._ledger = Ledger(None if self._options["prompt_cache"] else EMPTY)
        self._adapter, self._history = self._options["lora"], ()
        self._prefixes.started(prefixes)

    async def _reload(self, sampling: Mapping[str, float]) -> None:
        self._reload_task = asyncio.ensure_future(self._reload_with(sampling))
        await self._settle_reload()

    async def _reload_with(self, sampling: Mapping[str, float]) -> ExoRkllmError | None:
        """The error of a failed reload, for the request that asked for it and for `lost`; None after a good one."""
        try:
            await self._loaded().close()
            await self._start(sampling)
        except ExoRkllmError as error:
            return error
        except asyncio.CancelledError:
            return unloaded(self.model.id)
        return None

    async def _settle_reload(self) -> None:
        if self._reload_task is not None and (error := await asyncio.shield(self._reload_task)) is not None:
            raise error

    @property
    def capabilities(self) -> Capabilities:
        return self._process.capabilities

    @property
    def memory(self) -> int | None:
        if self._process.runner is None or (memory := self._process.runner.memory) is None:
            return None
        return memory if self._vision is None else memory + self._vision.memory

    @property
    def runtime(self) -> tuple[str, str]:
        return ("", "") if self._process.choice is None else (self._process.choice.release, self._process.choice.reason)

    @property
    def pid(self) -> int | None:
        """The child's process id, for measurements and reports."""
        return None if self._process.runner is None else self._process.runner.pid

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationEvent, None]:
        submitted, load = time.monotonic(), 0.0
        if ignored := self._sampling.ignored(request.sampling):
            yield Ignored(ignored, "this runtime takes only when the model is loaded")
        # Dispatch gives one run at a time; others may not, and no load may come into a run.
        async with self._load_lock:
            if self._ahead is not None and self._ahead.request != request.id:
                self.withdraw(self._ahead.request)
            if self._sampling.reloads:
                await self._settle_reload()
                if (sampling := self._sampling.effective(request.sampling)) != self._sampling.loaded:
                    yield Progress("loading")
                    began = time.monotonic()
                    await self._reload(sampling)
                    load = time.monotonic() - began
            await self._settle_left_run()
            (ordered, self._ahead), shown = (self._ahead, None), None
            if ordered is None:
                job, measured = self._job(request)
                shown = await self._sight().show(request.images) if request.images else None
                job, arrays = (job, ()) if shown is None else shown.beside(job, sizes=self._process.image_sizes)
                tokens = 0 if measured is None else self._ledger.least(measured)
                hot = self._ledger.cache
                plan = self._prefixes.plan(job, measured, tokens, hot, self._adapter, lasting=not request.background)
                if plan.stash and hot is not None:
                    self._stash_task = asyncio.ensure_future(self._stash(hot))
                    await asyncio.shield(self._stash_task)
                if plan.fresh:
                    yield Progress("loading")
                    began = time.monotonic()
                    await self._reload(self._sampling.loaded)
                    load += time.monotonic() - began
                ordered = self._order(request, job, measured, tokens, plan, arrays)
            job, measured, plan = ordered.job, ordered.measured, ordered.plan
            started = time.monotonic()
            self._adapter = None
            cleared = job.clear_first or job.output != "text" or not self._process.clears
            self._ledger.begin(
                cleared=cleared and not self._options["prompt_cache"], loaded=plan.restore and plan.restore.run
            )
            self._prefixes.begins(lasting=not request.background)
            self._runs[request.id] = ordered
            run = ordered.runner.answer(ordered.number, ordered.stream)
            done: RunDone | None = None
            try:
                async for batch in run:
                    for event in batch:
                        if isinstance(event, Piece):
                            yield event
                        elif isinstance(event, RunStarted):
                            started = time.monotonic()
                            yield Progress("prefill")
                        elif isinstance(event, ArrayRows):
                            yield Array(request.output, event.rows, event.width, event.data)
                        else:
                            done = event
                            text, ran = "".join(ordered.stream.texts), time.monotonic() - started
                            self._remember(request, text, event)
                            finish = self._finish(job, measured, event, text, started - submitted - load, load)
                            kept = self._ledger.cache
                            if kept is None or kept == EMPTY:  # an aborted run has read its prompt all the same
                                kept = CachedRun(measured or "", finish.usage.prompt)
                            await self._prefixes.ended(job, plan, event, kept, finish.usage.cached, ran)
                            yield finish if shown is None else shown.counted(finish)
            finally:
                del self._runs[request.id]
                await run.aclose()
                if done is None:
                    self._left_run = (job, CachedRun(measured or "", ordered.tokens) if ordered.stream.texts else EMPTY)

    def _order(
        self,
        request: GenerationRequest,
        job: RunnerJob,
        measured: str | None,
        tokens: int,
        plan: PrefixPlan,
        arrays: Sequence[memoryview] = (),
    ) -> OrderedRun:
        runner, job = self._loaded(), self._prefixes.applied(job, plan, tokens)
        number = runner.number()
        stream = runner.order(number, job, Piece, arrays)
        return OrderedRun(request.id, runner, number, stream, job, measured, tokens, plan)

    def queue_ahead(self, request: GenerationRequest) -> bool:
        runner, present = self._process.runner, next(iter(self._runs.values()), None)
        if runner is None or present is None or self._ahead or self._withdrawn or not runner.is_settled:
            return False
        if self._options["loras"] or self._process.keeps_history or self._sampling.reloads or not goes_ahead(request):
            return False
        try:
            job, measured = self._job(request, present.read())
        except ExoRkllmError:  # which its turn will bring to light
            return False
        tokens = 0 if measured is None else self._ledger.least(measured, behind=present.read())
        plan = self._prefixes.plan(
            job,
            measured,
            tokens,
            present.left_behind(),
            present.job.lora,
            lasting=not request.background,
            saves=bool(present.job.save_prompt_cache),
        )
        if follows_at_once(plan):
            self._ahead = self._order(request, job, measured, tokens, plan)
        return self._ahead is not None

    def withdraw(self, request_id: str) -> None:
        if self._ahead is not None and self._ahead.request == request_id:
            self._withdrawn, self._ahead = self._ahead, None
            self._withdrawn.runner.leave(self._withdrawn.number)

    async def _stash(self, hot: CachedRun) -> None:
        """Saves what is hot, by a run that nobody hears; a failure costs nothing but the prefix."""
        job = self._prefixes.stash(hot, self._adapter or "")
        if job is None:
            return
        began = time.monotonic()
        with suppress(ExoRkllmError):  # the run that follows meets a lost process, too
            done = await self.run(job)
            self._ledger.keep(hot)
            await self._prefixes.stashed(job, hot, done, time.monotonic() - began)
            return
        self._prefixes.forget(job)

    async def run(self, job: RunnerJob) -> RunDone:
        """One run that nobody hears, between two answers; for measurements."""
        runner = self._loaded()
        self._ledger.begin(cleared=False)
        async for batch in runner.run(runner.number(), job, Piece):
            if isinstance(batch[-1], RunDone):
                return batch[-1]
        raise RunError(f"A run of {self.model.id} had no end.")

    async def _settle_left_run(self) -> None:
        """Waits for a run that was left early, and takes over what it has saved."""
        if self._stash_task is not None:
            await asyncio.wait({self._stash_task})
        await self._loaded().settled()
        if self._left_run is not None:
            (job, run), self._left_run = self._left_run, None
            await self._prefixes.left(job, run)
        if self._withdrawn is not None:
            ordered, self._withdrawn = self._withdrawn, None
            if ordered.runner.has_begun(ordered.number):
                self._ledger.begin(cleared=False)  # nobody knows what the cache holds
                await self._prefixes.left(ordered.job, EMPTY)
            else:
                self._prefixes.forget(ordered.job)

    def _sight(self) -> EngineVision:
        """What the model sees with; its modules are imported with the first picture."""
        if self._vision is None:
            from exo_rkllm.backends.rkllm_vision import engine_vision

            self._vision = engine_vision(self.model, self._host)
        return self._vision

    def _job(self, request: GenerationRequest, behind: CachedRun | None = None) -> tuple[RunnerJob, str | None]:
        """The request in the runner's terms, and the prompt as the ledger measures it, `behind` a run that is not over.

        Raises NotSupported or UsageError for what the runtime cannot do, and ContextOverflow.
        """
        # The tools are rendered into the prompt; they come along for whoever reads the answer.
        if request.messages and (request.tools or any(message.images for message in request.messages)):
            what = "tools" if request.tools else "images"
            raise NotSupported(f"{self.model.id} takes no {what} without a chat template of ours.", IMPORT_HINT)
        if request.output == "logits" and not self._process.capabilities.logits:
            raise NotSupported(f"{self.model.id} runs on a runtime without logits.", "Install runtime 1.2.0 or newer.")
        check_tokens(self.model.id, request.tokens or (), self._process.vocabulary)
        lora = request.lora or self._options["lora"]
        foreign = bool(self._options["loras"]) and lora != self._adapter
        follows = bool(self._history) and not foreign and request.messages[:-1] == self._history
        prompt = request.prompt
        if prompt is None and request.tokens is None:
            prompt = own_prompt(request, self.model.id, rendered=not self._options["runtime_template"], follows=follows)
        measured = prompt
        if request.images:
            measured = self._sight().measured(prompt or "", request.images, several=self._process.image_sizes)
        known = len(request.tokens or ())
        if measured is not None:
            known = self._ledger.least(measured, follows=follows, behind=behind)
        job = RunnerJob(
            prompt=prompt,
            tokens=request.tokens,
            output=request.output,
            rows=request.rows,
            max_tokens=max_tokens_of(request, self.model.id, self._process.capabilities.context, known),
            sampling=self._sampling.of_run(request.sampling),
            lora=lora,
            keep_history=self._process.keeps_history and bool(request.messages),
            clear_first=not self.model.reuse or foreign or (self._process.keeps_history and not follows),
        )
        return job, measured

    def _remember(self, request: GenerationRequest, answer: str, done: RunDone) -> None:
        """Keeps the messages that the runtime's own history holds after this run."""
        if done.stopped or not request.messages or not self._process.keeps_history:
            self._history = ()
        else:
            self._history = (*request.messages, Message("assistant", answer))

    def _finish(
        self, job: RunnerJob, prompt: str | None, done: RunDone, answer: str, queued: float, load: float
    ) -> Finish:
        usage = usage_of(job, prompt, done, self._ledger)
        if GENERATED in done.figures:  # it ran
            empty = EMPTY if self._process.clears and not self._options["prompt_cache"] else None
            self._ledger.keep(cached_after(job, prompt, done, usage, answer, empty))
            self._adapter = job.lora
        return finish_of(done, usage, self._process.capabilities.context, queued, load)

    def _loaded(self) -> Runner:
        return self._process.loaded()

    def shortcut(self, request_id: str, take: TakePiece) -> None:
        if (ordered := self._runs.get(request_id)) is not None:
            ordered.stream.take = take

    async def abort(self, request_id: str) -> None:
        if (ordered := self._runs.get(request_id)) is not None:
            ordered.runner.abort(ordered.number)

    async def settled(self, request_id: str) -> None:
        self.withdraw(request_id)  # where it left before its run was read
        if self._reload_task is not None:
            await asyncio.wait({self._reload_task})
        if self._process.runner is not None:
            await self._settle_left_run()
        if self._vision is not None:
            await self._vision.settled()

    async def lost(self) -> ExoRkllmError:
        """Returns when the engine is lost; a child that a reload replaced is no loss."""
        while True:
            runner = self._loaded()
            error = await runner.lost()
            failed = None if self._reload_task is None else await asyncio.shield(self._reload_task)
            if failed is not None or runner is self._process.runner:
                return failed or error

    async def close(self) -> None:
        if self._reload_task is not None:
            self._reload_task.cancel()
            await asyncio.wait({self._reload_task})
        if self._vision is not None:
            await self._vision.close()
        if self._process.runner is not None:
            with suppress(ExoRkllmError, asyncio.TimeoutError):
                await asyncio.wait_for(self._keep_hot(), KEEP_SECONDS)
            await self._process.runner.close()

    async def _keep_hot(self) -> None:
        """Saves what is hot for the next load of the model."""
        hot = self._ledger.cache
        if hot is not None and not self._runs and not self._loaded().gone:
            plan = self._prefixes.plan(RunnerJob(), None, 0, hot, self._adapter, lasting=False, closing=True)
            if plan.stash:
                await self._stash(hot)


SPEC = EngineSpec(
    "rkllm",
    "the NPU, by Rockchip's librkllmrt in a process of its own",
    make=RkllmEngine,
    options=OPTIONS,
    formats=(".rkllm",),
    on_npu=True,
    sampling=SAMPLING,
    images=True,
    encoder=True,
)
