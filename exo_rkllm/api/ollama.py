"""Ollama's language: chat, generate, the lists of models, pull and delete, embeddings; with real counts and times."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from aiohttp import web

from exo_rkllm import __version__
from exo_rkllm.api import common_fields
from exo_rkllm.api.answer import NDJSON, quoted, streamed, whole
from exo_rkllm.api.endpoint import Call, Endpoint
from exo_rkllm.api.faults import body_of
from exo_rkllm.api.pulling import pulled
from exo_rkllm.api.response_format import ResponseFormat
from exo_rkllm.api.vectors import embed
from exo_rkllm.backends.base import Finish, GenerationRequest, Image, Message, Piece, Sampling, ToolCall
from exo_rkllm.catalogue.store import Entry
from exo_rkllm.chat.toolcall import read_tool_call
from exo_rkllm.dispatch.status import ModelStatus
from exo_rkllm.errors import ExoRkllmError, NotSupported, UsageError
from exo_rkllm.schema.quantities import Seconds
from exo_rkllm.schema.specs import (
    Anything,
    Either,
    FieldError,
    FieldSpec,
    Free,
    List,
    Number,
    ObjectSpec,
    Switch,
    TaggedSpec,
    Text,
    Whole,
)

# ── tables ───────────────────────────────────────────────────────────────────────────────────────

NO_SAMPLER = "the runtime has no such sampler"
FIXED = "Taken as a wish: it is decided when the model is loaded, and a prompt is never cut to fit."
OPTIONS = ObjectSpec(
    "Options",
    (
        *common_fields.SAMPLING,
        FieldSpec("mirostat", Whole(0, 2), "A sampler that aims at a surprise."),
        FieldSpec("mirostat_tau", Number(0, 1000), "The surprise it aims at."),
        FieldSpec("mirostat_eta", Number(0, 1000), "How fast it learns."),
        FieldSpec(
            "num_predict", Whole(-2, common_fields.LONGEST_ANSWER), "Longest answer; negative: as long as it takes."
        ),
        common_fields.STOP,
        FieldSpec("num_ctx", Whole(0), FIXED),
        FieldSpec("num_keep", Whole(), FIXED),
        FieldSpec("num_batch", Whole(), FIXED),
        FieldSpec("num_gpu", Whole(), FIXED),
        FieldSpec("num_thread", Whole(), FIXED),
        FieldSpec("use_mmap", Switch(), FIXED),
        FieldSpec("min_p", Anything(), "A sampler.", neutral=(0,), why=NO_SAMPLER),
        FieldSpec("typical_p", Anything(), "A sampler.", neutral=(1,), why=NO_SAMPLER),
        FieldSpec("tfs_z", Anything(), "A sampler.", neutral=(1,), why=NO_SAMPLER),
        FieldSpec("repeat_last_n", Anything(), "A window.", neutral=(64,), why="the runtime's window is fixed"),
    ),
)
KEEP_ALIVE = FieldSpec(
    "keep_alive",
    Either((Number(-(10**9), 10**9), Text(most=64)), "a number of seconds or a duration such as 5m"),
    "How long the model stays afterwards: seconds or 5m; 0 unloads it, negative keeps it.",
)
THINK = FieldSpec(
    "think",
    Either((Switch(), Text(("low", "medium", "high"))), "true, false, low, medium or high"),
    "Thinking on or off.",
)
FORMAT = FieldSpec(
    "format",
    Either((Text(("json", "")), Free()), "json or a JSON Schema"),
    "json, or a JSON Schema: asked of the model by prompt, and checked.",
)
IMAGES = FieldSpec("images", List(Text(), most=64), "Images in base64, for models that see.")
STREAM = FieldSpec("stream", Switch(), "Send the answer as it comes, a JSON object a line; on by default.")
# Ollama's own API knows the model under both names.
NAMES = (
    FieldSpec("model", Text(most=512), "The model's name, as GET /api/tags lists it."),
    FieldSpec("name", Text(most=512), "The older name of model."),
)
CALLED = ObjectSpec(
    "OllamaCall",
    (
        FieldSpec("id", Text(most=256), "The call's id."),
        FieldSpec(
            "function",
            ObjectSpec(
                "OllamaFunction",
                (
                    FieldSpec("name", Text(least=1, most=256), "The function.", required=True),
                    FieldSpec("arguments", Free(), "Its arguments."),
                ),
            ),
            "What was called.",
            required=True,
        ),
    ),
)
MESSAGE = ObjectSpec(
    "OllamaMessage",
    (
        FieldSpec("role", Text(("system", "user", "assistant", "tool")), "Who speaks.", required=True),
        FieldSpec("content", Text(), "What is said."),
        FieldSpec("thinking", Text(), "The thoughts of an earlier answer."),
        IMAGES,
        FieldSpec("tool_calls", List(CALLED, most=256), "The calls of an earlier answer."),
        FieldSpec("tool_name", Text(most=256), "The tool that returned this."),
        FieldSpec("tool_call_id", Text(most=256), "The call that this answers."),
    ),
)
TOOLS = FieldSpec(
    "tools",
    List(
        TaggedSpec(
            "type",
            {"function": ObjectSpec("Tool", (FieldSpec("function", common_fields.FUNCTION, "It.", required=True),))},
            "function",
        ),
        most=common_fields.MOST_TOOLS,
    ),
    "Functions that the model may call.",
)
COMMON = (
    common_fields.MODEL,
    STREAM,
    THINK,
    FORMAT,
    FieldSpec("options", OPTIONS, "Sampling."),
    KEEP_ALIVE,
    FieldSpec("logprobs", Switch(), "Probabilities.", neutral=(False,), why="the runtime tells no probabilities"),
    FieldSpec("top_logprobs", Whole(0, 20), "Probabilities.", neutral=(0,), why="the runtime tells no probabilities"),
)
CHAT = ObjectSpec(
    "OllamaChatRequest",
    (
        *COMMON,
        FieldSpec("messages", List(MESSAGE, most=common_fields.MOST_MESSAGES), "The conversation; none only loads."),
        TOOLS,
    ),
)
GENERATE = ObjectSpec(
    "OllamaGenerateRequest",
    (
        *COMMON,
        FieldSpec("prompt", Text(), "The question; none only loads the model."),
        FieldSpec("system", Text(), "How to answer."),
        IMAGES,
        FieldSpec("raw", Switch(), "The prompt goes to the model as it stands."),
        FieldSpec("suffix", Text(), "Text after the answer.", neutral=("",), why="these models fill no gaps"),
        FieldSpec("template", Text(), "A template.", neutral=("",), why="the template belongs to the model's entry"),
        FieldSpec(
            "context",
            List(Anything()),
            "An earlier answer's state.",
            neutral=([],),
            why="conversations are kept by the caller: send them to /api/chat",
        ),
    ),
)
NAMED = ObjectSpec("OllamaModel", NAMES)
SHOW = ObjectSpec("OllamaShowRequest", (*NAMES, FieldSpec("verbose", Switch(), "Not read: everything is told.")))
PULL = ObjectSpec(
    "OllamaPullRequest",
    (
        *NAMES,
        STREAM,
        FieldSpec("insecure", Switch(), "Unchecked.", neutral=(False,), why="what is fetched is always checked"),
    ),
)
EMBED = ObjectSpec(
    "OllamaEmbedRequest",
    (
        common_fields.MODEL,
        FieldSpec("input", Either((Text(), List(Text(), most=2048)), "a string or a list of them"), "Texts.", True),
        FieldSpec("truncate", Switch(), "Not read: nothing is cut, and a text that does not fit is refused."),
        FieldSpec("dimensions", Whole(1, 1 << 20), "Length of the vectors; only the model's own."),
        FieldSpec("options", OPTIONS, "Not read."),
        KEEP_ALIVE,
    ),
)  # fmt: skip
EMBEDDINGS = ObjectSpec(
    "OllamaEmbeddingsRequest",
    (
        common_fields.MODEL,
        FieldSpec("prompt", Text(), "The text.", required=True),
        FieldSpec("options", OPTIONS, "Not read."),
        KEEP_ALIVE,
    ),
)


def seconds_of(value: float | str | None) -> float | None:
    """None where nothing is said."""
    return None if value is None or value == "" else Seconds().check(value, "keep_alive")


# ── chat and generate ────────────────────────────────────────────────────────────────────────────


async def chat(call: Call) -> web.StreamResponse:
    values = call.values
    entry = common_fields.entry_of(call, values["model"])
    if not values.get("messages"):
        return await only_load(call, entry, "message", {"role": "assistant", "content": ""})
    shape = shape_of(values)
    messages = tuple(message_of(value, f"messages[{index}]") for index, value in enumerate(values["messages"]))
    tools = tuple(common_fields.tool_of(tool["function"]) for tool in values.get("tools", ()))
    return await answered(
        call, request_of(entry, values, messages=shape.told(messages), tools=tools), ChatWords(), shape
    )


async def generate(call: Call) -> web.StreamResponse:
    values = call.values
    entry = common_fields.entry_of(call, values["model"])
    if not values.get("prompt"):
        return await only_load(call, entry, "response", "")
    shape = shape_of(values)
    if values.get("raw"):
        if values.get("images") or shape.wanted or values.get("system"):
            raise UsageError("raw goes with a prompt alone: not with system, format or images.", "Leave raw out.")
        return await answered(call, request_of(entry, values, prompt=values["prompt"]), GenerateWords(), shape)
    question = Message("user", values["prompt"], images=images_of(values, "images"))
    system = (Message("system", values["system"]),) if values.get("system") else ()
    return await answered(
        call, request_of(entry, values, messages=shape.told((*system, question))), GenerateWords(), shape
    )


def request_of(entry: Entry, values: Mapping[str, Any], **asked: Any) -> GenerationRequest:
    options = values.get("options", {})
    longest = options.get("num_predict", -1)
    think = values.get("think")
    return GenerationRequest(
        model=entry.id,
        sampling=Sampling(**{name: options[name] for name in Sampling.__dataclass_fields__ if name in options}),
        max_tokens=longest if longest > 0 else None,
        stop=common_fields.stop_of(options.get("stop")),
        thinking=None if think is None else bool(think),
        **asked,
    )


def shape_of(values: Mapping[str, Any]) -> ResponseFormat:
    wanted = values.get("format") or ""
    if isinstance(wanted, str):
        return ResponseFormat("json" if wanted else "text")
    return ResponseFormat("schema", wanted)


def message_of(value: Mapping[str, Any], where: str) -> Message:
    calls = ((at, made, made["function"]) for at, made in enumerate(value.get("tool_calls", ())))
    return Message(
        role=value["role"],
        content=value.get("content", ""),
        reasoning=value.get("thinking", ""),
        tool_calls=tuple(
            ToolCall(made.get("id", f"call_{at}"), function["name"], json.dumps(function.get("arguments", {})))
            for at, made, function in calls
        ),
        tool_call_id=value.get("tool_call_id", ""),
        name=value.get("tool_name", ""),
        images=images_of(value, where),
    )  # fmt: skip


def images_of(value: Mapping[str, Any], where: str) -> tuple[Image, ...]:
    return tuple(
        Image(common_fields.decoded(text, f"{where}.images[{index}]"), "")
        for index, text in enumerate(value.get("images", ()))
    )


def now() -> str:
    return datetime.now(timezone.utc).isoformat().replace("+00:00", "Z")


async def only_load(call: Call, entry: Entry, key: str, nothing: Any) -> web.StreamResponse:
    """A question without words: Ollama's way to load a model beforehand, or to unload it."""
    keep_alive = seconds_of(call.values.get("keep_alive"))
    if keep_alive == 0:
        await call.parts.dispatcher.unload(entry.id)
    else:
        await call.parts.dispatcher.load(entry.id, keep_alive)
    reason = "unload" if keep_alive == 0 else "load"
    return web.json_response(
        {"model": call.values["model"], "created_at": now(), key: nothing, "done": True, "done_reason": reason}
    )


