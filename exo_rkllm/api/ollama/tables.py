"""What Ollama's API takes."""

from __future__ import annotations

from exo_rkllm.api import common_fields as common
from exo_rkllm.api.common_fields import body, dropped, refused, required
from exo_rkllm.sampling import SETTINGS
from exo_rkllm.schema.quantities import Seconds
from exo_rkllm.schema.specs import Anything, Either, FieldSpec, Free, List, Switch, TaggedSpec, Text, Whole

AT_LOAD = "Has no effect: it is decided when the model is loaded, and a prompt is never cut to fit."
OPTIONS = body(
    "Options",
    *SETTINGS,
    FieldSpec("num_predict", Whole(-2, 1 << 24), "Most tokens of the answer; negative values set no limit."),
    common.STOP,
    FieldSpec("num_ctx", Whole(0), AT_LOAD),
    FieldSpec("num_keep", Whole(), AT_LOAD),
    FieldSpec("num_batch", Whole(), AT_LOAD),
    FieldSpec("num_gpu", Whole(), AT_LOAD),
    FieldSpec("num_thread", Whole(), AT_LOAD),
    FieldSpec("use_mmap", Switch(), AT_LOAD),
)
KEEP_ALIVE = FieldSpec(
    "keep_alive",
    Either((Seconds(-1e9, 1e9), Text(("",))), Seconds().what),
    "How long the model stays loaded afterwards; 0 unloads it at once, a negative value never.",
)
STREAM = FieldSpec(
    "stream", Switch(), "Whether to send the answer while it is computed, as a JSON object a line; true by default."
)
IMAGES = FieldSpec("images", List(Text(), most=64), "Up to 64 images in base64, for models that see.")
# Ollama's own API knows the model under both names.
NAMES = (
    FieldSpec("model", Text(most=512), "Name of the model, as GET /api/tags lists it."),
    FieldSpec("name", Text(most=512), "The older name of model."),
)
CALLED_FUNCTION = body(
    "OllamaFunction",
    required("name", common.NAME, "Name of the called function."),
    FieldSpec("arguments", Free(), "Arguments of the call."),
)
TOOL_CALL = body(
    "OllamaCall",
    FieldSpec("id", Text(most=256), "Id of the call."),
    required("function", CALLED_FUNCTION, "The called function and its arguments."),
)
MESSAGE = body(
    "OllamaMessage",
    required("role", Text(("system", "user", "assistant", "tool")), "Who wrote the message."),
    FieldSpec("content", Text(), "What the message says."),
    FieldSpec("thinking", Text(), "Thoughts of an earlier answer."),
    IMAGES,
    FieldSpec("tool_calls", List(TOOL_CALL, most=256), "Tool calls of an earlier answer."),
    FieldSpec("tool_name", Text(most=256), "Name of the tool whose result this is."),
    FieldSpec("tool_call_id", Text(most=256), "Id of the call that this answers."),
)
# What chat and generate have in common.
SHARED = (
    common.MODEL,
    STREAM,
    FieldSpec(
        "think",
        Either((Switch(), Text(("low", "medium", "high", "max"))), "true, false, low, medium, high or max"),
        "Whether the model thinks before it answers; every degree means true.",
    ),
    FieldSpec(
        "format",
        Either((Text(("json", "")), Free()), "json or a JSON Schema"),
        common.FORM_ABOUT,
    ),
    FieldSpec("options", OPTIONS, "Sampling, and the length of the answer."),
    common.LORA,
    KEEP_ALIVE,
    *common.LOGPROBS,
)
CHAT = body(
    "OllamaChatRequest",
    *SHARED,
    FieldSpec("messages", common.conversation(MESSAGE, 0), "The conversation; without one, the model is only loaded."),
    common.tools(TaggedSpec("type", {"function": common.FUNCTION_TOOL}, "function")),
)
GENERATE = body(
    "OllamaGenerateRequest",
    *SHARED,
    FieldSpec("prompt", Text(), "The user's message; without one, the model is only loaded."),
    FieldSpec("system", Text(), "Instructions for the model."),
    IMAGES,
    FieldSpec("raw", Switch(), "Whether the prompt goes to the model as it stands, without a chat template."),
    refused("suffix", "Text after the answer.", "these models fill no gaps", ""),
    refused("template", "Prompt template of this request.", "the template belongs to the model's entry", ""),
    refused("context", "State of an earlier answer.", "state is kept by the caller: send it to /api/chat", []),
)
NAMED = body("OllamaModel", *NAMES)
SHOW = body("OllamaShowRequest", *NAMES, FieldSpec("verbose", Switch(), "Has no effect: everything is always listed."))
PULL = body(
    "OllamaPullRequest",
    *NAMES,
    STREAM,
    refused("insecure", "Whether to skip checks of the source.", "what is fetched is always checked", False),
)
COPY = body(
    "OllamaCopyRequest",
    required("source", Text(least=1, most=512), "Name of the model."),
    required("destination", Text(least=1, most=512), "The further name, which lists and answers as the model does."),
)
CREATE = body(
    "OllamaCreateRequest",
    *NAMES,
    STREAM,
    FieldSpec("from", Text(most=512), "Name of the model whose weights it takes."),
    FieldSpec("modelfile", Text(most=1 << 16), "Text of a Modelfile: FROM, SYSTEM, PARAMETER, TEMPLATE, ADAPTER."),
    FieldSpec("system", Text(), "The system message of conversations that have none."),
    FieldSpec("template", Text(), "A chat template in Jinja."),
    FieldSpec("parameters", Free(), "Sampling settings, num_ctx and stop."),
    FieldSpec("adapters", Free(), "Name of a LoRA adapter of that model, as the only key."),
    FieldSpec("files", Free(), "Refused: files are imported on the command line."),
    FieldSpec("messages", List(Free()), "Refused: they belong to a conversation."),
    FieldSpec("license", Anything(), "Has no effect."),
    dropped("quantize", "Quantization of the new model.", "the weights stay as they are", ""),
)
EMBED = body(
    "OllamaEmbedRequest",
    common.MODEL,
    required(
        "input",
        Either((Text(), List(Text(), most=2048)), "a string or a list of strings"),
        "The text, or up to 2048 of them; each gets a vector.",
    ),
    FieldSpec("truncate", Switch(), "Has no effect: nothing is cut, and a text that does not fit is refused."),
    FieldSpec("dimensions", Whole(1, 1 << 20), "Length of the vectors: they are cut to it, and made one long again."),
    FieldSpec("options", OPTIONS, "Has no effect on vectors."),
    KEEP_ALIVE,
)
EMBEDDINGS = body(
    "OllamaEmbeddingsRequest",
    common.MODEL,
    required("prompt", Text(), "The text that gets a vector."),
    FieldSpec("options", OPTIONS, "Has no effect on vectors."),
    KEEP_ALIVE,
)
