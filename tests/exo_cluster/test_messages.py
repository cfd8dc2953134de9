"""Messages of ours: every captured sample is reproduced, and nothing that an engine may say makes an unfit one."""

from __future__ import annotations

import json
from collections import deque
from typing import Any, TypeAlias

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from exo_rkllm.backends.base import Finish, GenerationEvent, Piece, Progress, Sampling, Timings, Usage
from exo_rkllm.cluster.effects import LogEffect, QueryNodesEffect, SendEffect
from exo_rkllm.cluster.serving import NodeDescription, Servable
from exo_rkllm.cluster.session.membership import Membership
from exo_rkllm.cluster.session.publishing import MembershipSources
from exo_rkllm.cluster.wire import drift
from exo_rkllm.cluster.wire.revisions import Revision, supported
from exo_rkllm.cluster.wire.table import WireTable
from exo_rkllm.errors import ExoRkllmError, RunError
from tests.exo_cluster.captured import Sample, samples

ENVELOPES = ("local_events", "commands", "election_messages")
COMMANDS = {"RequestEventLog", "AddCustomModelCard", "CreateInstance", "DeleteInstance"}
OURS = drift.SENT | COMMANDS | {"MemoryUsage", "Running", "Complete", "Failed", "ElectionMessage"}


def of_ours(sample: Sample) -> bool:
    parts = sample.type.partition("(")[0].split("/")
    return sample.topic in ENVELOPES and set(parts) <= OURS


def sparse_form(table: WireTable, kind: str, value: Any) -> Any:
    """A captured value without the fields that say no more than the table's defaults."""
    inner = kind.rstrip("?")
    if isinstance(value, list):
        return [sparse_form(table, inner.removesuffix("[]"), entry) for entry in value]
    if not isinstance(value, dict) or kind == "json":
        return value
    if inner.endswith("{}"):
        return {key: sparse_form(table, inner.removesuffix("{}"), entry) for key, entry in value.items()}
    if inner in table.unions:
        tags = {table.records[member].tag: member for member in table.unions[inner]}
        if None in tags and len(value) > 1:
            return sparse_form(table, tags[None], value)
        return {tag: sparse_form(table, tags[tag], body) for tag, body in value.items()}
    fields = table.records[inner].fields
    sparse = {field.name: sparse_form(table, field.type, value[field.name]) for field in fields}
    return {field.name: sparse[field.name] for field in fields if sparse[field.name] != field.default}


@pytest.mark.parametrize(
    "sample", [one for one in samples() if of_ours(one)], ids=lambda one: f"{one.topic}-{one.type}"
)
def test_sample_without_its_defaults_is_completed_field_for_field(sample: Sample) -> None:
    revision = supported()[0]
    sparse = sparse_form(revision.table, revision.table.topics[sample.topic], sample.message)
    assert json.loads(revision.encode(sample.topic, sparse)) == sample.message


def test_most_samples_of_the_prototype_are_of_kinds_that_we_send() -> None:
    """What is left are the worker's own tasks, which are bookkeeping (reference 3)."""
    others = {one.type.split("/")[0] for one in samples() if one.source == "prototype" and not of_ours(one)}
    assert others <= {"TaskCreated"}


# ── whatever an engine may say ───────────────────────────────────────────────────────────────────

TEXT = st.text(st.characters(), max_size=8) | st.sampled_from(["\ud800", "\udfff x", "\x00", "\u2028", '"}', "🦀"])
WHOLE = st.integers(-(2**70), 2**70) | st.integers(0, 4096)
REAL = st.floats()
PIECES = st.builds(Piece, TEXT, st.integers(-1, 200_000), st.sampled_from(["answer", "thinking", "tool_call"]))
CALLS = st.sampled_from(
    [
        '{"name": "f", "arguments": {}}',
        "[1, 2]",
        '{"name": null}',
        '{"name": "\\ud800"}',
        "{",
        "null",
        '{"function": {}}',
    ]
).map(lambda text: Piece(text, kind="tool_call"))
ENDS = st.builds(
    Finish,
    st.sampled_from(["stop", "length", "tool_calls", "abort"]),
    st.builds(Usage, st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**40)),
    st.builds(Timings, *([st.floats(0, 1e9)] * 4)),
)
PROGRESS = st.builds(
    Progress, st.sampled_from(["queued", "loading", "prefill"]), st.integers(-5, 10**6), st.integers(-5, 10**6)
)
ERRORS = st.builds(RunError, TEXT, TEXT)
SAID = st.lists(PIECES | CALLS | PROGRESS, max_size=12).flatmap(
    lambda pieces: (ENDS | ERRORS).map(lambda end: [*pieces, end])
)
MODELS = st.builds(
    Servable,
    id=TEXT.map(lambda text: f"m{text}"),
    state=st.sampled_from(["cold", "loading", "warming", "ready", "failed"]),
    size=WHOLE,
    layers=st.integers(-3, 200),
    hidden_size=st.integers(-3, 20000),
    kv_heads=st.integers(-3, 64),
    context=WHOLE,
    memory=st.integers(0, 2**40),
    family=TEXT,
    quantization=TEXT,
    base_model=TEXT,
    thinking=st.booleans(),
    images=st.booleans(),
    sampling=st.builds(Sampling, temperature=st.none() | REAL, top_p=st.none() | REAL, top_k=st.none() | WHOLE),
    folder=TEXT,
    progress=REAL,
    problem=TEXT,
)
FACTS = st.builds(NodeDescription, TEXT, TEXT, TEXT, TEXT, TEXT)


