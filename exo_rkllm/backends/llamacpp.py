"""llama.cpp's server as a child process, for GGUF models: on the CPU, or on the NPU by a build that can."""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import secrets
import shutil
import signal
import socket
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from exo_rkllm.backends.adapters import Adapter, adapters_of
from exo_rkllm.backends.base import Capabilities, GenerationRequest, Model
from exo_rkllm.backends.chat_body import body as chat_body
from exo_rkllm.backends.chat_client import ChatClient, ChatServerEngine
from exo_rkllm.backends.host import EngineHost
from exo_rkllm.backends.registry import EngineOption, EngineSpec
from exo_rkllm.board import affinity
from exo_rkllm.errors import ExoRkllmError, LoadError, ModelFileError, ModelNotFound, OutOfMemory, RunnerLost
from exo_rkllm.runner.launch import resident_bytes

OPTIONS: Mapping[str, EngineOption] = {
    "program": EngineOption(str, "llama-server", "llama.cpp's server, by name or path"),
    "arguments": EngineOption(list, [], "more arguments for it, such as those of a build for the NPU"),
    "npu": EngineOption(bool, False, "it computes on the NPU, in turns with the others; --device RKNPU implies it"),
    "threads": EngineOption(int, 0, "CPU threads; 0 leaves it to llama.cpp"),
    "gpu_layers": EngineOption(int, 0, "layers for an accelerator that the build knows"),
    "parallel": EngineOption(int, 1, "runs at a time, which share the context"),
    "loras": EngineOption(dict, {}, "adapters (GGUF): name to a file beside the model, or to its path and scale"),
    "lora": EngineOption(str, "", "the adapter that answers are given with; empty means none"),
    "load_seconds": EngineOption(float, 300.0, "how long loading may take"),
    "silence_seconds": EngineOption(float, 300.0, "how long it may say nothing; prefill on a CPU is slow"),
}
TAKES = frozenset(
    ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "frequency_penalty", "presence_penalty", "mirostat",
     "mirostat_tau", "mirostat_eta", "seed")
)  # fmt: skip
# The devices of the builds that compute on the NPU: rk-llama.cpp's and oRKLLM's (board-facts 12).
DEVICE_FLAGS = ("--device", "-dev")
NPU_DEVICES = ("rknpu", "ork")
MAGIC = b"GGUF"
KEPT_LINES = 200
# It says nothing that a program could wait for, so it is asked, less and less often, while it loads and never again.
FIRST_LOOK, LAST_LOOK = 0.02, 0.5
CLOSE = 3.0
DAEMONS_OWN = frozenset({"NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY", "WATCHDOG_USEC", "WATCHDOG_PID"})
# Between its last byte and its exit status.
GRACE = 1.0
# Dies with the daemon, whatever ends that (prctl(2), PR_SET_PDEATHSIG), and survives the exec.
# A process group of its own: Ctrl-C in a terminal is the daemon's.
BOOT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.getppid() == int(sys.argv[1]) or os._exit(0); "
BOOT += "os.setpgid(0, 0); os.execv(sys.argv[2], sys.argv[2:])"
NO_MEMORY = ("out of memory", "failed to allocate", "unable to allocate", "cannot allocate", "bad_alloc")
# What says most comes first: the server's last words are that it ends, its first what is wrong.
TELLING = (*NO_MEMORY, "error loading model:", "error:", "error", "failed", "unknown", "invalid", "unable")
OTHER_CPU = (
    "Its build is for another processor; name one for this in the card: [options] program = '/path/to/llama-server'"
)
STAMP = re.compile(r"^[\d.]+ [A-Z] |\s+(?=\s)")


