"""What the control socket takes. Command and daemon are of one release, so unknown fields are refused."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import get_args

from exo_rkllm.backends.base import StructureKind
from exo_rkllm.sampling import SETTINGS
from exo_rkllm.schema.specs import FieldSpec, Free, List, Number, ObjectSpec, Switch, Text, Whole
from exo_rkllm.schema.tables import row, specs_of

MODEL = FieldSpec("model", Text(least=1), "Name of the model, as exo-rkllm models lists it.", required=True)
KEEP_ALIVE = FieldSpec("keep_alive", Number(), "How many seconds the model stays loaded afterwards; negative: always.")
SAMPLING = ObjectSpec("Sampling", SETTINGS, strict=True)
STRUCTURE = ObjectSpec(
    "Structure",
    (
        FieldSpec("kind", Text(get_args(StructureKind)), "What kind of form it is.", required=True),
        FieldSpec("text", Text(), "The schema, the expression, the choices or the grammar."),
    ),
    strict=True,
)
# Of a question, as `GenerationRequest` has it; `client` is whom the asker speaks for.
ASK_ROWS = (
    MODEL,
    FieldSpec("prompt", Text(), "A prompt as it stands."),
    FieldSpec("tokens", List(Whole(0)), "A prompt as token ids."),
    FieldSpec("messages", List(Free()), "A conversation."),
    FieldSpec("sampling", SAMPLING, "Sampling settings by their names."),
    FieldSpec("max_tokens", Whole(), "Most tokens of the answer."),
    FieldSpec("thinking", Switch(), "Whether the model thinks before it answers."),
    FieldSpec("structure", STRUCTURE, "Form of the answer."),
    KEEP_ALIVE,
    FieldSpec("client", Text(), "Name of the asker's own client."),
)


@dataclass(frozen=True, slots=True)
class PullRequest:
    """A model to fetch. `endpoint` and `token` are the asker's own; empty, the daemon's count."""

    model: str = row(Text(least=1), "ORG/REPO or ORG/REPO:FILE of the Hub.", MISSING)
    name: str = row(Text(), "Name of the new entry; by default the file's name gives it.", "")
    soc: str = row(Text(), "SoC that the file is chosen for; by default the board's.", "")
    replace: bool = row(Switch(), "Whether to replace an entry of that name.", False)
    endpoint: str = row(Text(), "Address of the Hub.", "")
    token: str = row(Text(), "Token for the Hub.", "", secret=True)


ASK = ObjectSpec("Ask", ASK_ROWS, strict=True)
LOAD = ObjectSpec("Load", (MODEL, KEEP_ALIVE, FieldSpec("pin", Switch(), "Whether it stays loaded.")), strict=True)
MODEL_ONLY = ObjectSpec("ModelName", (MODEL,), strict=True)
COPY = ObjectSpec("Copy", (MODEL, FieldSpec("name", Text(least=1), "The other name.", required=True)), strict=True)
CREATE = ObjectSpec(
    "Create",
    (
        FieldSpec("name", Text(least=1), "Name of the new model.", required=True),
        FieldSpec("modelfile", Text(), "Text of the Modelfile.", required=True),
    ),
    strict=True,
)
STOP = ObjectSpec(
    "Stop", (FieldSpec("request", Text(least=1), "Id of a request, as a status has it.", required=True),), strict=True
)
PULL = ObjectSpec("Pull", specs_of(PullRequest), strict=True)