Answers: TypeAlias = "list[list[GenerationEvent | ExoRkllmError]]"


class Cluster:
    """The least of a master: it echoes what it is sent and makes instances and tasks."""

    def __init__(self, facts: NodeDescription, revision: Revision) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.effects: deque[Any] = deque()
        self.busy = False
        self.member = Membership("c0ffee", revision, facts, sources=MembershipSources(disk=lambda: (10**11, 10**10)))
        self.index = 0
        self.now = 0.0
        self.says: list[str] = []
        self.log("NodeTimedOut", node_id="nobody")
        self.take(self.member.link_up(self.now))

    def log(self, kind: str, **body: Any) -> None:
        self.index += 1
        event = {kind: {"event_id": f"e{self.index}", **body}}
        self.echo(event)

    def echo(self, event: Any) -> None:
        message = {
            "origin_idx": self.index - 1,
            "origin": "aa",
            "session": {"master_node_id": "aa", "election_clock": 0},
            "event": event,
        }
        self.take(self.member.receive("global_events", json.dumps(message).encode(), self.now))

    def take(self, effects: Any) -> None:
        """In the order in which they are sent, as a wire would carry them."""
        self.effects.extend(effects)
        if self.busy:
            return
        self.busy = True
        while self.effects:
            self.carry_out(self.effects.popleft())
        self.busy = False

    def carry_out(self, effect: Any) -> None:
        match effect:
            case SendEffect(topic, payload):
                message = json.loads(payload)
                self.sent.append((topic, payload))
                if topic == "local_events":
                    self.index += 1
                    self.echo(message["event"])
                else:
                    self.command(*message["command"].popitem())
            case QueryNodesEffect():
                self.take(self.member.node_answered(None, self.now))
            case LogEffect(_, sentence):
                self.says.append(sentence)

    def command(self, kind: str, body: Any) -> None:
        if kind == "CreateInstance":
            self.log("InstanceCreated", instance=body["instance"])
        elif kind == "AddCustomModelCard":
            self.log("CustomModelCardAdded", model_card=body["model_card"])
        elif kind == "DeleteInstance":
            self.log("InstanceDeleted", instance_id=body["instance_id"])

    def instances(self) -> list[str]:
        return [one.id for one in self.member.view(self.now).instances]


def drive(
    facts: NodeDescription,
    models: list[Servable],
    answers: Answers,
    data: st.DataObject,
    revision: Revision,
) -> int:
    """`Membership` refuses an unfit message in words; here none may even be tried."""
    cluster = Cluster(facts, revision)
    cluster.take(cluster.member.node_answered(None, 0.0))
    cluster.take(cluster.member.models_changed(models, 0.0))
    for number, said in enumerate(answers):
        cluster.now += 1.0
        cluster.take(cluster.member.tick(cluster.now))
        instances = cluster.instances()
        if instances:
            task = {
                "task_id": f"t{number}",
                "task_status": "Pending",
                "instance_id": data.draw(st.sampled_from(instances)),
                "command_id": f"c{number}",
                "task_params": {"model": "m", "input": []},
                "error_type": None,
                "error_message": None,
            }
            kind = data.draw(st.sampled_from(["TextGeneration", "ImageGeneration"]))
            cluster.log("TaskCreated", task_id=f"t{number}", task={kind: task})
            cluster.take(cluster.member.engine_answered([(f"t{number}", event) for event in said], cluster.now))
        changed = data.draw(st.lists(MODELS, max_size=2, unique_by=lambda model: model.id))
        cluster.take(cluster.member.models_changed([*models, *changed], cluster.now))
    cluster.take(cluster.member.leave(cluster.now))
    assert not [sentence for sentence in cluster.says if "was wrong" in sentence]
    origins: dict[str, int] = {}
    for topic, payload in cluster.sent:
        message = json.loads(payload)
        revision.exact.topics[topic](message)
        if topic == "local_events":
            assert message["origin_idx"] == origins.get(message["origin"], 0)
            origins[message["origin"]] = message["origin_idx"] + 1
    return len(cluster.sent)


LIVES = (FACTS, st.lists(MODELS, max_size=3, unique_by=lambda model: model.id), st.lists(SAID, max_size=4), st.data())
QUIET = settings(suppress_health_check=list(HealthCheck), deadline=None, max_examples=150)


EACH = pytest.mark.parametrize("revision", supported(), ids=lambda revision: revision.name)


@EACH
@settings(QUIET, max_examples=75)
@given(*LIVES)
def test_whatever_happens_only_fit_messages_leave(
    revision: Revision,
    facts: NodeDescription,
    models: list[Servable],
    answers: Answers,
    data: st.DataObject,
) -> None:
    drive(facts, models, answers, data, revision)


@EACH
@pytest.mark.long
def test_a_hundred_thousand_messages_fit(revision: Revision) -> None:
    sent = 0

    @settings(QUIET, max_examples=2000, phases=[Phase.generate])
    @given(*LIVES)
    def lives(
        facts: NodeDescription,
        models: list[Servable],
        answers: Answers,
        data: st.DataObject,
    ) -> None:
        nonlocal sent
        sent += drive(facts, models, answers, data, revision)

    while sent < 100_000:
        lives()
    print(f"{sent} messages")