class ChatWords:
    """The part in which chat and generate differ."""

    def text(self, text: str) -> str:
        return f'"message":{{"role":"assistant","content":{quoted(text)}}}'

    def thought(self, text: str) -> str:
        return f'"message":{{"role":"assistant","content":"","thinking":{quoted(text)}}}'

    def calls(self, calls: list[ToolCall]) -> str:
        listed = json.dumps([call_value(made) for made in calls], separators=(",", ":"))
        return f'"message":{{"role":"assistant","content":"","tool_calls":{listed}}}'

    def all(self, text: str, thoughts: str, calls: list[ToolCall]) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thoughts:
            message["thinking"] = thoughts
        if calls:
            message["tool_calls"] = [call_value(made) for made in calls]
        return {"message": message}


class GenerateWords(ChatWords):
    def text(self, text: str) -> str:
        return f'"response":{quoted(text)}'

    def thought(self, text: str) -> str:
        return f'"response":"","thinking":{quoted(text)}'

    def calls(self, calls: list[ToolCall]) -> str:
        return '"response":""'

    def all(self, text: str, thoughts: str, calls: list[ToolCall]) -> dict[str, Any]:
        return {"response": text, **({"thinking": thoughts} if thoughts else {})}


def call_value(made: ToolCall) -> dict[str, Any]:
    return {"id": made.id, "function": {"name": made.name, "arguments": common_fields.arguments_of(made.arguments)}}


