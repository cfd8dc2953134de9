"""What Anthropic's messages API takes."""

from __future__ import annotations

from exo_rkllm.api.common_fields import (
    LONGEST_ANSWER,
    MODEL,
    MOST_MESSAGES,
    MOST_PARTS,
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

CACHE = FieldSpec("cache_control", Anything(), "Has no effect: a prefix that the NPU still holds is always reused.")
TEXT = ObjectSpec("TextBlock", (FieldSpec("text", Text(), "Text of the block.", required=True), CACHE))
IMAGE = ObjectSpec(
    "ImageBlock",
    (
        FieldSpec(
            "source",
            TaggedSpec(
                "type",
                {
                    "base64": ObjectSpec(
                        "Base64Image",
                        (
                            FieldSpec("media_type", Text(most=100), "Type of the image, such as image/png.", True),
                            FieldSpec("data", Text(), "The image in base64.", required=True),
                        ),
                    ),
                    "url": ObjectSpec(
                        "ImageAddress",
                        (FieldSpec("url", Text(), "Refused: no image is fetched from outside.", required=True),),
                    ),
                },
            ),
            "The image itself, in base64.",
            required=True,
        ),
        CACHE,
    ),
)
TOOL_USE = ObjectSpec(
    "ToolUseBlock",
    (
        FieldSpec("id", Text(least=1, most=256), "Id of the call; the tool's result repeats it.", required=True),
        FieldSpec("name", Text(least=1, most=256), "Name of the called tool.", required=True),
        FieldSpec("input", Free(), "Arguments of the call.", required=True),
        CACHE,
    ),
)
TOOL_RESULT = ObjectSpec(
    "ToolResultBlock",
    (
        FieldSpec("tool_use_id", Text(least=1, most=256), "Id of the call that this answers.", required=True),
        FieldSpec(
            "content",
            Either(
                (Text(), List(TaggedSpec("type", {"text": TEXT, "image": IMAGE}), most=MOST_PARTS)),
                "a string or blocks",
            ),
            "Result of the tool.",
        ),
        FieldSpec("is_error", Switch(), "Whether the tool failed."),
        CACHE,
    ),
)
THOUGHT = ObjectSpec(
    "ThinkingBlock",
    (
        FieldSpec("thinking", Text(), "Thoughts of an earlier answer.", required=True),
        FieldSpec("signature", Text(), "Has no effect: thoughts are not signed here."),
    ),
)
BLOCKS = {
    "text": TEXT,
    "image": IMAGE,
    "tool_use": TOOL_USE,
    "tool_result": TOOL_RESULT,
    "thinking": THOUGHT,
    "redacted_thinking": ObjectSpec(
        "RedactedThinkingBlock", (FieldSpec("data", Text(), "Has no effect: it cannot be decrypted here."),)
    ),
}
MESSAGE = ObjectSpec(
    "AnthropicMessage",
    (
        FieldSpec("role", Text(("user", "assistant")), "Who wrote the message.", required=True),
        FieldSpec(
            "content",
            Either((Text(), List(TaggedSpec("type", BLOCKS), most=MOST_PARTS)), "a string or a list of blocks"),
            "What the message says.",
            required=True,
        ),
    ),
)
TOOL = ObjectSpec(
    "AnthropicTool",
    (
        FieldSpec("name", Text(least=1, most=256), "Name by which the model calls the tool.", required=True),
        FieldSpec("description", Text(), "What the tool does, written for the model."),
        FieldSpec("input_schema", Free(), "JSON Schema of the tool's arguments.", required=True),
        FieldSpec("type", Text(), "Kind of the tool.", neutral=("custom",), why="only your own tools exist here"),
        CACHE,
    ),
)
SINGLE_CALL = FieldSpec("disable_parallel_tool_use", Switch(), "Whether an answer may hold at most one tool call.")
CONVERSATION = (
    MODEL,
    FieldSpec(
        "messages",
        List(MESSAGE, least=1, most=MOST_MESSAGES),
        "The conversation, oldest message first; the last one is the user's.",
        required=True,
    ),
    FieldSpec(
        "system",
        Either((Text(), List(TaggedSpec("type", {"text": TEXT}), most=MOST_PARTS)), "a string or text blocks"),
        "Instructions for the model.",
    ),
    tools_field(TOOL),
    FieldSpec(
        "tool_choice",
        TaggedSpec(
            "type",
            {
                "auto": ObjectSpec("AutoChoice", (SINGLE_CALL,)),
                "any": ObjectSpec("AnyChoice", (SINGLE_CALL,)),
                "none": ObjectSpec("NoChoice", ()),
                "tool": ObjectSpec(
                    "ToolChoice",
                    (FieldSpec("name", Text(least=1, most=256), "Name of the tool.", required=True), SINGLE_CALL),
                ),
            },
        ),
        "Whether the model calls tools: auto, any, none, or one named tool.",
    ),
    FieldSpec(
        "thinking",
        TaggedSpec(
            "type",
            {
                "enabled": ObjectSpec(
                    "ThinkingOn",
                    (FieldSpec("budget_tokens", Whole(0), "Has no effect: models know no budget of thoughts."),),
                ),
                "adaptive": ObjectSpec("ThinkingAdaptive", ()),
                "disabled": ObjectSpec("ThinkingOff", ()),
            },
        ),
        "Whether the model thinks before it answers; disabled by default.",
    ),
)
MESSAGES = ObjectSpec(
    "MessagesRequest",
    (
        *CONVERSATION,
        FieldSpec(
            "max_tokens", Whole(1, LONGEST_ANSWER), "Most tokens of the answer, thoughts included.", required=True
        ),
        FieldSpec(
            "stop_sequences",
            List(Text(least=1, most=1000), most=64),
            "Up to 64 strings of up to 1000 characters; the answer ends before the first of them.",
        ),
        FieldSpec("stream", Switch(), "Whether to send the answer as server-sent events while it is computed."),
        *SETTINGS,
        FieldSpec("metadata", Free(), "Your own notes on the request; they have no effect."),
        FieldSpec("service_tier", Text(most=100), "Has no effect: there is one tier."),
    ),
)
COUNT = ObjectSpec("CountTokensRequest", CONVERSATION)
