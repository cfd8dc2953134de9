"""Membership in one exo cluster, without a network or a clock: what comes in, what goes out, and when to look again.

Events arrive with the time they arrived; every call returns effects for the shell (`node.py`) to carry out.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, Literal

from exo_rkllm.backends import base
from exo_rkllm.cluster.effects import (
    BeginTaskEffect,
    CancelTaskEffect,
    DeclareTokenEffect,
    LoadModelEffect,
    LogEffect,
    NodeAnswer,
    QueryNodesEffect,
    SendEffect,
    SessionEffect,
    StayOutEffect,
)
from exo_rkllm.cluster.serving import BoardFacts, Servable
from exo_rkllm.cluster.session.crash_watch import CrashWatch
from exo_rkllm.cluster.session.election import SETTLE_LINK, Adopt, Decision, DeclareToken, Follower, Nudge, Probe
from exo_rkllm.cluster.session.log import EventLog
from exo_rkllm.cluster.session.publishing import PublishQueue
from exo_rkllm.cluster.session.replica import Replica, read
from exo_rkllm.cluster.session.view import ClusterCounters, ClusterView, Echoes, Phase, instance_views, node_views
from exo_rkllm.cluster.wire import clean, drift, messages, reading
from exo_rkllm.cluster.wire.messages import (
    ChunkGenerated,
    DiskUsage,
    Envelope,
    ForwardedCommand,
    ForwardedEvent,
    GatheredInfo,
    Memory,
    NetworkInterfaceInfo,
    NodeDownloadProgress,
    NodeGatheredInfo,
    RequestEventLog,
    RunnerStatusUpdated,
    TaskStatusUpdated,
)
from exo_rkllm.cluster.wire.reading import Logged, Unreadable
from exo_rkllm.cluster.wire.requests import ImageStore
from exo_rkllm.cluster.wire.revisions import Revision, encoded
from exo_rkllm.cluster.wire.table import Mismatch
from exo_rkllm.cluster.worker import effects as wishes
from exo_rkllm.cluster.worker import events, offers
from exo_rkllm.cluster.worker.decide import decide
from exo_rkllm.cluster.worker.rules import backends
from exo_rkllm.cluster.worker.state import Worker
from exo_rkllm.config.table import Placement
from exo_rkllm.errors import ExoRkllmError

# exo forgets a node that is silent for 30 s; one message in 5 s is plenty (reference 2.5).
SIGN_OF_LIFE = 5.0
# What an exo node tells over HTTP is waited for so long; after that the log is read from its beginning.
PEEK = 2.0
# Two signs of life of our id that are not ours, this far apart, are another board and no echo of an old life.
TWIN = 3.0
# Snapshot and log that are further apart than this are not of one session.
SAME_LOG = 5000

GLOBAL, ELECTION, DOWNLOADS = "global_events", "election_messages", "download_commands"
TOPICS = (GLOBAL, ELECTION, DOWNLOADS)


@dataclass(frozen=True, slots=True)
class MembershipSources:
    """Where ids and the time of day come from; tests and replays bring their own."""

    new_id: Callable[[], str] = lambda: str(uuid.uuid4())
    time_of_day: Callable[[], str] = lambda: str(datetime.now(timezone.utc))
    disk: Callable[[], tuple[int, int] | None] = lambda: None


class Membership:
    def __init__(
        self,
        me: str,
        revision: Revision,
        facts: BoardFacts,
        *,
        placement: Placement = "own",
        sources: MembershipSources | None = None,
        stay_out: str = "",
    ) -> None:
        self.me = me
        self.revision = revision
        self.facts = replace(facts, **{name: clean.text(getattr(facts, name)) for name in BoardFacts.__slots__})
        self.images = ImageStore()
        self.phase = Phase.OUT if stay_out else Phase.SEARCHING
        self.sentence = stay_out
        self.drift: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.permitted = True  # the choice of cluster stands
        self._placement: Placement = placement
        self._sources = sources or MembershipSources()
        self._follower = Follower(me)
        self._log = EventLog()
        self._replica = Replica(me)
        self._worker = Worker(me, self.facts.name, placement)
        self._outbox: PublishQueue | None = None
        self._interfaces: tuple[NetworkInterfaceInfo, ...] = ()
        self._tally: Counter[str] = Counter()
        self._echoes = Echoes()
        self._effects: list[SessionEffect] = []
        self._linked = False
        self._resend_at: float | None = None
        self._peek_until: float | None = None
        self._checked: set[str] = set()  # nodes whose openapi.json was found to be what we speak
        self._origin = self._sources.new_id()  # of commands, which no session binds
        self._session_since = 0.0
        self._spoke_at = 0.0
        self._said = 0
        self._infos: dict[str, None] = {}  # ids of our own signs of life, oldest first
        self._last_info = ""
        self._twin_since: float | None = None
        self._alive: set[str] = set()
        self._suspicion = CrashWatch()
        self._models: Mapping[str, Servable] = {}

    # ── what comes in ────────────────────────────────────────────────────────────────────────────

    def linked(self, now: float) -> list[SessionEffect]:
        self._linked = True
        self._tally["links"] += 1
        self._follower.linked(now)
        if self.phase is Phase.SEARCHING:
            self.phase = Phase.LISTENING
        self._resend_at = now + SETTLE_LINK
        return self._done(now)

    def unlinked(self, now: float) -> list[SessionEffect]:
        self._suspect(now)
        self._linked = False
        self._follower.unlinked()
        self._resend_at = None
        self._alive.clear()
        return self._done(now)

    def alive(self, node: str, now: float, *, there: bool) -> list[SessionEffect]:
        """An exo node's liveliness token appeared or went."""
        if node != self.me:
            if there:
                self._alive.add(node)
            elif node in self._alive:
                self._suspect(now)
                self._alive.discard(node)
        return self._done(now)

    def message(self, topic: str, payload: bytes, now: float) -> list[SessionEffect]:
        try:
            self._message(topic, reading.parsed(payload), now)
        except (ValueError, RecursionError, Unreadable):
            self._tally["garbage"] += 1
        return self._done(now)

    def peeked(self, answer: NodeAnswer | None, now: float) -> list[SessionEffect]:
        if self.phase is Phase.CHECKING and self._peek_until is not None:
            self._peek_until = None
            self._compare(answer, now)
        return self._done(now)

    def offered(self, models: Sequence[Servable], now: float) -> list[SessionEffect]:
        self._models = {offers.model_id(model.id): model for model in models}
        self._decide(events.ModelsChangedEvent(self._models), now)
        return self._done(now)

    def answered(
        self, answers: Iterable[tuple[str, base.GenerationEvent | ExoRkllmError]], now: float
    ) -> list[SessionEffect]:
        """What the engines said, by task; pieces that come together travel together."""
        for task_id, event in answers:
            self._decide(events.AnswerEvent(task_id, event), now)
        return self._done(now)

    def interfaces(self, found: tuple[NetworkInterfaceInfo, ...], now: float) -> list[SessionEffect]:
        if found != self._interfaces:
            self._interfaces = found
            if self.phase in (Phase.JOINING, Phase.SERVING):
                self._info(messages.NodeNetworkInterfaces(found), now)
        return self._done(now)

    def permit(self, now: float) -> list[SessionEffect]:
        """The choice of cluster stands: from now on we may speak."""
        self.permitted = True
        if self.phase is Phase.CHECKING and self._peek_until is None:
            self._join(now)
        return self._done(now)

    def invite(self, now: float) -> list[SessionEffect]:
        """An operator wants us in again, with all models."""
        if self.phase is Phase.OUT:
            self.phase = Phase.LISTENING if self._linked else Phase.SEARCHING
            self.sentence = ""
            self._twin_since = None
            self._effects.append(StayOutEffect(""))
            if self._follower.session is not None and self._linked:
                self._adopt(Adopt(self._follower.session, "told to join again"), now)
        else:
            self._decide(events.JoinedEvent(), now)
        return self._done(now)

    def leave(self, now: float) -> list[SessionEffect]:
        """Say goodbye; `gone` tells when it has been heard."""
        if self.phase is Phase.SERVING:
            self._decide(events.LeavingEvent(), now)
        if self.phase not in (Phase.OUT, Phase.PASSIVE):
            self.phase = Phase.LEAVING
        return self._done(now)

    @property
    def master(self) -> str:
        """The node id of the master that is followed, empty while there is none."""
        return self._follower.session.master_node_id if self._follower.session else ""

    @property
    def gone(self) -> bool:
        silent = self._outbox is None or self._outbox.idle
        ours = any(instance in self._replica.instances for instance in self._worker.deleting)
        return not self._linked or self.phase is not Phase.LEAVING or (silent and not ours)

    def tick(self, now: float) -> list[SessionEffect]:
        self._follow(self._follower.tick(now), now)
        if self._peek_until is not None and now >= self._peek_until:
            self._peek_until = None
            if self.phase is Phase.CHECKING:
                self._compare(None, now)
        self._judge(now)
        if self._speaking:
            self._keep_going(now)
        return self._done(now)

    @property
    def deadline(self) -> float | None:
        """When `tick` has something to do."""
        times = [self._follower.deadline, self._peek_until, self._suspicion.deadline]
        if self._speaking:
            times += [self._log.deadline, self._resend_at]
            if self._outbox is not None:
                times.append(self._outbox.deadline)
            if self.phase is not Phase.LEAVING:
                times.append(self._spoke_at + SIGN_OF_LIFE)
                times += [given.due for given in self._worker.given if self._worker.serving]
        return min((time for time in times if time is not None), default=None)

    # ── messages ─────────────────────────────────────────────────────────────────────────────────

    @property
    def _speaking(self) -> bool:
        return self._linked and self.phase in (Phase.JOINING, Phase.SERVING, Phase.LEAVING)

    def _message(self, topic: str, message: Mapping[str, Any], now: float) -> None:
        self._suspicion.heard(now)
        if topic == GLOBAL:
            self._event(reading.logged(message), message, now)
        elif topic == ELECTION:
            ballot = reading.ballot(message)
            self._differs(topic, message)
            self._follower.ballot(ballot, now)
        elif topic == DOWNLOADS:
            command = reading.download_command(message)
            self._differs(topic, message)
            self._decide(events.CommandEvent(command), now)

    def _event(self, event: Logged, message: Mapping[str, Any], now: float) -> None:
        self._tally["events_in"] += 1
        if event.origin != event.session.master_node_id:
            return
        self._follow(self._follower.event(event.session, now), now)
        if event.session != self._follower.session:
            return
        self._differs(GLOBAL, message)
        if self._outbox is not None:
            sent_at = self._outbox.echoed(event.event_id, now)
            if sent_at is not None:
                self._suspicion.proven(sent_at)
        for released in self._log.receive(event, now):
            self._apply(released, now)

    def _apply(self, released: Logged, now: float) -> None:
        event = read(released.kind, released.body)
        self._replica.apply(event)
        if isinstance(event, reading.ImageArrived):
            self.images.take(event.part)
        if isinstance(event, reading.NodeHeard) and event.node_id == self.me:
            self._own_sign(released, now)
        if self.phase in (Phase.SERVING, Phase.LEAVING):
            self._decide(events.AppliedEvent(event, self._log.behind == 0), now)

    def _own_sign(self, released: Logged, now: float) -> None:
        if released.event_id in self._infos:
            if self.phase is Phase.JOINING and released.event_id == self._last_info:
                self._caught_up(now)
            return
        if self.phase is not Phase.SERVING:
            return
        if self._twin_since is None:
            self._twin_since = now
        elif now - self._twin_since >= TWIN:
            self._out(
                f"Another board in the exo cluster uses our node id {self.me}, perhaps from a copied SD card.",
                remember=False,
            )

    def _differs(self, topic: str, message: Mapping[str, Any]) -> None:
        found = drift.of_message(topic, message, self.revision)
        if found is None:
            return
        difference, ours = found
        if ours:
            self._passive((difference,))
        elif difference not in self.notes and len(self.notes) < 16:
            self.notes = (*self.notes, difference)
            self._say("info", f"The exo cluster says something that this version does not know: {difference}")

    # ── sessions ─────────────────────────────────────────────────────────────────────────────────

    def _follow(self, decision: Decision | None, now: float) -> None:
        match decision:
            case Adopt():
                self._adopt(decision, now)
            case DeclareToken() if self.phase in (Phase.LISTENING, Phase.JOINING, Phase.SERVING) and self.permitted:
                self._say("info", "The exo cluster is silent; asking it to elect a master.")
                self._effects.append(DeclareTokenEffect())
            case Probe() if self._speaking and self.phase is not Phase.LEAVING:
                self._info(messages.MiscData(self.facts.name), now)
            case Nudge(message, why, again) if self.phase in (Phase.JOINING, Phase.SERVING) and self._linked:
                if not again:
                    self._say("warning", f"{why}; asking for an election.")
                self._publish(message, now)

    def _adopt(self, decision: Adopt, now: float) -> None:
        session = decision.session
        self._tally["sessions"] += 1
        self._keep_counts()
        self._halt_all()
        self._log, self._replica = EventLog(), Replica(self.me)
        self._outbox = PublishQueue(self._sources.new_id(), session)
        self._worker = Worker(self.me, self.facts.name, self._placement, self._models)
        self._session_since = now
        self._infos.clear()
        self._twin_since = None
        self.drift, self.notes = (), ()
        if self.phase in (Phase.OUT, Phase.LEAVING):
            return
        self.phase, self.sentence = Phase.CHECKING, ""
        self._say("info", f"Following the exo master {session.master_node_id[:8]} ({decision.why}).")
        self._peek_until = now + PEEK
        master = session.master_node_id
        others = sorted(self._alive - {master})
        self._effects.append(QueryNodesEffect((master, *others), master not in self._checked))

    def _compare(self, answer: NodeAnswer | None, now: float) -> None:
        """Nothing has been published to this session yet."""
        if answer is not None:
            differences = list(drift.state_keys(self.revision, answer.state))
            if answer.openapi is not None:
                differences += drift.openapi(self.revision, answer.openapi)
            if differences:
                self._passive(tuple(differences))
            elif answer.openapi is not None:
                self._checked.add(answer.node_id)
        for released in self._snapshot(answer, now):
            self._apply(released, now)
        if self.permitted:
            self._join(now)

    def _snapshot(self, answer: NodeAnswer | None, now: float) -> list[Logged]:
        """Start from `GET /state` where it is of this session, else from the first event."""
        base = 0
        if answer is not None:
            try:
                state = reading.state(answer.state)
                heard = self._log.highest
                if heard < 0 or abs(state.applied - heard) <= SAME_LOG:
                    self._replica.load(state)
                    base = state.applied + 1
            except Unreadable as problem:
                self._passive((f"State: {problem}",))
        return self._log.start_at(base, now)

    def _join(self, now: float) -> None:
        if self.phase is Phase.CHECKING:
            self.phase = Phase.JOINING
            self._introduce(now)

    def _introduce(self, now: float) -> None:
        for info in self._infos_now():
            self._info(info, now)

    def _infos_now(self) -> list[GatheredInfo]:
        facts = self.facts
        infos: list[GatheredInfo] = [
            messages.MiscData(facts.name),
            messages.StaticNodeInformation(facts.model, facts.chip, facts.os_version, facts.os_build),
            messages.NodeBackends(backends(self._worker, self._replica)),
        ]
        infos += self._disk()
        infos.append(messages.NodeNetworkInterfaces(self._interfaces))
        if self._placement == "dashboard":
            # exo places nothing on a node without memory, and anything on a node with much of it (reference 4)
            size, none = Memory(offers.TOKEN_SIZE), Memory(0)
            infos.append(messages.MemoryUsage(size, size, none, none))
        return infos

    def _disk(self) -> list[GatheredInfo]:
        disk = self._sources.disk()
        return [] if disk is None else [messages.NodeDiskUsage(DiskUsage(Memory(disk[0]), Memory(disk[1])))]

    def _info(self, info: GatheredInfo, now: float) -> None:
        event_id = self._sources.new_id()
        self._infos[event_id] = None
        while len(self._infos) > 256:
            del self._infos[next(iter(self._infos))]
        self._last_info = event_id
        self._spoke_at = now
        self._tell(NodeGatheredInfo(event_id, self.me, self._sources.time_of_day(), info))

    def _caught_up(self, now: float) -> None:
        self.phase = Phase.SERVING
        self._say("info", f"In the exo cluster as {self.facts.name} ({self.me[:8]}).")
        self._decide(events.CaughtUpEvent(), now)

    def _keep_going(self, now: float) -> None:
        """Repairs, repeats and signs of life."""
        outbox = self._outbox
        since = self._log.gap(now)
        if since is not None:
            self._tally["gap_repairs"] += 1
            self._command(RequestEventLog(self._sources.new_id(), since), now)
        patience = None
        if self._resend_at is not None and now >= self._resend_at:
            self._resend_at, patience = None, SETTLE_LINK
        if outbox is not None:
            again = outbox.overdue(now) if patience is None else outbox.overdue(now, patience)
            for envelope in again:
                self._publish(envelope, now)
        if now >= self._spoke_at + SIGN_OF_LIFE and self.phase is not Phase.LEAVING:
            self._said += 1
            disk = self._disk() if self._said % 12 == 0 else []
            self._info(disk[0] if disk else messages.MiscData(self.facts.name), now)
        self._decide(events.TickedEvent(), now)

    # ── being kept out ───────────────────────────────────────────────────────────────────────────

    def _passive(self, differences: tuple[str, ...]) -> None:
        if self.phase in (Phase.OUT, Phase.LEAVING):
            return
        fresh = tuple(one for one in differences if one not in self.drift)
        self.drift = (*self.drift, *fresh)[:16]
        if self.phase is not Phase.PASSIVE:
            self.phase = Phase.PASSIVE
            self.sentence = (
                f"The exo cluster speaks another revision than {self.revision.name}: {differences[0]}"
                f"{f' and {len(differences) - 1} more' if len(differences) > 1 else ''}. Nothing is published to it."
            )
            self._say("error", self.sentence)
            self._silence()

    def _out(self, sentence: str, *, remember: bool) -> None:
        self.phase, self.sentence = Phase.OUT, sentence
        self._say("error", sentence)
        self._silence()
        if remember:
            self._effects.append(StayOutEffect(sentence))

    def _silence(self) -> None:
        self._halt_all()
        self._worker = Worker(self.me, self.facts.name, self._placement, self._models)
        self._keep_counts()
        self._effects = [effect for effect in self._effects if not isinstance(effect, SendEffect)]

    def _suspect(self, now: float) -> None:
        if self.phase in (Phase.JOINING, Phase.SERVING):
            self._suspicion.lost(self._alive, now)

    def _judge(self, now: float) -> None:
        if (kinds := self._suspicion.judged(self._alive, now)) and self.phase in (Phase.JOINING, Phase.SERVING):
            self._out(
                f"All exo nodes ended within seconds of our first {' and '.join(kinds)}: this exo may not bear"
                " them, so nothing more is sent.",
                remember=True,
            )

    def _halt_all(self) -> None:
        self._effects += [CancelTaskEffect(job.task.id) for job in self._worker.busy_jobs()]

    # ── the worker's wishes ──────────────────────────────────────────────────────────────────────

    def _decide(self, happening: events.WorkerEvent, now: float) -> None:
        self._worker, effects = decide(self._worker, happening, self._replica, now, self._sources.new_id)
        for effect in effects:
            self._carry_out(effect, now)

    def _carry_out(self, effect: wishes.WorkerEffect, now: float) -> None:
        new_id = self._sources.new_id
        match effect:
            case wishes.SendChunk(command_id, chunk):
                self._tell(ChunkGenerated(new_id(), command_id, chunk))
            case wishes.SetRunnerStatus(runner_id, status):
                self._tell(RunnerStatusUpdated(new_id(), runner_id, status))
            case wishes.SetTaskStatus(task_id, status):
                self._tell(TaskStatusUpdated(new_id(), task_id, status))
            case wishes.SetDownloadProgress(progress):
                self._tell(NodeDownloadProgress(new_id(), progress))
            case wishes.SendCommand(command):
                self._command(command, now)
            case wishes.BeginTask(task, model):
                self._tally["tasks"] += 1
                self._effects.append(BeginTaskEffect(task, model))
            case wishes.CancelTask(task_id, command_id):
                if self._outbox is not None:
                    self._outbox.drop_chunks(command_id)
                self._effects.append(CancelTaskEffect(task_id))
            case wishes.LoadModel(model):
                self._effects.append(LoadModelEffect(model))
            case wishes.PublishNodeInfo():
                self._introduce(now)
            case wishes.LogLineEffect(level, sentence):
                self._say(level, sentence)

    # ── what goes out ────────────────────────────────────────────────────────────────────────────

    def _tell(self, event: messages.Event) -> None:
        if self._outbox is not None and self.phase in (Phase.JOINING, Phase.SERVING, Phase.LEAVING):
            self._outbox.put(event)

    def _command(self, command: messages.Command, now: float) -> None:
        # events come first, as they were meant: what a command relies on is said by then
        self._flush(now)
        self._publish(ForwardedCommand(self._origin, command), now)

    def _flush(self, now: float) -> None:
        if self._outbox is not None and self._speaking:
            for envelope in self._outbox.take(now):
                self._publish(envelope, now)

    def _publish(self, envelope: Envelope, now: float) -> None:
        """The only way out; see `encoded`."""
        try:
            payload = encoded(self.revision, envelope.topic, messages.wire(envelope))
        except Mismatch as wrong:
            self._tally["refused"] += 1
            self._say("error", f"A message to the exo cluster was wrong and was not sent: {wrong}.")
            if not isinstance(envelope, ForwardedEvent):
                return
            # the master waits for every index, so something harmless takes this one's place
            filler = NodeGatheredInfo(
                envelope.event.event_id, self.me, self._sources.time_of_day(), messages.MiscData(self.me)
            )
            envelope = replace(envelope, event=filler)
            payload = encoded(self.revision, envelope.topic, messages.wire(envelope))
        self._suspicion.sent(envelope, now)
        if isinstance(envelope, ForwardedEvent):
            self._tally["events_out"] += 1
        else:
            self._tally["commands_out"] += 1
        self._effects.append(SendEffect(envelope.topic, payload))

    def _say(self, level: Literal["info", "warning", "error"], sentence: str) -> None:
        self._effects.append(LogEffect(level, sentence))

    def _done(self, now: float) -> list[SessionEffect]:
        self._flush(now)
        effects, self._effects = self._effects, []
        return effects

    # ── what is told of it ───────────────────────────────────────────────────────────────────────

    def _counted(self) -> ClusterCounters:
        tally: dict[str, Any] = dict(self._tally)
        counted = ClusterCounters(**tally)
        if self._outbox is None:
            return replace(counted, echoes=self._echoes)
        return replace(
            counted, resends=counted.resends + self._outbox.resends, echoes=self._echoes + self._outbox.echoes
        )

    def _keep_counts(self) -> None:
        """An outbox ends with its session, what it counted does not."""
        if self._outbox is not None:
            self._tally["resends"] += self._outbox.resends
            self._echoes += self._outbox.echoes
            self._outbox = None

    def view(self, now: float) -> ClusterView:
        session = self._follower.session
        phase, sentence = self.phase, self.sentence
        if not self._linked and phase not in (Phase.OUT, Phase.LEAVING):
            phase, sentence = Phase.SEARCHING, sentence or "No link to any exo node."
        master = session.master_node_id if session else ""
        return ClusterView(
            phase=phase,
            node_id=self.me,
            name=self.facts.name,
            sentence=sentence,
            hint="exo-rkllm cluster join" if phase is Phase.OUT else "",
            revision=self.revision.name,
            master=self._replica.name(master),
            election_clock=session.election_clock if session else 0,
            session_age=now - self._session_since if session else 0.0,
            nodes=node_views(self._replica, self.me, master),
            instances=instance_views(self._replica, self.me),
            tasks=sum(1 for _ in self._worker.busy_jobs()),
            log_index=self._log.base - 1,
            lag=self._log.behind,
            unechoed=self._outbox.unechoed if self._outbox else 0,
            drift=self.drift,
            notes=self.notes,
            counters=self._counted(),
        )

    def addresses(self) -> dict[str, tuple[str, ...]]:
        """IP addresses of nodes as they tell of themselves in the log."""
        return {node: facts.addresses for node, facts in self._replica.nodes.items() if facts.addresses}