async def answered(
    call: Call, request: GenerationRequest, words: ChatWords, shape: ResponseFormat
) -> web.StreamResponse:
    keep_alive = seconds_of(call.values.get("keep_alive"))
    began = time.monotonic()
    name = call.values["model"]
    if call.values.get("stream", True):
        return await streamed(call, [request], OllamaScribe(name, words, shape, began, call.id), NDJSON, keep_alive)
    answer = await whole(call, request, keep_alive)
    said = words.all(shape.checked(answer.content, answer.calls), answer.thoughts, answer.calls)
    return web.json_response({"model": name, "created_at": now(), **said, **done(answer.finish, began)})


def done(finish: Finish, began: float) -> dict[str, Any]:
    """Durations are nanoseconds; none is null, and the prompt's count holds cached tokens too.

    Theirs leaves a count out that it does not know, so a guess is left out here.
    """
    usage, timings = finish.usage, finish.timings
    return {
        "done": True,
        "done_reason": "stop" if finish.reason == "tool_calls" else finish.reason,
        "total_duration": int((time.monotonic() - began) * 1e9),
        "load_duration": int(timings.load * 1e9),
        **({"prompt_eval_count": usage.prompt} if usage.counted else {}),
        "prompt_eval_duration": int(timings.prefill * 1e9),
        "eval_count": usage.completion,
        "eval_duration": int(timings.decode * 1e9),
    }


