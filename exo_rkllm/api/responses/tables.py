"""What OpenAI's Responses API takes: items instead of messages."""

from __future__ import annotations

from exo_rkllm.api import common_fields as common
from exo_rkllm.api.common_fields import body, dropped, refused, required
from exo_rkllm.sampling import SETTINGS
from exo_rkllm.schema.specs import Either, FieldSpec, Free, List, Switch, TaggedSpec, Text

TEXT_PART = body("InputText", required("text", Text(), "Text of the part."))
CONTENT = common.text_or_parts(
    {
        "input_text": TEXT_PART,
        "output_text": TEXT_PART,
        "text": TEXT_PART,
        "refusal": body("Refusal", required("refusal", Text(), "Text of the refusal.")),
        "input_image": body("InputImage", required("image_url", Text(least=1), common.DATA_URL_ABOUT)),
    }
)
ROLE = Text(("user", "assistant", "system", "developer"))
REASONING_TEXT = body("ReasoningText", FieldSpec("text", Text(), "Text of the thoughts."))
ITEM = TaggedSpec(
    "type",
    {
        "message": body(
            "MessageItem",
            required("role", ROLE, "Who wrote the message."),
            required("content", CONTENT, "What the message says."),
        ),
        "function_call": body(
            "FunctionCallItem",
            required("call_id", common.NAME, "Id of the call; its output repeats it."),
            required("name", common.NAME, "Name of the called function."),
            required("arguments", Text(), "Arguments of the call, as JSON text."),
        ),
        "function_call_output": body(
            "FunctionCallOutputItem",
            required("call_id", common.NAME, "Id of the call that this answers."),
            required("output", CONTENT, "Result of the function."),
        ),
        "reasoning": body(
            "ReasoningItem", FieldSpec("content", List(REASONING_TEXT, most=1000), "Thoughts of an earlier answer.")
        ),
    },
    "message",
)
FORMAT = TaggedSpec(
    "type",
    {
        "text": body("ResponseText"),
        "json_object": body("ResponseJson"),
        "json_schema": common.schema_format("ResponseSchema", required("schema", Free(), "JSON Schema of the answer.")),
    },
)
TEXT_OPTIONS = body(
    "TextOptions",
    FieldSpec("format", FORMAT, "Text or JSON. The model is asked by prompt; an answer that violates it is an error."),
    FieldSpec("verbosity", Text(), "Has no effect: models know no degrees."),
)
REASONING = body(
    "ReasoningOptions",
    FieldSpec("effort", common.EFFORT, common.EFFORT_ABOUT),
    FieldSpec("summary", Text(), "Has no effect: thoughts are returned whole."),
)
FUNCTION_CHOICE = body("FunctionChoice", required("name", common.NAME, "Name of the function."))
RESPONSE = body(
    "ResponseRequest",
    common.MODEL,
    required(
        "input",
        Either((Text(), common.conversation(ITEM)), "a string or a list of items"),
        "The user's message, or the conversation as items.",
    ),
    FieldSpec("instructions", Text(), "Instructions for the model; an earlier response's are not taken over."),
    FieldSpec("previous_response_id", Text(most=256), "Id of a response that this one continues, if it is still kept."),
    FieldSpec("store", Switch(), "Whether to keep the response for later calls, in memory; true by default."),
    FieldSpec("stream", Switch(), "Whether to send the answer as typed events while it is computed."),
    FieldSpec("max_output_tokens", common.MOST_TOKENS, "Most tokens of the answer, thoughts included."),
    *SETTINGS,
    common.tools(TaggedSpec("type", {"function": common.FUNCTION})),
    common.tool_choice(FUNCTION_CHOICE, common.allowed_tools("AllowedFunctions", FUNCTION_CHOICE)),
    common.PARALLEL_CALLS,
    FieldSpec("text", TEXT_OPTIONS, "Form of the answer."),
    FieldSpec("reasoning", REASONING, "Whether the model thinks before it answers."),
    FieldSpec("metadata", Free(most=64), "Your own notes on the response; it repeats them."),
    common.LORA,
    common.USER,
    dropped("truncation", "What becomes of a conversation that is too long.", "none is ever cut", "disabled"),
    refused("background", "Whether to answer later.", "answers are given at once", False),
    refused("conversation", "A stored conversation.", "only previous_response_id is kept"),
    refused("prompt", "A stored prompt.", "there are no stored prompts"),
    dropped("top_logprobs", "Alternatives per token.", common.NO_PROBABILITIES, 0),
    dropped("max_tool_calls", "Most calls of built-in tools.", "there are no built-in tools"),
)
COUNT = body("InputTokensRequest", *(field for field in RESPONSE.fields if field.name not in ("stream", "store")))
