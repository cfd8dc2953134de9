"""What the control socket takes. Command and daemon are of one release, so unknown fields are refused."""

from __future__ import annotations

from exo_rkllm.sampling import SETTINGS
from exo_rkllm.schema.specs import FieldSpec, Free, List, Number, ObjectSpec, Switch, Text, Whole

MODEL = FieldSpec("model", Text(least=1), "exo-rkllm models lists them.", required=True)
KEEP_ALIVE = FieldSpec("keep_alive", Number(), "How many seconds the model stays loaded afterwards; negative: always.")
SAMPLING = ObjectSpec("Sampling", SETTINGS, strict=True)
# Of a question, as `GenerationRequest` has it; `client` is whom the asker speaks for.
ASK_ROWS = (
    MODEL,
    FieldSpec("prompt", Text(), "A prompt as it stands."),
    FieldSpec("tokens", List(Whole(0)), "A prompt as token ids."),
    FieldSpec("messages", List(Free()), "A conversation."),
    FieldSpec("sampling", SAMPLING, "Sampling settings by their names."),
    FieldSpec("max_tokens", Whole(), "Most tokens of the answer."),
    FieldSpec("thinking", Switch(), "Whether the model thinks before it answers."),
    KEEP_ALIVE,
    FieldSpec("client", Text(), "Name of the asker's own client."),
)
# Of a pull, as `PullRequest` has it.
PULL_ROWS = (
    MODEL,
    FieldSpec("name", Text(), "Name of the new entry."),
    FieldSpec("soc", Text(), "SoC that the file is chosen for."),
    FieldSpec("replace", Switch(), "Whether to replace an entry of that name."),
    FieldSpec("endpoint", Text(), "Address of the Hub."),
    FieldSpec("token", Text(), "Token for the Hub."),
)
ASK = ObjectSpec("Ask", ASK_ROWS, strict=True)
LOAD = ObjectSpec("Load", (MODEL, KEEP_ALIVE, FieldSpec("pin", Switch(), "Whether it stays loaded.")), strict=True)
MODEL_ONLY = ObjectSpec("ModelName", (MODEL,), strict=True)
PULL = ObjectSpec("Pull", PULL_ROWS, strict=True)
