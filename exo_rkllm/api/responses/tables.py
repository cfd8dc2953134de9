"""What OpenAI's Responses API takes: items instead of messages."""

from __future__ import annotations

from exo_rkllm.api.common_fields import (
    FUNCTION,
    LONGEST_ANSWER,
    MODEL,
    MOST_MESSAGES,
    MOST_PARTS,
    PARALLEL_CALLS,
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
    Number,
    ObjectSpec,
    Switch,
    TaggedSpec,
    Text,
    Whole,
)

TEXT_PART = ObjectSpec("InputText", (FieldSpec("text", Text(), "Text of the part.", required=True),))
PARTS = {
    "input_text": TEXT_PART,
    "output_text": TEXT_PART,
    "text": TEXT_PART,
    "refusal": ObjectSpec("Refusal", (FieldSpec("refusal", Text(), "Text of the refusal.", required=True),)),
    "input_image": ObjectSpec(
        "InputImage",
        (FieldSpec("image_url", Text(least=1), "The image as a data URL: data:image/png;base64,...", required=True),),
    ),
}
CONTENT = Either((Text(), List(TaggedSpec("type", PARTS), most=MOST_PARTS)), "a string or a list of parts")
ITEM = TaggedSpec(
    "type",
    {
        "message": ObjectSpec(
            "MessageItem",
            (
                FieldSpec(
                    "role", Text(("user", "assistant", "system", "developer")), "Who wrote the message.", required=True
                ),
                FieldSpec("content", CONTENT, "What the message says.", required=True),
            ),
        ),
        "function_call": ObjectSpec(
            "FunctionCallItem",
            (
                FieldSpec("call_id", Text(least=1, most=256), "Id of the call; its output repeats it.", required=True),
                FieldSpec("name", Text(least=1, most=256), "Name of the called function.", required=True),
                FieldSpec("arguments", Text(), "Arguments of the call, as JSON text.", required=True),
            ),
        ),
        "function_call_output": ObjectSpec(
            "FunctionCallOutputItem",
            (
                FieldSpec("call_id", Text(least=1, most=256), "Id of the call that this answers.", required=True),
                FieldSpec("output", CONTENT, "Result of the function.", required=True),
            ),
        ),
        "reasoning": ObjectSpec(
            "ReasoningItem",
            (
                FieldSpec(
                    "content",
                    List(
                        ObjectSpec("ReasoningText", (FieldSpec("text", Text(), "Text of the thoughts."),)),
                        most=MOST_PARTS,
                    ),
                    "Thoughts of an earlier answer.",
                ),
            ),
        ),
    },
    "message",
)
FORMAT = TaggedSpec(
    "type",
    {
        "text": ObjectSpec("ResponseText", ()),
        "json_object": ObjectSpec("ResponseJson", ()),
        "json_schema": ObjectSpec(
            "ResponseSchema", json_schema(FieldSpec("schema", Free(), "JSON Schema of the answer.", required=True))
        ),
    },
)
TEXT_OPTIONS = ObjectSpec(
    "TextOptions",
    (
        FieldSpec("format", FORMAT, "Text or JSON. The model is asked by prompt; an answer that violates it fails."),
        FieldSpec("verbosity", Text(), "Has no effect: models know no degrees."),
    ),
)
FUNCTION_CHOICE = ObjectSpec("FunctionChoice", (FieldSpec("name", Text(least=1), "Name of the function.", True),))
REASONING = ObjectSpec(
    "ReasoningOptions",
    (
        FieldSpec(
            "effort",
            Text(("none", "minimal", "low", "medium", "high", "xhigh")),
            "none switches thinking off; every other value switches it on, as models know no degrees.",
        ),
        FieldSpec("summary", Text(), "Has no effect: thoughts are returned whole."),
    ),
)
RESPONSE = ObjectSpec(
    "ResponseRequest",
    (
        MODEL,
        FieldSpec(
            "input",
            Either((Text(), List(ITEM, least=1, most=MOST_MESSAGES)), "a string or a list of items"),
            "The user's message, or the conversation as items.",
            required=True,
        ),
        FieldSpec(
            "instructions", Text(), "Instructions for the model; those of an earlier response are not taken over."
        ),
        FieldSpec(
            "previous_response_id", Text(most=256), "Id of a response that this one continues, if it is still kept."
        ),
        FieldSpec("store", Switch(), "Whether to keep the response for later calls, in memory; true by default."),
        FieldSpec("stream", Switch(), "Whether to send the answer as typed events while it is computed."),
        FieldSpec("max_output_tokens", Whole(1, LONGEST_ANSWER), "Most tokens of the answer, thoughts included."),
        *SETTINGS,
        tools_field(TaggedSpec("type", {"function": FUNCTION})),
        FieldSpec(
            "tool_choice",
            Either(
                (Text(("none", "auto", "required")), TaggedSpec("type", {"function": FUNCTION_CHOICE})),
                "none, auto, required, or a named function",
            ),
            "Whether the model calls functions: none, auto, required, or one named function.",
        ),
        PARALLEL_CALLS,
        FieldSpec("text", TEXT_OPTIONS, "Form of the answer."),
        FieldSpec("reasoning", REASONING, "Whether the model thinks before it answers."),
        FieldSpec("metadata", Free(most=64), "Your own notes on the response; it repeats them."),
        FieldSpec("user", Text(most=1000), "Your own id of the user; it has no effect."),
        FieldSpec(
            "truncation",
            Text(),
            "What happens to a conversation that is too long.",
            neutral=("disabled",),
            why="conversations are never cut",
        ),
        FieldSpec(
            "background",
            Switch(),
            "Whether to answer later.",
            neutral=(False,),
            why="answers are given at once",
        ),
        FieldSpec(
            "conversation",
            Anything(),
            "A stored conversation.",
            neutral=(),
            why="only previous_response_id is kept",
        ),
        FieldSpec("prompt", Anything(), "A stored prompt.", neutral=(), why="there are no stored prompts"),
        FieldSpec(
            "top_logprobs",
            Whole(0, 20),
            "Alternatives per token.",
            neutral=(0,),
            why="the runtime reports no probabilities",
        ),
        FieldSpec(
            "max_tool_calls",
            Number(0, 1e9),
            "Most calls of built-in tools.",
            neutral=(),
            why="there are no built-in tools",
        ),
    ),
)