class LlamaCppEngine(ChatServerEngine):
    def __init__(self, model: Model, host: EngineHost) -> None:
        super().__init__(model)
        self._host = host
        self._options = SPEC.options_of(model)
        self._process: asyncio.subprocess.Process | None = None
        self._output: deque[str] = deque(maxlen=KEPT_LINES)
        self._tasks: list[asyncio.Task[None]] = []
        self._context = model.context
        self._images = False
        self._adapters: list[Adapter] = []

    # ── the process ──────────────────────────────────────────────────────────────────────────────

    async def initialize(self) -> None:
        path, program = self._file(), self._program()
        self._adapters = adapters_of(self.model.id, path.parent, self._options["loras"], self._options["lora"])
        port, key = free_port(), secrets.token_hex(24)
        self._client = ChatClient(
            f"llama-server of {self.model.id}",
            f"http://127.0.0.1:{port}/v1",
            key,
            silence=self._options["silence_seconds"],
            grace=GRACE,
        )
        try:
            with affinity.for_child():
                self._process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-I", "-S", "-c", BOOT, str(os.getpid())),
                    *(program, *self._arguments(path, port)),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    env=environment(key),
                )
            loop = asyncio.get_running_loop()
            self._tasks = [loop.create_task(self._listen(self._process)), loop.create_task(self._mourn(self._process))]
            await asyncio.wait_for(self._ready(self._client), self._options["load_seconds"])
            properties = await self._client.get("/props", root=True)
        except asyncio.TimeoutError:
            await self.close()
            seconds = f"{self._options['load_seconds']:g} s"
            raise LoadError(f"{self.model.id} is not loaded after {seconds}.", "Raise load_seconds.") from None
        except BaseException:
            await self.close()
            raise
        settings = properties.get("default_generation_settings")
        size = settings.get("n_ctx") if isinstance(settings, dict) else None
        self._context = size if isinstance(size, int) else self._context
        senses = properties.get("modalities")
        self._images = isinstance(senses, dict) and senses.get("vision") is True

    def _file(self) -> Path:
        path = self.model.path
        if path is None:
            raise ModelFileError(f"{self.model.id} has no file.", f"exo-rkllm pull {self.model.id}")
        try:
            with path.open("rb") as file:
                magic = file.read(len(MAGIC))
        except OSError as error:
            raise ModelNotFound(f"{path} cannot be read: {error.strerror}.", f"ls -l {path}") from None
        if magic != MAGIC:
            raise ModelFileError(f"{path.name} is no GGUF file.", f"exo-rkllm inspect {path}")
        return path

    def _program(self) -> str:
        program = shutil.which(str(self._options["program"]))
        if program is None:
            raise LoadError(
                f"{self.model.id} needs llama.cpp's server, and there is no program {self._options['program']}.",
                "Install llama.cpp, or name the program in the card: [options] program = '/path/to/llama-server'",
            )
        return program

    def _arguments(self, path: Path, port: int) -> list[str]:
        options = self._options
        arguments = ["-m", str(path), "--host", "127.0.0.1", "--port", str(port), "--jinja"]
        arguments += ["--parallel", str(options["parallel"])]
        arguments += ["-c", str(self.model.context)] if self.model.context else []
        arguments += ["-t", str(options["threads"])] if options["threads"] else []
        arguments += ["-ngl", str(options["gpu_layers"])] if options["gpu_layers"] else []
        for adapter in self._adapters:
            arguments += ["--lora", adapter.path]
        arguments += ["--lora-init-without-apply"] if self._adapters else []
        return [*arguments, *map(str, options["arguments"])]

    async def _ready(self, client: ChatClient) -> None:
        pause = FIRST_LOOK
        while True:
            if client.lost.done():
                raise self._load_error(client.lost.result())
            try:
                await client.get("/health", root=True)
            except ExoRkllmError:
                await asyncio.wait({client.lost}, timeout=pause)
                pause = min(LAST_LOOK, pause * 1.5)
            else:
                return

    def _load_error(self, error: ExoRkllmError) -> LoadError:
        """Why the server ended while it loaded: OutOfMemory where its output says so."""
        if any(word in line.lower() for line in self._output for word in NO_MEMORY):
            return OutOfMemory(error.sentence, "exo-rkllm ps shows what could be unloaded; or set a smaller context.")
        return LoadError(error.sentence, error.hint)

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None, "it was asked for"  # noqa: S101 - narrows the type
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                continue  # a line beyond the buffer is no line of a log
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self._output.append(text)
            self._host.report([text])

    async def _mourn(self, process: asyncio.subprocess.Process) -> None:
        status = await process.wait()
        await self._tasks[0]  # its last words
        if self._client is not None:
            self._client.fail(self._obituary(status))

    def _obituary(self, status: int) -> RunnerLost:
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit code {status}"
        words = next((line for word in TELLING for line in self._output if word in line.lower()), "")
        why = f": {STAMP.sub('', words)[:300].rstrip('.')}" if words else ""
        hint = OTHER_CPU if status == -signal.SIGILL else "Its output is in the log: exo-rkllm logs"
        return RunnerLost(f"llama-server of {self.model.id} {how}{why}.", hint)

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def memory(self) -> int | None:
        return resident_bytes(self.pid)

    # ── answers ──────────────────────────────────────────────────────────────────────────────────

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            chat=True,
            sampling=TAKES,
            images=self._images,
            structure=True,
            logprobs=True,
            parallel=self._options["parallel"],
            context=self._context,
        )

    def body(self, request: GenerationRequest) -> tuple[str, dict[str, Any]]:
        path, value = chat_body(request, self.model.id, self.model.sampling, TAKES, "llama.cpp")
        chosen = request.lora or self._options["lora"]
        # The server knows adapters by their places among its arguments.
        scales = [
            {"id": place, "scale": adapter.scale if adapter.name == chosen else 0.0}
            for place, adapter in enumerate(self._adapters)
        ]
        return path, {**value, "cache_prompt": self.model.reuse, **({"lora": scales} if scales else {})}

    async def close(self) -> None:
        """SIGTERM, and SIGKILL after CLOSE seconds."""
        await super().close()
        process = self._process
        if process is None or not self._tasks:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        _, late = await asyncio.wait(self._tasks, timeout=CLOSE)
        if late:
            with suppress(ProcessLookupError):
                process.kill()
            await asyncio.wait(self._tasks)


def uses_npu(model: Model) -> bool:
    """As the card says, else where its arguments choose a device of an NPU build."""
    declared = model.options.get("npu")
    if isinstance(declared, bool):
        return declared
    arguments = model.options.get("arguments")
    words = [str(word) for word in arguments] if isinstance(arguments, list | tuple) else []
    devices = [value for flag, value in itertools.pairwise(words) if flag in DEVICE_FLAGS]
    devices += [word.partition("=")[2] for word in words if word.startswith(tuple(f"{flag}=" for flag in DEVICE_FLAGS))]
    return any(name.strip().lower().startswith(NPU_DEVICES) for value in devices for name in value.split(","))


def environment(key: str) -> dict[str, str]:
    """The child's environment: with the key, which other users could read among the arguments, and without what systemd
    gave the daemon."""
    rest = {name: value for name, value in os.environ.items() if name not in DAEMONS_OWN}
    return {**rest, "LLAMA_API_KEY": key}


def free_port() -> int:
    """A port that nobody listens on now. If another program takes it first, the key keeps it from being served."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])


SPEC = EngineSpec(
    "llamacpp",
    "llama.cpp's server in a process of its own, on the CPU or by a build for an accelerator",
    make=LlamaCppEngine,
    options=OPTIONS,
    formats=(".gguf",),
    npu_model=uses_npu,
    sampling=TAKES,
    images=True,
    logprobs=True,
)
