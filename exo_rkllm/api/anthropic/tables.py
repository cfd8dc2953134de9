"""What Anthropic's messages API takes."""

from __future__ import annotations

from exo_rkllm.api import common_fields as common
from exo_rkllm.api.common_fields import body, refused, required, text_or_parts
from exo_rkllm.sampling import SETTINGS
from exo_rkllm.schema.specs import Anything, FieldSpec, Free, List, Switch, TaggedSpec, Text, Whole

CACHE = FieldSpec("cache_control", Anything(), "Has no effect: a prefix that the NPU still holds is always reused.")
IMAGE_DATA = body(
    "Base64Image",
    required("media_type", Text(most=100), "Type of the image, such as image/png."),
    required("data", Text(), "The image in base64."),
)
IMAGE_ADDRESS = body("ImageAddress", required("url", Text(), "Address of the image, for [api] fetch_images."))
IMAGE_SOURCE = TaggedSpec("type", {"base64": IMAGE_DATA, "url": IMAGE_ADDRESS})
TEXT = body("TextBlock", required("text", Text(), "Text of the block."), CACHE)
IMAGE = body("ImageBlock", required("source", IMAGE_SOURCE, "The image itself, in base64."), CACHE)
DOCUMENT_SOURCE = TaggedSpec(
    "type",
    {
        "text": body("TextSource", required("data", Text(), "Text of the document.")),
        "content": body("ContentSource", required("content", text_or_parts({"text": TEXT}), "Text of the document.")),
        "base64": body("Base64Source", FieldSpec("data", Anything(), "Refused: no model here reads PDF.")),
        "url": body("UrlSource", FieldSpec("url", Anything(), "Refused: no document is fetched from outside.")),
        "file": body("FileSource", FieldSpec("file_id", Anything(), "Refused: no files are kept here.")),
    },
)
BLOCKS = {
    "text": TEXT,
    "document": body(
        "DocumentBlock",
        required("source", DOCUMENT_SOURCE, "The document as text."),
        FieldSpec("title", Text(), "Title of the document."),
        FieldSpec("context", Text(), "What the document is about."),
        FieldSpec("citations", Anything(), "Has no effect: answers cite nothing."),
        CACHE,
    ),
    "image": IMAGE,
    "tool_use": body(
        "ToolUseBlock",
        required("id", common.NAME, "Id of the call; the tool's result repeats it."),
        required("name", common.NAME, "Name of the called tool."),
        required("input", Free(), "Arguments of the call."),
        CACHE,
    ),
    "tool_result": body(
        "ToolResultBlock",
        required("tool_use_id", common.NAME, "Id of the call that this answers."),
        FieldSpec("content", text_or_parts({"text": TEXT, "image": IMAGE}), "Result of the tool."),
        FieldSpec("is_error", Switch(), "Whether the tool failed."),
        CACHE,
    ),
    "thinking": body(
        "ThinkingBlock",
        required("thinking", Text(), "Thoughts of an earlier answer."),
        FieldSpec("signature", Text(), "Has no effect: thoughts are not signed here."),
    ),
    "redacted_thinking": body(
        "RedactedThinkingBlock", FieldSpec("data", Text(), "Has no effect: it cannot be decrypted here.")
    ),
}
MESSAGE = body(
    "AnthropicMessage",
    required("role", Text(("user", "assistant", "system")), "Who wrote the message."),
    required("content", text_or_parts(BLOCKS), "What the message says."),
)
TOOL = body(
    "AnthropicTool",
    required("name", common.NAME, "Name by which the model calls the tool."),
    FieldSpec("description", Text(), "What the tool does, written for the model."),
    required("input_schema", Free(), "JSON Schema of the tool's arguments."),
    refused("type", "Kind of the tool.", "only your own tools exist here", "custom"),
    CACHE,
)
SINGLE_CALL = FieldSpec("disable_parallel_tool_use", Switch(), "Whether an answer may hold at most one tool call.")
TOOL_CHOICE = TaggedSpec(
    "type",
    {
        "auto": body("AutoChoice", SINGLE_CALL),
        "any": body("AnyChoice", SINGLE_CALL),
        "none": body("NoChoice"),
        "tool": body("ToolChoice", required("name", common.NAME, "Name of the tool."), SINGLE_CALL),
    },
)
BUDGET = FieldSpec("budget_tokens", Whole(0), "Has no effect: models know no budget of thoughts.")
THINKING = TaggedSpec(
    "type",
    {
        "enabled": body("ThinkingOn", BUDGET),
        "adaptive": body("ThinkingAdaptive"),
        "disabled": body("ThinkingOff"),
    },
)
STOP_SEQUENCES = List(Text(least=1, most=1000), most=64)
CONVERSATION = (
    common.MODEL,
    required(
        "messages",
        common.conversation(MESSAGE),
        "The conversation, oldest message first; an assistant's message at the end is continued.",
    ),
    FieldSpec("system", text_or_parts({"text": TEXT}), "Instructions for the model."),
    common.tools(TOOL),
    FieldSpec("tool_choice", TOOL_CHOICE, "Whether the model calls tools: auto, any, none, or one named tool."),
    FieldSpec("thinking", THINKING, "Whether the model thinks before it answers; disabled by default."),
)
MESSAGES = body(
    "MessagesRequest",
    *CONVERSATION,
    required("max_tokens", common.MOST_TOKENS, "Most tokens of the answer, thoughts included."),
    FieldSpec("stop_sequences", STOP_SEQUENCES, common.STOP.about),
    FieldSpec("stream", Switch(), "Whether to send the answer as server-sent events while it is computed."),
    *SETTINGS,
    FieldSpec("metadata", Free(), "Your own notes on the request; they have no effect."),
    common.LORA,
    FieldSpec("service_tier", Text(most=100), "Has no effect: there is one tier."),
)
COUNT = body("CountTokensRequest", *CONVERSATION)
