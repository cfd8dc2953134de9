"""The measurement of `selftest` by which the daemon keeps conversations: whether prompt cache files work here."""

from __future__ import annotations

import tempfile
from contextlib import aclosing
from pathlib import Path

from exo_rkllm.backends.base import Message
from exo_rkllm.backends.rkllm import RkllmEngine
from exo_rkllm.doctor.measure import FOLLOW_UP, LONG, Bench, loaded_engine, rendered
from exo_rkllm.doctor.report import Finding, good, poor, unseen
from exo_rkllm.errors import RunnerLost
from exo_rkllm.runner.jobs import RunnerJob
from exo_rkllm.runtime.ends import AFTER_ABORT, SPARES


async def prompt_cache(bench: Bench) -> Finding:
    """Saves a prompt, loads it after another one, and loads it again after an abort, which may kill the process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "prompt.bin"
        async with loaded_engine(bench) as engine:
            if not isinstance(engine, RkllmEngine):
                return unseen("the model does not run on librkllmrt")
            long, other = [(await rendered(engine, (Message("user", text),), 4)).prompt for text in (LONG, FOLLOW_UP)]
            bench.answers |= {"runtime": engine.runtime[0], SPARES: False, AFTER_ABORT: False}
            whole = await _computed(engine, RunnerJob(prompt=long, max_tokens=4, save_prompt_cache=str(file)))
            if not file.exists():
                return poor("the library wrote no file", "Nothing: conversations are not kept on this runtime")
            if not whole:
                return unseen("this runtime does not tell how many tokens it read")
            loading = RunnerJob(prompt=long, max_tokens=4, load_prompt_cache=str(file), load_after_abort=True)
            await _computed(engine, RunnerJob(prompt=other, max_tokens=4))
            done = await engine.run(loading)
            spares = "restored_ms" in done.figures and done.figures["prefill_tokens"] < whole / 2
            bench.answers[SPARES] = spares
            fact = f"{file.stat().st_size} bytes for {whole} tokens"
            if not spares:
                return poor(f"{fact}, and a loaded file spared nothing", "Nothing: conversations are not kept")
            seconds = done.figures["restored_ms"] / 1000
            request = await rendered(engine, (Message("user", LONG),), 512)
            async with aclosing(engine.generate(request)) as events:
                async for _ in events:
                    break
            await engine.settled(request.id)
            try:
                after = await _computed(engine, loading)
            except RunnerLost:
                after = whole
            bench.answers[AFTER_ABORT] = after < whole / 2
    words = "works" if bench.answers[AFTER_ABORT] else "does not work, so the model is loaded again for it"
    return good(f"{fact}, loaded in {seconds:.2f} s; after an abort it {words}")


async def _computed(engine: RkllmEngine, job: RunnerJob) -> int:
    """Prompt tokens that the run had to read."""
    return int((await engine.run(job)).figures.get("prefill_tokens", 0))
