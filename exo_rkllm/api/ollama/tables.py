"""What Ollama's API takes."""

from __future__ import annotations

from exo_rkllm.api.common_fields import (
    FUNCTION_TOOL,
    LONGEST_ANSWER,
    MODEL,
    MOST_CALLS,
    MOST_MESSAGES,
    STOP,
    tools_field,
)
from exo_rkllm.sampling import SETTINGS
from exo_rkllm.schema.quantities import Seconds
from exo_rkllm.schema.specs import (
    Anything,
    Either,
    FieldSpec,
    Free,
    List,
    ObjectSpec,
    Switch,
    TaggedSpec,
    Text,
    Whole,
)

AT_LOAD = "Has no effect: it is decided when the model is loaded, and a prompt is never cut to fit."
NO_PROBABILITIES = "the runtime reports no probabilities"
OPTIONS = ObjectSpec(
    "Options",
    (
        *SETTINGS,
        FieldSpec("num_predict", Whole(-2, LONGEST_ANSWER), "Most tokens of the answer; negative values set no limit."),
        STOP,
        FieldSpec("num_ctx", Whole(0), AT_LOAD),
        FieldSpec("num_keep", Whole(), AT_LOAD),
        FieldSpec("num_batch", Whole(), AT_LOAD),
        FieldSpec("num_gpu", Whole(), AT_LOAD),
        FieldSpec("num_thread", Whole(), AT_LOAD),
        FieldSpec("use_mmap", Switch(), AT_LOAD),
    ),
)
KEEP_ALIVE = FieldSpec(
    "keep_alive",
    Either((Seconds(-1e9, 1e9), Text(("",))), Seconds().what),
    "How long the model stays loaded afterwards, in seconds or as a duration such as 5m; 0 unloads it at once, a "
    "negative value never.",
)
THINK = FieldSpec(
    "think",
    Either((Switch(), Text(("low", "medium", "high"))), "true, false, low, medium or high"),
    "Whether the model thinks before it answers; every degree means true.",
)
FORMAT = FieldSpec(
    "format",
    Either((Text(("json", "")), Free()), "json or a JSON Schema"),
    "json, or the JSON Schema of the answer. The model is asked by prompt; an answer that violates it is an error.",
)
IMAGES = FieldSpec("images", List(Text(), most=64), "Up to 64 images in base64, for models that see.")
STREAM = FieldSpec(
    "stream", Switch(), "Whether to send the answer while it is computed, as a JSON object a line; true by default."
)
# Ollama's own API knows the model under both names.
NAMES = (
    FieldSpec("model", Text(most=512), "Name of the model, as GET /api/tags lists it."),
    FieldSpec("name", Text(most=512), "The older name of model."),
)
TOOL_CALL = ObjectSpec(
    "OllamaCall",
    (
        FieldSpec("id", Text(most=256), "Id of the call."),
        FieldSpec(
            "function",
            ObjectSpec(
                "OllamaFunction",
                (
                    FieldSpec("name", Text(least=1, most=256), "Name of the called function.", required=True),
                    FieldSpec("arguments", Free(), "Arguments of the call."),
                ),
            ),
            "The called function and its arguments.",
            required=True,
        ),
    ),
)
MESSAGE = ObjectSpec(
    "OllamaMessage",
    (
        FieldSpec("role", Text(("system", "user", "assistant", "tool")), "Who wrote the message.", required=True),
        FieldSpec("content", Text(), "What the message says."),
        FieldSpec("thinking", Text(), "Thoughts of an earlier answer."),
        IMAGES,
        FieldSpec("tool_calls", List(TOOL_CALL, most=MOST_CALLS), "Tool calls of an earlier answer."),
        FieldSpec("tool_name", Text(most=256), "Name of the tool whose result this is."),
        FieldSpec("tool_call_id", Text(most=256), "Id of the call that this answers."),
    ),
)
COMMON = (
    MODEL,
    STREAM,
    THINK,
    FORMAT,
    FieldSpec("options", OPTIONS, "Sampling, and the length of the answer."),
    KEEP_ALIVE,
    FieldSpec("logprobs", Switch(), "Whether to return log probabilities.", neutral=(False,), why=NO_PROBABILITIES),
    FieldSpec("top_logprobs", Whole(0, 20), "Alternatives per token.", neutral=(0,), why=NO_PROBABILITIES),
)
CHAT = ObjectSpec(
    "OllamaChatRequest",
    (
        *COMMON,
        FieldSpec(
            "messages",
            List(MESSAGE, most=MOST_MESSAGES),
            "The conversation, oldest message first; without one, the model is only loaded.",
        ),
        tools_field(TaggedSpec("type", {"function": FUNCTION_TOOL}, "function")),
    ),
)
GENERATE = ObjectSpec(
    "OllamaGenerateRequest",
    (
        *COMMON,
        FieldSpec("prompt", Text(), "The user's message; without one, the model is only loaded."),
        FieldSpec("system", Text(), "Instructions for the model."),
        IMAGES,
        FieldSpec("raw", Switch(), "Whether the prompt goes to the model as it stands, without a chat template."),
        FieldSpec("suffix", Text(), "Text after the answer.", neutral=("",), why="these models fill no gaps"),
        FieldSpec(
            "template",
            Text(),
            "Prompt template of this request.",
            neutral=("",),
            why="the template belongs to the model's entry",
        ),
        FieldSpec(
            "context",
            List(Anything()),
            "State of an earlier answer.",
            neutral=([],),
            why="conversations are kept by the caller: send them to /api/chat",
        ),
    ),
)
NAMED = ObjectSpec("OllamaModel", NAMES)
SHOW = ObjectSpec(
    "OllamaShowRequest", (*NAMES, FieldSpec("verbose", Switch(), "Has no effect: everything is always listed."))
)
PULL = ObjectSpec(
    "OllamaPullRequest",
    (
        *NAMES,
        STREAM,
        FieldSpec(
            "insecure",
            Switch(),
            "Whether to skip checks of the source.",
            neutral=(False,),
            why="what is fetched is always checked",
        ),
    ),
)
EMBED = ObjectSpec(
    "OllamaEmbedRequest",
    (
        MODEL,
        FieldSpec(
            "input",
            Either((Text(), List(Text(), most=2048)), "a string or a list of them"),
            "The text, or up to 2048 of them; each gets a vector.",
            required=True,
        ),
        FieldSpec("truncate", Switch(), "Has no effect: nothing is cut, and a text that does not fit is refused."),
        FieldSpec("dimensions", Whole(1, 1 << 20), "Length of the vectors; only the model's own is possible."),
        FieldSpec("options", OPTIONS, "Has no effect on vectors."),
        KEEP_ALIVE,
    ),
)
EMBEDDINGS = ObjectSpec(
    "OllamaEmbeddingsRequest",
    (
        MODEL,
        FieldSpec("prompt", Text(), "The text that gets a vector.", required=True),
        FieldSpec("options", OPTIONS, "Has no effect on vectors."),
        KEEP_ALIVE,
    ),
)
