"""What OpenAI's chat completions, completions and embeddings take."""

from __future__ import annotations

from exo_rkllm.api import common_fields as common
from exo_rkllm.api.common_fields import body, dropped, refused, required, text_or_parts
from exo_rkllm.sampling import SETTINGS
from exo_rkllm.schema.specs import Either, FieldSpec, Free, List, Switch, TaggedSpec, Text, Whole

ONE_ANSWER = "the NPU computes one answer at a time"
TEXT_ANSWERS = "answers are text"
TOKEN_IDS = List(Whole(0), least=1, most=1 << 20)

TEXT_PART = body("TextPart", required("text", Text(), "Text of the part."))
IMAGE_URL = body("ImageUrl", required("url", Text(least=1), common.DATA_URL_ABOUT))
IMAGE_PART = body("ImagePart", required("image_url", IMAGE_URL, "An image, for models that see."))
TEXT = text_or_parts({"text": TEXT_PART}, "text")
CONTENT = text_or_parts({"text": TEXT_PART, "image_url": IMAGE_PART}, "text")
SPEAKER = FieldSpec("name", Text(most=256), "Name of the speaker.")
CALLED_FUNCTION = body(
    "CalledFunction",
    required("name", common.NAME, "Name of the called function."),
    FieldSpec("arguments", Text(), "Arguments of the call, as JSON text."),
)
TOOL_CALL = body(
    "ToolCall",
    required("id", Text(most=256), "Id of the call; the tool's message repeats it."),
    required("function", CALLED_FUNCTION, "The called function and its arguments."),
)
SYSTEM = body("SystemMessage", required("content", TEXT, "Instructions for the model."), SPEAKER)
MESSAGE = TaggedSpec(
    "role",
    {
        "system": SYSTEM,
        "developer": SYSTEM,
        "user": body("UserMessage", required("content", CONTENT, "The user's message."), SPEAKER),
        "assistant": body(
            "AssistantMessage",
            FieldSpec("content", TEXT, "Text of an earlier answer."),
            FieldSpec("reasoning_content", Text(), "Thoughts of an earlier answer."),
            FieldSpec("tool_calls", List(TOOL_CALL, most=256), "Tool calls of an earlier answer."),
            SPEAKER,
        ),
        "tool": body(
            "ToolMessage",
            required("content", TEXT, "Result of the tool."),
            FieldSpec("tool_call_id", Text(most=256), "Id of the call that this answers."),
            SPEAKER,
        ),
    },
)
TOOL_NAME = body("ToolName", required("name", common.NAME, "Name of the function."))
NAMED_TOOL = body("NamedTool", required("function", TOOL_NAME, "The function that the model must call."))
ALLOWED_TOOLS = body(
    "AllowedTools",
    required("allowed_tools", common.allowed_tools("AllowedToolList", NAMED_TOOL), "The tools that may be called."),
)
JSON_SCHEMA = common.schema_format("JsonSchema", FieldSpec("schema", Free(), "JSON Schema of the answer."))
RESPONSE_FORMAT = TaggedSpec(
    "type",
    {
        "text": body("TextFormat"),
        "json_object": body("JsonObject"),
        "json_schema": body(
            "JsonSchemaFormat", required("json_schema", JSON_SCHEMA, "The schema that the answer must satisfy.")
        ),
    },
)
STREAM_OPTIONS = body("StreamOptions", FieldSpec("include_usage", Switch(), "Whether a last chunk reports the usage."))
TEMPLATE_SWITCHES = body(
    "TemplateSwitches", FieldSpec("enable_thinking", Switch(), "Whether the model thinks before it answers.")
)
# What chat and completions have in common.
SHARED = (
    FieldSpec("stream", Switch(), "Whether to send the answer as server-sent events while it is computed."),
    FieldSpec("stream_options", STREAM_OPTIONS, "Options of the stream."),
    FieldSpec(
        "max_tokens", common.MOST_TOKENS, "Most tokens of the answer, thoughts included; -1, the default, is no limit."
    ),
    *SETTINGS,
    common.STOP,
    common.USER,
    common.LORA,
    FieldSpec("metadata", Free(most=64), "Your own notes on the request; they have no effect."),
    refused("n", "Number of answers.", ONE_ANSWER, 1),
    dropped("logit_bias", "Bias of single tokens.", "single tokens cannot be biased", {}),
    FieldSpec("response_format", RESPONSE_FORMAT, common.FORM_ABOUT),
    *common.CONSTRAINTS,
)
CHAT = body(
    "ChatCompletionRequest",
    common.MODEL,
    required("messages", common.conversation(MESSAGE), "The conversation, oldest message first."),
    *SHARED,
    FieldSpec("max_completion_tokens", common.MOST_TOKENS, "The newer name of max_tokens; it has priority."),
    common.tools(TaggedSpec("type", {"function": common.FUNCTION_TOOL})),
    common.tool_choice(NAMED_TOOL, ALLOWED_TOOLS),
    common.PARALLEL_CALLS,
    FieldSpec("reasoning_effort", common.EFFORT, common.EFFORT_ABOUT),
    FieldSpec(
        "chat_template_kwargs",
        TEMPLATE_SWITCHES,
        "The switch for thinking, as vLLM and SGLang name it; it has priority over reasoning_effort.",
    ),
    FieldSpec("enable_thinking", Switch(), "The same switch, as exo names it."),
    *common.LOGPROBS,
    refused("functions", "The older form of tools.", "it was replaced by tools", []),
    refused("function_call", "The older form of tool_choice.", "it was replaced by tool_choice", "none"),
    refused("modalities", "Kinds of output.", TEXT_ANSWERS, ["text"]),
    refused("audio", "Voice and format of a spoken answer.", TEXT_ANSWERS),
)
COMPLETION = body(
    "CompletionRequest",
    common.MODEL,
    required(
        "prompt",
        Either(
            (Text(), TOKEN_IDS, List(Text(), least=1, most=64), List(TOKEN_IDS, least=1, most=64)),
            "a string, token ids, or a list of one of them",
        ),
        "The text to continue, or up to 64 of them; no chat template is applied.",
    ),
    *SHARED,
    FieldSpec("echo", Switch(), "Whether the answer begins with the prompt; for token ids only with logprobs."),
    dropped("best_of", "Number of candidates to choose from.", ONE_ANSWER, 1),
    refused("suffix", "Text after the answer.", "these models fill no gaps", ""),
    FieldSpec(
        "logprobs",
        Whole(0, 20),
        "Log probabilities of the answer's tokens and of so many alternatives, with echo those of the prompt's, too. "
        "They take another run over the text and have no effect in a stream.",
    ),
)
EMBEDDING = body(
    "EmbeddingRequest",
    common.MODEL,
    required(
        "input",
        Either(
            (
                Text(least=1),
                List(Text(least=1), least=1, most=2048),
                TOKEN_IDS,
                List(TOKEN_IDS, least=1, most=2048),
            ),
            "a string, token ids, or a list of one of them",
        ),
        "The text, or up to 2048 of them; each gets a vector.",
    ),
    FieldSpec("encoding_format", Text(("float", "base64")), "How vectors are written: as numbers, or in base64."),
    FieldSpec("dimensions", Whole(1, 1 << 20), "Length of the vectors: they are cut to it, and made one long again."),
    FieldSpec(
        "input_type",
        Text(("query", "document", "passage", "search_query", "search_document")),
        "Whether the texts are queries or documents, for models that want a prefix before one of them.",
    ),
    common.USER,
)
