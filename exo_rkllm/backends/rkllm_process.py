"""The process that holds one model of the NPU engine: how it is loaded, and what it can do then."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from exo_rkllm.backends.adapters import Adapter, adapters_of
from exo_rkllm.backends.base import Capabilities, Model
from exo_rkllm.backends.host import EngineHost, takes_domains
from exo_rkllm.backends.rkllm_load import capabilities_of, check_file, choose_runtime, load_params, log_environment
from exo_rkllm.backends.rkllm_prefixes import PrefixProcess, prefix_process
from exo_rkllm.backends.rkllm_sampling import LoadedSampling
from exo_rkllm.errors import ModelFileError, RunnerLost
from exo_rkllm.files.stamps import stamp_of
from exo_rkllm.runner.parent import Runner
from exo_rkllm.runtime import modelfile
from exo_rkllm.runtime.selection import OPTION, RuntimeChoice


class NpuProcess:
    """`runner` is None until `start`, which may be called again once that one is closed. `options` are the card's."""

    def __init__(self, model: Model, host: EngineHost, options: Mapping[str, Any], sampling: LoadedSampling) -> None:
        self._model = model
        self._host = host
        self._options = options
        self._sampling = sampling
        self.runner: Runner | None = None
        self.choice: RuntimeChoice | None = None
        self.capabilities = Capabilities()
        self.vocabulary = 0  # how many token ids there are; 0 where the file does not say
        self.keeps_history = False
        self.clears = True  # before 1.2.0 nothing can be cleared, since nothing is kept between two runs
        self.image_sizes = False  # before 1.2.1b1: one picture a prompt, without its size

    def loaded(self) -> Runner:
        if self.runner is None:
            raise RunnerLost(f"{self._model.id} is not loaded.", "Load it first: exo-rkllm load NAME")
        return self.runner

    def _domain(self, release: str) -> int:
        """The NPU's address window: dispatch's choice, else the card's, else the board's."""
        if self._model.domain is not None:
            return self._model.domain
        if "base_domain_id" in self._model.options:
            return int(self._options["base_domain_id"])
        return self._host.domain if takes_domains(release) else 0

    async def start(self, sampling: Mapping[str, float]) -> PrefixProcess | None:
        """Loads the model with this sampling, and tells what can be kept of its conversations; None for nothing."""
        model, host, options = self._model, self._host, self._options
        if model.path is None:
            raise ModelFileError(f"{model.id} has no file.", f"exo-rkllm pull {model.id}")
        facts = modelfile.inspect(model.path)
        choice = choose_runtime(model.id, facts, options[OPTION], host)
        release = choice.release
        check_file(facts, host.platform, release, model.context)
        self.vocabulary = 0 if facts.vocab_size is None else facts.vocab_size.value
        adapters = adapters_of(model.id, model.path.parent, options["loras"], options["lora"])
        began = time.monotonic()
        runner, session_facts = await Runner.start(
            model.id,
            choice.path,
            load_params(model, facts, {**options, "base_domain_id": self._domain(release)}, host, release, sampling),
            report=host.report,
            limits=host.limits,
            preload=model.preload.after(host.native),
            environment=log_environment(release),
            vocabulary=self.vocabulary,
            spare=host.spare,
        )
        self.runner, self._sampling.loaded, self.choice = runner, sampling, choice
        try:
            await self._prepare(runner, session_facts, adapters)
        except BaseException:
            await runner.close()
            raise
        own = model.reuse and self.clears and not self.keeps_history and not options["prompt_cache"]
        parts = (stamp_of(model.path), choice.release, choice.stamp, self.capabilities.context, adapters)
        process = prefix_process(model.path, parts, session_facts, time.monotonic() - began)
        return process if own else None

    async def _prepare(self, runner: Runner, session_facts: Mapping[str, Any], adapters: Sequence[Adapter]) -> None:
        """Sets what is set once a model: our own template instead of the runtime's, adapters, a saved prompt."""
        features, own_template = session_facts["supports"], self._options["runtime_template"]
        if "set_chat_template" in features and not own_template:
            await runner.call("set_chat_template", system_prompt="", prefix="", postfix="")
        for adapter in adapters:
            await runner.call("load_lora", **adapter._asdict())
        if self._options["prompt_cache"]:
            await runner.call("load_prompt_cache", path=self._options["prompt_cache"])
        self.keeps_history = own_template and "keep_history" in features
        self.clears = "clear_kv" in features
        self.image_sizes = "image_sizes" in features
        self._sampling.per_run = "sampling_per_run" in features
        sees = self._model.vision is not None and self._host.pictures is not None
        self.capabilities = capabilities_of(session_facts, own_template=own_template, sees=sees)