class OllamaScribe:
    def __init__(self, model: str, words: ChatWords, shape: ResponseFormat, began: float, request_id: str) -> None:
        self._model = quoted(model)
        self._words = words
        self._shape = shape
        self._began = began
        self._request_id = request_id
        self._calls = 0
        self._second = 0
        self._head = ""

    def piece(self, piece: Piece) -> str:
        if piece.kind == "answer":
            text = self._shape.feed(piece.text) if self._shape.wanted else piece.text
            return self._line(self._words.text(text)) if text else ""
        if piece.kind == "thinking":
            return self._line(self._words.thought(piece.text))
        self._calls += 1
        return self._line(self._words.calls([read_tool_call(piece)]))

    def finish(self, finish: Finish) -> str:
        rest = self._shape.end(called=self._calls > 0)
        values = json.dumps(done(finish, self._began), separators=(",", ":"))
        return f"{self._start()}{self._words.text(rest)},{values[1:]}\n"

    def failure(self, error: ExoRkllmError) -> str:
        return body_of(error, "ollama", self._request_id) + "\n"

    def _line(self, said: str) -> str:
        return f'{self._start()}{said},"done":false}}\n'

    def _start(self) -> str:
        """The time of day is written anew once a second: formatting it would be most of a token's cost."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._head = f'{{"model":{self._model},"created_at":"{now()}",'
        return self._head


# ── models ───────────────────────────────────────────────────────────────────────────────────────


def details(entry: Entry) -> dict[str, Any]:
    family = entry.card.chat.family or entry.card.base_model.rpartition("/")[2]
    return {
        "parent_model": entry.card.base_model,
        "format": entry.engine,
        "family": family,
        "families": [family] if family else [],
        "parameter_size": parameters(entry.card.base_model or entry.id),
        "quantization_level": entry.card.quantization,
    }


def parameters(name: str) -> str:
    """As the name says it: 1.5B."""
    found = re.search(r"(?<![a-zA-Z0-9.])(\d+(?:\.\d+)?)([bBmM])(?![a-zA-Z0-9])", name)
    return f"{found[1]}{found[2].upper()}" if found else ""


def listed(entry: Entry) -> dict[str, Any]:
    weights = entry.card.weights
    changed = datetime.fromtimestamp(_changed(entry), timezone.utc)
    return {
        "name": entry.id,
        "model": entry.id,
        "modified_at": changed.isoformat().replace("+00:00", "Z"),
        "size": weights.size if weights else 0,
        "digest": weights.sha256 if weights else "",
        "details": details(entry),
    }


def _changed(entry: Entry) -> float:
    try:
        return entry.folder.stat().st_mtime
    except OSError:
        return 0.0


async def tags(call: Call) -> web.StreamResponse:
    return web.json_response({"models": [listed(entry) for entry in call.parts.catalogue.list()]})


async def ps(call: Call) -> web.StreamResponse:
    entries = {entry.id: entry for entry in call.parts.catalogue.list()}
    status = call.parts.dispatcher.status()
    loaded = [model for model in status.models if model.state in ("ready", "closing")]
    return web.json_response({"models": [running(model, entries.get(model.name)) for model in loaded]})


def running(model: ModelStatus, entry: Entry | None) -> dict[str, Any]:
    """`expires_at` of a model that stays for good is far away, as Ollama says it."""
    far = datetime(2318, 1, 1, tzinfo=timezone.utc)
    expires = far if model.unload_at is None else datetime.fromtimestamp(model.unload_at, timezone.utc)
    base = listed(entry) if entry else {"name": model.name, "model": model.name, "digest": "", "details": {}}
    base.pop("modified_at", None)
    return {
        **base,
        "size": model.memory,
        "size_vram": model.memory,
        "expires_at": expires.isoformat().replace("+00:00", "Z"),
        "context_length": model.context,
    }


def named(call: Call) -> str:
    name = call.values.get("model") or call.values.get("name")
    if not name:
        raise FieldError("model", "model is missing.", "The model's name, as GET /api/tags lists it.")
    return str(name)


async def show(call: Call) -> web.StreamResponse:
    entry = common_fields.entry_of(call, named(call))
    card = entry.card
    habits = entry.chat_format()
    sampling = {
        name: value for name in Sampling.__dataclass_fields__ if (value := getattr(card.sampling, name)) is not None
    }
    abilities = [
        "completion",
        *(["tools"] if habits.tools else []),
        *(["thinking"] if habits.reasoning else []),
    ]
    family = details(entry)["family"] or "rkllm"
    return web.json_response(
        {
            "modelfile": f"# {card.source or entry.id}\nFROM {card.weights.file if card.weights else entry.id}\n",
            "parameters": "\n".join(f"{name} {value}" for name, value in sampling.items()),
            "template": "",
            "details": details(entry),
            "model_info": {
                "general.architecture": family,
                "general.basename": card.base_model,
                f"{family}.context_length": card.context,
                f"{family}.embedding_length": card.hidden_size,
                f"{family}.block_count": card.layers,
            },
            "capabilities": abilities,
            "modified_at": listed(entry)["modified_at"],
        }
    )  # fmt: skip


async def pull(call: Call) -> web.StreamResponse:
    name = call.values.get("model") or call.values.get("name")
    if not name:
        raise FieldError("model", "model is missing.", "ORG/REPO or ORG/REPO:FILE of the Hub.")
    return await pulled(call, name, stream=call.values.get("stream", True))


async def delete(call: Call) -> web.StreamResponse:
    """By the full name: what a shorter one would find when it asks, it must not delete."""
    name = call.parts.catalogue.removable(named(call).removesuffix(":latest"))
    await call.parts.dispatcher.unload(name)
    await asyncio.to_thread(call.parts.catalogue.remove, name)
    return web.json_response({})


async def refused(call: Call) -> web.StreamResponse:
    raise NotSupported(
        f"{call.request.path} is not supported: models are entries with a card here, not layers of Modelfiles.",
        "exo-rkllm import PATH takes files, folders and rkllama's Modelfiles.",
    )


# ── embeddings ───────────────────────────────────────────────────────────────────────────────────


async def embed_many(call: Call) -> web.StreamResponse:
    values = call.values
    began = time.monotonic()
    entry = common_fields.entry_of(call, values["model"])
    texts = [values["input"]] if isinstance(values["input"], str) else values["input"]
    vectors = await embed(call, entry, texts, values.get("dimensions"), seconds_of(values.get("keep_alive")))
    return web.json_response(
        {
            "model": values["model"],
            "embeddings": vectors.lists(),
            "total_duration": int((time.monotonic() - began) * 1e9),
            "load_duration": int(vectors.load * 1e9),
            "prompt_eval_count": vectors.tokens,
        }
    )


async def embed_one(call: Call) -> web.StreamResponse:
    values = call.values
    entry = common_fields.entry_of(call, values["model"])
    vectors = await embed(call, entry, [values["prompt"]], None, seconds_of(values.get("keep_alive")))
    return web.json_response({"embedding": vectors.lists()[0]})


async def version(call: Call) -> web.StreamResponse:
    return web.json_response({"version": __version__})


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint("POST", "/api/chat", chat, "Answer a conversation.", "ollama", body=CHAT, streams=NDJSON),
    Endpoint("POST", "/api/generate", generate, "Answer a prompt.", "ollama", body=GENERATE, streams=NDJSON),
    Endpoint("GET", "/api/tags", tags, "The models of the catalogue.", "ollama"),
    Endpoint("GET", "/api/ps", ps, "The models that are loaded.", "ollama"),
    Endpoint("POST", "/api/show", show, "One model.", "ollama", body=SHOW, statuses=(404,)),
    Endpoint("POST", "/api/pull", pull, "Fetch a model.", "ollama", "control", body=PULL, streams=NDJSON),
    Endpoint("DELETE", "/api/delete", delete, "Remove a model.", "ollama", "control", body=NAMED),
    Endpoint("POST", "/api/create", refused, "Not supported.", "ollama", "control"),
    Endpoint("POST", "/api/copy", refused, "Not supported.", "ollama", "control"),
    Endpoint("POST", "/api/push", refused, "Not supported.", "ollama", "control"),
    Endpoint("POST", "/api/embed", embed_many, "Vectors of texts.", "ollama", body=EMBED),
    Endpoint("POST", "/api/embeddings", embed_one, "The vector of a text.", "ollama", body=EMBEDDINGS),
    Endpoint("GET", "/api/version", version, "The daemon's version.", "ollama", "open"),
)
