"""From Ollama's bodies to our requests, and from our answers and models to its values."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Protocol

from exo_rkllm.api import common_fields
from exo_rkllm.api.response_format import ResponseFormat
from exo_rkllm.backends.base import Finish, GenerationRequest, Image, Message, ToolCall
from exo_rkllm.catalogue.entry import Entry
from exo_rkllm.catalogue.progress import PullProgress, PullStage
from exo_rkllm.dispatch.status import ModelStatus
from exo_rkllm.errors import UsageError
from exo_rkllm.files.stamps import stamp_of
from exo_rkllm.schema.specs import FieldError

# When a model is unloaded that stays for good.
FAR_FUTURE = datetime(2318, 1, 1, tzinfo=timezone.utc)
PULL_STATUS: Mapping[PullStage, str] = {
    "resolving": "pulling manifest",
    "verifying": "verifying sha256 digest",
    "writing": "writing manifest",
    "done": "success",
}

# ── questions ────────────────────────────────────────────────────────────────────────────────────


def keep_alive_of(values: Mapping[str, Any]) -> float | None:
    """Seconds; None leaves it to the configuration."""
    value: float | str = values.get("keep_alive", "")
    return None if isinstance(value, str) else value


def format_of(values: Mapping[str, Any]) -> ResponseFormat:
    value = values.get("format") or ""
    return ResponseFormat("json" if value else "text") if isinstance(value, str) else ResponseFormat("schema", value)


def chat_request(entry: Entry, values: Mapping[str, Any], shape: ResponseFormat) -> GenerationRequest:
    messages = [_message(value, f"messages[{index}]") for index, value in enumerate(values["messages"])]
    tools = tuple(common_fields.tool_of(tool["function"]) for tool in values.get("tools", ()))
    return _request(entry, values, messages=shape.with_instructions(messages), tools=tools, structure=shape.structure)


def generate_request(entry: Entry, values: Mapping[str, Any], shape: ResponseFormat) -> GenerationRequest:
    if values.get("raw"):
        if values.get("images") or shape.enabled or values.get("system"):
            raise UsageError("raw goes with a prompt alone: not with system, format or images.", "Leave raw out.")
        return _request(entry, values, prompt=values["prompt"])
    system = [Message("system", values["system"])] if values.get("system") else []
    question = Message("user", values["prompt"], images=_images(values, "images"))
    messages = shape.with_instructions([*system, question])
    return _request(entry, values, messages=messages, structure=shape.structure)


def _request(entry: Entry, values: Mapping[str, Any], **content: Any) -> GenerationRequest:
    options = values.get("options", {})
    longest = options.get("num_predict", -1)
    think = values.get("think")
    return GenerationRequest(
        model=entry.id,
        sampling=common_fields.sampling_of(options),
        max_tokens=longest if longest > 0 else None,
        stop=common_fields.stop_of(options.get("stop")),
        thinking=None if think is None else bool(think),
        **content,
    )


def _message(value: Mapping[str, Any], where: str) -> Message:
    return Message(
        role=value["role"],
        content=value.get("content", ""),
        reasoning=value.get("thinking", ""),
        tool_calls=tuple(
            ToolCall(
                call.get("id", f"call_{index}"),
                call["function"]["name"],
                json.dumps(call["function"].get("arguments", {})),
            )
            for index, call in enumerate(value.get("tool_calls", ()))
        ),
        tool_call_id=value.get("tool_call_id", ""),
        name=value.get("tool_name", ""),
        images=_images(value, where),
    )


def _images(value: Mapping[str, Any], where: str) -> tuple[Image, ...]:
    return tuple(
        Image(common_fields.base64_bytes(text, f"{where}.images[{index}]"), "")
        for index, text in enumerate(value.get("images", ()))
    )


def model_name(values: Mapping[str, Any], hint: str = "Name of the model, as GET /api/tags lists it.") -> str:
    name = values.get("model") or values.get("name")
    if not name:
        raise FieldError("model", "model is missing.", hint)
    return str(name)


# ── answers ──────────────────────────────────────────────────────────────────────────────────────


class Content(Protocol):
    """The part in which the answers of chat and generate differ."""

    def __call__(self, text: str, thinking: str = "", calls: Sequence[ToolCall] = ()) -> dict[str, Any]: ...


def chat_content(text: str, thinking: str = "", calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if thinking:
        message["thinking"] = thinking
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "function": {"name": call.name, "arguments": common_fields.arguments_of(call.arguments)}}
            for call in calls
        ]
    return {"message": message}


def generate_content(text: str, thinking: str = "", calls: Sequence[ToolCall] = ()) -> dict[str, Any]:
    return {"response": text, **({"thinking": thinking} if thinking else {})}


def end_value(finish: Finish, began: float) -> dict[str, Any]:
    """Durations are nanoseconds; none is null, and the prompt's count holds cached tokens too.

    Theirs leaves a count out that it does not know, and so does this.
    """
    usage, timings = finish.usage, finish.timings
    speed = timings.tokens_per_second(usage.completion)  # clients divide the count by the duration
    return {
        "done": True,
        "done_reason": "stop" if finish.reason == "tool_calls" else finish.reason,
        "total_duration": nanoseconds(time.monotonic() - began),
        "load_duration": nanoseconds(timings.load),
        **({"prompt_eval_count": usage.prompt} if usage.counted else {}),
        "prompt_eval_duration": nanoseconds(timings.prefill),
        "eval_count": usage.completion,
        "eval_duration": nanoseconds(usage.completion / speed if speed else timings.decode),
    }


def nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def now() -> str:
    return iso_time(datetime.now(timezone.utc))


def iso_time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def pull_value(step: PullProgress) -> dict[str, Any]:
    """Clients draw a bar for each digest, and wait for the word success."""
    if step.stage != "downloading":
        return {"status": PULL_STATUS.get(step.stage, step.text)}
    digest = f"sha256:{step.sha256}" if step.sha256 else step.file
    return {"status": f"pulling {step.file}", "digest": digest, "total": step.total, "completed": step.done}


# ── models ───────────────────────────────────────────────────────────────────────────────────────


def model_value(entry: Entry) -> dict[str, Any]:
    weights = entry.card.weights
    return {
        "name": entry.id,
        "model": entry.id,
        "modified_at": iso_time(datetime.fromtimestamp(common_fields.modified_seconds(entry), timezone.utc)),
        "size": weights.size if weights else 0,
        "digest": (weights.sha256 if weights else "") or _digest(entry.id, *stamp_of(entry.path or entry.folder)),
        "details": _details(entry),
    }


def _digest(*facts: str | int) -> str:
    """Of a file whose SHA-256 nobody computed: clients cut it, and take a model with another one for changed."""
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def _details(entry: Entry) -> dict[str, Any]:
    family = entry.family
    return {
        "parent_model": entry.card.base_model,
        "format": entry.engine,
        "family": family,
        "families": [family],
        "parameter_size": _parameter_size(entry.card.base_model or entry.id),
        "quantization_level": entry.card.quantization,
    }


def _parameter_size(name: str) -> str:
    """As the name says it: 1.5B."""
    match = re.search(r"(?<![a-zA-Z0-9.])(\d+(?:\.\d+)?)([bBmM])(?![a-zA-Z0-9])", name)
    return f"{match[1]}{match[2].upper()}" if match else ""


def loaded_model_value(model: ModelStatus, entry: Entry | None) -> dict[str, Any]:
    expires = FAR_FUTURE if model.unload_at is None else datetime.fromtimestamp(model.unload_at, timezone.utc)
    unlisted = {"name": model.name, "model": model.name, "digest": _digest(model.name), "details": {}}
    value = model_value(entry) if entry else unlisted
    value.pop("modified_at", None)
    return {
        **value,
        "size": model.memory,
        "size_vram": model.memory,
        "expires_at": iso_time(expires),
        "context_length": model.context,
    }


def modelfile_of(entry: Entry) -> str:
    """A Modelfile from which `create` makes the same model again."""
    card = entry.card
    lines = [f"# {card.source or entry.id}", f"FROM {entry.id}"]
    lines += [f"PARAMETER {name} {value}" for name, value in card.sampling.explicit().items()]
    lines += [f"PARAMETER stop {json.dumps(text, ensure_ascii=False)}" for text in card.chat.stop]
    lines += [f'SYSTEM """{card.chat.system}"""'] if card.chat.system else []
    return "\n".join(lines) + "\n"


def show_value(entry: Entry) -> dict[str, Any]:
    card, chat, model = entry.card, entry.chat_format(), model_value(entry)
    family = model["details"]["family"]
    return {
        "modelfile": modelfile_of(entry),
        "parameters": "\n".join(f"{name} {value}" for name, value in card.sampling.explicit().items()),
        "template": "",
        "details": model["details"],
        "model_info": {
            "general.architecture": family,
            "general.basename": card.name or card.base_model.rpartition("/")[2] or entry.id,
            f"{family}.context_length": card.context,
            f"{family}.embedding_length": card.hidden_size,
            f"{family}.block_count": card.layers,
        },
        "capabilities": [
            "completion",
            *(["tools"] if chat.tools else []),
            *(["thinking"] if chat.reasoning else []),
            *(["vision"] if entry.vision else []),
        ],
        "modified_at": model["modified_at"],
    }
