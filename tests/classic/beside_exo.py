"""Runs in the Python that has exo: its own supervisor and runner process, with our builder in the place of MLX's.

    python beside_exo.py MODEL < QUESTIONS    questions and what was heard as JSON, on standard input and output

A question is {"id", "text", and of exo's own parameters what is wanted, "cancel_after": how many chunks}.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

import aiohttp as aiohttp  # what the engine needs in exo's own process, which would end there without a word of it
import anyio
import jinja2 as jinja2
import loguru
from exo.shared.models.model_cards import ModelCard
from exo.shared.types.chunks import Chunk
from exo.shared.types.events import ChunkGenerated, RunnerStatusUpdated, TaskStatusUpdated
from exo.shared.types.memory import Memory
from exo.shared.types.tasks import LoadModel, Shutdown, StartWarmup, TextGeneration
from exo.shared.types.worker.instances import BoundInstance, MlxRingInstance
from exo.shared.types.worker.shards import PipelineShardMetadata
from exo.utils.channels import channel
from exo.worker.runner import bootstrap, supervisor


def entrypoint(bound: Any, events: Any, tasks: Any, cancels: Any, logger: loguru.Logger) -> None:
    """exo's own, but for the engine that it chooses."""
    from exo.worker.engines.base import Builder, Engine
    from exo.worker.runner.runner import Runner

    from exo_rkllm.exo_engine import NpuBuilder, NpuEngine

    bootstrap.logger = logger
    builder = NpuBuilder(cancels)
    assert Builder.__abstractmethods__ <= set(dir(NpuBuilder))
    assert Engine.__abstractmethods__ <= set(dir(NpuEngine))
    try:
        Runner(bound, builder, events, tasks).main()
    except Exception as error:
        events.send(bootstrap.RunnerTerminationError.from_exception(error))
        raise SystemExit(1) from error
    finally:
        for pipe in (events, tasks):
            pipe.close()
            pipe.join()


def bound(model: str) -> BoundInstance:
    card = ModelCard(
        model_id=model,
        storage_size=Memory(in_bytes=1 << 30),
        n_layers=28,
        hidden_size=1,
        supports_tensor=False,
        tasks=["TextGeneration"],
        backends=[],
        is_custom=True,
    )
    shard = PipelineShardMetadata(
        model_card=card, device_rank=0, world_size=1, start_layer=0, end_layer=28, n_layers=28
    )
    assigned = {"model_id": model, "runner_to_shard": {"runner": shard}, "node_to_runner": {"node": "runner"}}
    instance = MlxRingInstance(
        instance_id="instance", shard_assignments=assigned, hosts_by_node={"node": []}, ephemeral_port=50000
    )
    return BoundInstance(instance=instance, bound_runner_id="runner", bound_node_id="node")


async def main(model: str, questions: list[dict[str, Any]]) -> None:
    supervisor.entrypoint = entrypoint
    sends, hears = channel[Any]()
    one = await supervisor.RunnerSupervisor.create(bound_instance=bound(model), event_sender=sends)
    heard: dict[str, dict[str, Any]] = {q["id"]: {"chunks": [], "status": []} for q in questions}
    cancel_after = {q["id"]: q.pop("cancel_after", 0) for q in questions}
    steps: list[str] = []
    news = anyio.Event()

    async def hear() -> None:
        nonlocal news
        async for event in hears:
            match event:
                case ChunkGenerated(command_id=asker, chunk=chunk):
                    found = heard[str(asker)]
                    found["chunks"].append(told(chunk))
                    if cancel_after[str(asker)] == len(found["chunks"]):
                        await one.cancel_task(asker)
                case RunnerStatusUpdated(runner_status=status):
                    steps.append(type(status).__name__)
                case TaskStatusUpdated(task_id=task, task_status=status) if str(task) in heard:
                    heard[str(task)]["status"].append(status.value)
            news.set()
            news = anyio.Event()

    async def until(step: str) -> None:
        while not steps or steps[-1] != step:
            if steps and steps[-1] == "RunnerFailed":
                return
            with anyio.move_on_after(30) as limit:
                await news.wait()
            if limit.cancelled_caught:
                raise TimeoutError(f"no {step} after {', '.join(steps)}")

    async with anyio.create_task_group() as group:
        group.start_soon(hear)
        group.start_soon(one.run)
        with anyio.fail_after(60):
            await one.start_task(LoadModel(instance_id="instance"))
            await until("RunnerLoaded")
            await one.start_task(StartWarmup(instance_id="instance"))
            await until("RunnerReady")
            for question in questions:
                name, text = question.pop("id"), question.pop("text")
                params = {"model": model, "input": [{"role": "user", "content": text}], **question}
                task = TextGeneration(task_id=name, command_id=name, instance_id="instance", task_params=params)
                group.start_soon(partial(one.start_task, task))
            await until("RunnerRunning")
            await until("RunnerReady")
            await one.start_task(Shutdown(instance_id="instance", runner_id="runner"))
            with anyio.move_on_after(10):  # its process may be gone before exo has forwarded the last word of it
                await until("RunnerShutdown")
        one.shutdown()
        group.cancel_scope.cancel()
    json.dump({"steps": steps, "heard": heard}, sys.stdout)


def told(chunk: Chunk) -> dict[str, Any]:
    ((kind, fields),) = chunk.model_dump(mode="json").items()
    return {"kind": kind, **fields}


if __name__ == "__main__":
    loguru.logger.remove()
    loguru.logger.add(sys.stderr, level="WARNING")
    anyio.run(main, sys.argv[1], json.load(sys.stdin))
