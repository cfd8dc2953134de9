"""What OpenAI's chat completions, completions and embeddings take."""

from __future__ import annotations

from exo_rkllm.api.common_fields import (
    FUNCTION_TOOL,
    LONGEST_ANSWER,
    MODEL,
    MOST_CALLS,
    MOST_MESSAGES,
    MOST_PARTS,
    PARALLEL_CALLS,
    STOP,
    json_schema,
    tools_field,
)
from exo_rkllm.sampling import SETTINGS
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

ONE_ANSWER = "the NPU computes one answer at a time"
NO_PROBABILITIES = "the runtime reports no probabilities"
TEXT_ANSWERS = "answers are text"

TEXT_PART = ObjectSpec("TextPart", (FieldSpec("text", Text(), "Text of the part.", required=True),))
IMAGE_PART = ObjectSpec(
    "ImagePart",
    (
        FieldSpec(
            "image_url",
            ObjectSpec(
                "ImageUrl",
                (FieldSpec("url", Text(least=1), "The image as a data URL: data:image/png;base64,...", required=True),),
            ),
            "An image, for models that see.",
            required=True,
        ),
    ),
)
CONTENT = Either(
    (Text(), List(TaggedSpec("type", {"text": TEXT_PART, "image_url": IMAGE_PART}, "text"), most=MOST_PARTS)),
    "a string or a list of parts",
)
TEXT_CONTENT = Either(
    (Text(), List(TaggedSpec("type", {"text": TEXT_PART}, "text"), most=MOST_PARTS)), "a string or a list of parts"
)
NAME = FieldSpec("name", Text(most=256), "Name of the speaker.")
TOOL_CALL = ObjectSpec(
    "ToolCall",
    (
        FieldSpec("id", Text(most=256), "Id of the call; the tool's message repeats it.", required=True),
        FieldSpec(
            "function",
            ObjectSpec(
                "CalledFunction",
                (
                    FieldSpec("name", Text(least=1, most=256), "Name of the called function.", required=True),
                    FieldSpec("arguments", Text(), "Arguments of the call, as JSON text."),
                ),
            ),
            "The called function and its arguments.",
            required=True,
        ),
    ),
)
SYSTEM = ObjectSpec(
    "SystemMessage", (FieldSpec("content", TEXT_CONTENT, "Instructions for the model.", required=True), NAME)
)
MESSAGE = TaggedSpec(
    "role",
    {
        "system": SYSTEM,
        "developer": SYSTEM,
        "user": ObjectSpec("UserMessage", (FieldSpec("content", CONTENT, "The user's message.", required=True), NAME)),
        "assistant": ObjectSpec(
            "AssistantMessage",
            (
                FieldSpec("content", TEXT_CONTENT, "Text of an earlier answer."),
                FieldSpec("reasoning_content", Text(), "Thoughts of an earlier answer."),
                FieldSpec("tool_calls", List(TOOL_CALL, most=MOST_CALLS), "Tool calls of an earlier answer."),
                NAME,
            ),
        ),
        "tool": ObjectSpec(
            "ToolMessage",
            (
                FieldSpec("content", TEXT_CONTENT, "Result of the tool.", required=True),
                FieldSpec("tool_call_id", Text(most=256), "Id of the call that this answers."),
                NAME,
            ),
        ),
    },
)
NAMED_TOOL = ObjectSpec(
    "NamedTool",
    (
        FieldSpec(
            "function",
            ObjectSpec(
                "ToolName", (FieldSpec("name", Text(least=1, most=256), "Name of the function.", required=True),)
            ),
            "The function that the model must call.",
            required=True,
        ),
    ),
)
TOOL_CHOICE = FieldSpec(
    "tool_choice",
    Either(
        (Text(("none", "auto", "required")), TaggedSpec("type", {"function": NAMED_TOOL})),
        "none, auto, required, or a named function",
    ),
    "Whether the model calls functions: none, auto, required, or one named function.",
)
RESPONSE_FORMAT = FieldSpec(
    "response_format",
    TaggedSpec(
        "type",
        {
            "text": ObjectSpec("TextFormat", ()),
            "json_object": ObjectSpec("JsonObject", ()),
            "json_schema": ObjectSpec(
                "JsonSchemaFormat",
                (
                    FieldSpec(
                        "json_schema",
                        ObjectSpec(
                            "JsonSchema", json_schema(FieldSpec("schema", Free(), "JSON Schema of the answer."))
                        ),
                        "The schema that the answer must satisfy.",
                        required=True,
                    ),
                ),
            ),
        },
    ),
    "Form of the answer. The model is asked for it by prompt; an answer that violates it is an error.",
)
STREAM = FieldSpec("stream", Switch(), "Whether to send the answer as server-sent events while it is computed.")
STREAM_OPTIONS = FieldSpec(
    "stream_options",
    ObjectSpec("StreamOptions", (FieldSpec("include_usage", Switch(), "Whether a last chunk reports the usage."),)),
    "Options of the stream.",
)
MAX_TOKENS = FieldSpec(
    "max_tokens", Whole(1, LONGEST_ANSWER), "Most tokens of the answer, thoughts included; by default until it ends."
)
# What is the client's own business, and changes nothing about an answer.
BOOKKEEPING: tuple[FieldSpec, ...] = (
    FieldSpec("user", Text(most=1000), "Your own id of the user; it has no effect."),
    FieldSpec("metadata", Free(most=64), "Your own notes on the request; they have no effect."),
)
# Known parameters that cannot be honoured: their neutral value is taken, anything else is refused.
REFUSED: tuple[FieldSpec, ...] = (
    FieldSpec("n", Whole(1, 128), "Number of answers.", neutral=(1,), why=ONE_ANSWER),
    FieldSpec("logit_bias", Free(), "Bias of single tokens.", neutral=({},), why="the runtime takes no bias"),
)
CHAT = ObjectSpec(
    "ChatCompletionRequest",
    (
        MODEL,
        FieldSpec(
            "messages", List(MESSAGE, least=1, most=MOST_MESSAGES), "The conversation, oldest message first.", True
        ),
        STREAM,
        STREAM_OPTIONS,
        MAX_TOKENS,
        FieldSpec("max_completion_tokens", Whole(1, LONGEST_ANSWER), "The newer name of max_tokens; it has priority."),
        *SETTINGS,
        STOP,
        tools_field(TaggedSpec("type", {"function": FUNCTION_TOOL})),
        TOOL_CHOICE,
        PARALLEL_CALLS,
        RESPONSE_FORMAT,
        FieldSpec(
            "reasoning_effort",
            Text(("none", "minimal", "low", "medium", "high", "xhigh")),
            "none switches thinking off; every other value switches it on, as models know no degrees.",
        ),
        FieldSpec(
            "chat_template_kwargs",
            ObjectSpec(
                "TemplateSwitches", (FieldSpec("enable_thinking", Switch(), "Whether the model thinks first."),)
            ),
            "The switch for thinking, as vLLM and SGLang name it; it has priority over reasoning_effort.",
        ),
        *BOOKKEEPING,
        *REFUSED,
        FieldSpec("logprobs", Switch(), "Whether to return log probabilities.", neutral=(False,), why=NO_PROBABILITIES),
        FieldSpec("top_logprobs", Whole(0, 20), "Alternatives per token.", neutral=(0,), why=NO_PROBABILITIES),
        FieldSpec(
            "functions", List(Anything()), "The older form of tools.", neutral=([],), why="it was replaced by tools"
        ),
        FieldSpec(
            "function_call",
            Anything(),
            "The older form of tool_choice.",
            neutral=("none",),
            why="it was replaced by tool_choice",
        ),
        FieldSpec("modalities", List(Text()), "Kinds of output.", neutral=(["text"],), why=TEXT_ANSWERS),
        FieldSpec("audio", Anything(), "Voice and format of a spoken answer.", neutral=(), why=TEXT_ANSWERS),
    ),
)
COMPLETION = ObjectSpec(
    "CompletionRequest",
    (
        MODEL,
        FieldSpec(
            "prompt",
            Either(
                (
                    Text(),
                    List(Whole(0), least=1, most=1 << 20),
                    List(Text(), least=1, most=64),
                    List(List(Whole(0), least=1, most=1 << 20), least=1, most=64),
                ),
                "a string, token ids, or a list of one of them",
            ),
            "The text to continue, or up to 64 of them; no chat template is applied.",
            required=True,
        ),
        STREAM,
        STREAM_OPTIONS,
        MAX_TOKENS,
        *SETTINGS,
        STOP,
        FieldSpec("echo", Switch(), "Whether the answer begins with the prompt; for prompts that are text."),
        *BOOKKEEPING,
        *REFUSED,
        FieldSpec("best_of", Whole(1, 128), "Number of candidates to choose from.", neutral=(1,), why=ONE_ANSWER),
        FieldSpec("suffix", Text(), "Text after the answer.", neutral=("",), why="these models fill no gaps"),
        FieldSpec("logprobs", Whole(0, 100), "Alternatives per token.", neutral=(), why=NO_PROBABILITIES),
    ),
)
EMBEDDING = ObjectSpec(
    "EmbeddingRequest",
    (
        MODEL,
        FieldSpec(
            "input",
            Either(
                (
                    Text(least=1),
                    List(Text(least=1), least=1, most=2048),
                    List(Whole(0), least=1, most=1 << 20),
                    List(List(Whole(0), least=1, most=1 << 20), least=1, most=2048),
                ),
                "a string, token ids, or a list of one of them",
            ),
            "The text, or up to 2048 of them; each gets a vector.",
            required=True,
        ),
        FieldSpec("encoding_format", Text(("float", "base64")), "How vectors are written: as numbers, or in base64."),
        FieldSpec("dimensions", Whole(1, 1 << 20), "Length of the vectors; only the model's own is possible."),
        BOOKKEEPING[0],
    ),
)
