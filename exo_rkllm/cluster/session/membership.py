"""Membership in one exo cluster, without a network or a clock: what comes in, what goes out, and when to look again.

Events come with the time of their arrival; every call returns effects for the shell (`node.py`) to carry out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from exo_rkllm.backends import base
from exo_rkllm.cluster.effects import (
    BeginTaskEffect,
    CancelTaskEffect,
    ClusterEffect,
    DeclareTokenEffect,
    PublishCommandEffect,
    PublishEventEffect,
    PublishNodeInfoEffect,
    QueryNodesEffect,
    SendEffect,
    StayOutEffect,
    node_info,
)
from exo_rkllm.cluster.serving import BoardFacts, Servable
from exo_rkllm.cluster.session.election import SETTLE_LINK, Adopt, Decision, DeclareToken, Follower, Nudge, Probe
from exo_rkllm.cluster.session.log import EventLog
from exo_rkllm.cluster.session.node_query import NodeAnswer
from exo_rkllm.cluster.session.presence import MembershipSources, Presence
from exo_rkllm.cluster.session.publishing import ELECTION, RESEND, Publisher
from exo_rkllm.cluster.session.replica import Replica
from exo_rkllm.cluster.session.view import ClusterView, Phase, instance_views, node_views
from exo_rkllm.cluster.wire import decoding, drift
from exo_rkllm.cluster.wire.decoding import Unreadable
from exo_rkllm.cluster.wire.events import InputChunkReceived, LogEntry, NodeGatheredInfo, Raw
from exo_rkllm.cluster.wire.requests import ImageStore
from exo_rkllm.cluster.wire.revisions import Revision
from exo_rkllm.cluster.worker import events, offers
from exo_rkllm.cluster.worker.decide import decide
from exo_rkllm.cluster.worker.state import Worker
from exo_rkllm.config.table import Placement
from exo_rkllm.errors import ExoRkllmError

# An exo node's answer over HTTP is waited for so long; after that the log is read from its beginning.
QUERY_TIMEOUT = 2.0
# Snapshot and log that are further apart than this are not of one session.
SAME_LOG = 5000
# Differences and notes that are kept.
KEPT = 16

GLOBAL, DOWNLOADS = "global_events", "download_commands"
TOPICS = (GLOBAL, ELECTION, DOWNLOADS)

ACTIVE = (Phase.JOINING, Phase.SERVING)


class Membership:
    """`may_publish` is false while it is not decided that this cluster is the one to join."""

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
        self.images = ImageStore()
        self.phase = Phase.OUT if stay_out else Phase.SEARCHING
        self.sentence = stay_out
        self.drift: tuple[str, ...] = ()
        self.notes: tuple[str, ...] = ()
        self.may_publish = True
        self._sources = sources or MembershipSources()
        self._publisher = Publisher(me, revision, self._sources)
        self._presence = Presence(facts, placement, self._sources)
        self._follower = Follower(me)
        self._log = EventLog()
        self._replica = Replica(me)
        self._models: Mapping[str, Servable] = {}
        self._worker = self._new_worker()
        self._has_link = False
        self._resend_at: float | None = None
        self._query_until: float | None = None
        self._compatible: set[str] = set()  # nodes whose openapi.json is what we speak
        self._session_since = 0.0
        self._alive: set[str] = set()  # exo nodes that show a liveliness token

    def _new_worker(self) -> Worker:
        return Worker(self.me, self._presence.facts.name, self._presence.placement, self._models)

    # ── what comes in ────────────────────────────────────────────────────────────────────────────

    def link_up(self, now: float) -> list[ClusterEffect]:
        self._has_link = True
        self._publisher.tally["links"] += 1
        self._follower.link_up(now)
        if self.phase is Phase.SEARCHING:
            self.phase = Phase.LISTENING
        self._resend_at = now + SETTLE_LINK
        return self._done(now)

    def link_down(self, now: float) -> list[ClusterEffect]:
        self._record_loss(now)
        self._has_link = False
        self._follower.link_down()
        self._resend_at = None
        self._alive.clear()
        return self._done(now)

    def liveliness(self, node: str, now: float, *, alive: bool) -> list[ClusterEffect]:
        """An exo node's liveliness token appeared or went."""
        if node != self.me:
            if alive:
                self._alive.add(node)
            elif node in self._alive:
                self._record_loss(now)
                self._alive.discard(node)
        return self._done(now)

    def receive(self, topic: str, payload: bytes, now: float) -> list[ClusterEffect]:
        """Take in a message from one of TOPICS."""
        try:
            self._receive(topic, decoding.parsed(payload), now)
        except (ValueError, RecursionError, Unreadable):
            self._publisher.tally["garbage"] += 1
        return self._done(now)

    def node_answered(self, answer: NodeAnswer | None, now: float) -> list[ClusterEffect]:
        """Take the answer to a `QueryNodesEffect`, None if no node gave one."""
        if self.phase is Phase.CHECKING and self._query_until is not None:
            self._query_until = None
            self._compare(answer, now)
        return self._done(now)

    def models_changed(self, models: Sequence[Servable], now: float) -> list[ClusterEffect]:
        self._models = {offers.model_id(model.id): model for model in models}
        self._decide(events.ModelsChangedEvent(self._models), now)
        return self._done(now)

    def engine_answered(
        self, answers: Iterable[tuple[str, base.GenerationEvent | ExoRkllmError]], now: float
    ) -> list[ClusterEffect]:
        """Take events of engines, by task; pieces that come together travel together."""
        for task_id, event in answers:
            self._decide(events.AnswerEvent(task_id, event), now)
        return self._done(now)

    def interfaces_changed(self, interfaces: tuple[Raw, ...], now: float) -> list[ClusterEffect]:
        if interfaces != self._presence.interfaces:
            self._presence.interfaces = interfaces
            if self.phase in ACTIVE:
                self._publish_info(self._presence.addresses, now)
        return self._done(now)

    def permit(self, now: float) -> list[ClusterEffect]:
        """This cluster is the one to join: from now on we may publish."""
        self.may_publish = True
        if self.phase is Phase.CHECKING and self._query_until is None:
            self._join(now)
        return self._done(now)

    def invite(self, now: float) -> list[ClusterEffect]:
        """The operator wants us in again, with all models."""
        if self.phase is Phase.OUT:
            self.phase = Phase.LISTENING if self._has_link else Phase.SEARCHING
            self.sentence = ""
            self._publisher.effects.append(StayOutEffect(""))
            if self._follower.session is not None and self._has_link:
                self._adopt(Adopt(self._follower.session, "told to join again"), now)
        else:
            self._decide(events.JoinedEvent(), now)
        return self._done(now)

    def leave(self, now: float) -> list[ClusterEffect]:
        """Say goodbye; `gone` tells when it has been heard."""
        if self.phase is Phase.SERVING:
            self._decide(events.LeavingEvent(), now)
        if self.phase not in (Phase.OUT, Phase.PASSIVE):
            self.phase = Phase.LEAVING
        return self._done(now)

    @property
    def gone(self) -> bool:
        silent = self._publisher.queue is None or self._publisher.queue.idle
        ours = any(instance in self._replica.instances for instance in self._worker.deleting)
        return not self._has_link or self.phase is not Phase.LEAVING or (silent and not ours)

    def tick(self, now: float) -> list[ClusterEffect]:
        """Do what is due; to be called at `deadline`."""
        self._follow(self._follower.tick(now), now)
        if self._query_until is not None and now >= self._query_until:
            self._query_until = None
            if self.phase is Phase.CHECKING:
                self._compare(None, now)
        self._check_losses(now)
        if self._publishes:
            self._keep_going(now)
        return self._done(now)

    @property
    def deadline(self) -> float | None:
        """When `tick` has something to do."""
        times = [self._follower.deadline, self._query_until, self._publisher.crash_watch.deadline]
        if self._publishes:
            times += [self._log.deadline, self._resend_at]
            if self._publisher.queue is not None:
                times.append(self._publisher.queue.deadline)
            if self.phase is not Phase.LEAVING:
                times.append(self._presence.deadline)
                times += [command.due for command in self._worker.pending if self._worker.serving]
        return min((time for time in times if time is not None), default=None)

    # ── messages ─────────────────────────────────────────────────────────────────────────────────

    def _receive(self, topic: str, message: Raw, now: float) -> None:
        self._publisher.crash_watch.received(now)
        difference = drift.of_message(topic, message, self.revision)
        if difference is not None:
            message = self.revision.shaped(topic, message)
        if topic == GLOBAL:
            self._receive_event(decoding.log_entry(message), difference, now)
        elif topic == ELECTION:
            candidate = decoding.election_message(message)
            self._note(difference)
            self._follower.candidate(candidate, now)
        elif topic == DOWNLOADS:
            command = decoding.download_command(message)
            self._note(difference)
            self._decide(events.CommandEvent(command), now)

    def _receive_event(self, entry: LogEntry, difference: tuple[str, bool] | None, now: float) -> None:
        self._publisher.tally["events_in"] += 1
        if entry.origin != entry.session.master_node_id:
            return
        self._follow(self._follower.event(entry.session, now), now)
        if entry.session != self._follower.session:
            return
        self._note(difference)
        self._publisher.echoed(entry.event_id, now)
        for released in self._log.receive(entry, now):
            self._apply(released, now)

    def _apply(self, entry: LogEntry, now: float) -> None:
        event = decoding.event(entry.kind, entry.body)
        self._replica.apply(event)
        match event:
            case InputChunkReceived(part):
                self.images.take(part)
            case NodeGatheredInfo(node) if node == self.me:
                self._own_sign(entry.event_id, now)
        if self.phase in (Phase.SERVING, Phase.LEAVING):
            self._decide(events.AppliedEvent(event, self._log.behind == 0), now)

    def _own_sign(self, event_id: str, now: float) -> None:
        """A sign of life under our id came back in the log."""
        if self._presence.is_ours(event_id):
            if self.phase is Phase.JOINING and self._presence.is_latest(event_id):
                self.phase = Phase.SERVING
                self._publisher.log("info", f"In the exo cluster as {self._presence.facts.name} ({self.me[:8]}).")
                self._decide(events.CaughtUpEvent(), now)
        elif self.phase is Phase.SERVING and self._presence.has_twin(now):
            self._step_out(
                f"Another board in the exo cluster uses our node id {self.me}, perhaps from a copied SD card.",
                remember=False,
            )

    def _note(self, difference: tuple[str, bool] | None) -> None:
        """Only a difference in a type that we send keeps us from speaking."""
        if difference is None:
            return
        problem, ours = difference
        if ours:
            self._become_passive((problem,))
        elif problem not in self.notes and len(self.notes) < KEPT:
            self.notes = (*self.notes, problem)
            self._publisher.log("info", f"The exo cluster says something that this version does not know: {problem}")

    # ── sessions ─────────────────────────────────────────────────────────────────────────────────

    def _follow(self, decision: Decision | None, now: float) -> None:
        match decision:
            case Adopt():
                self._adopt(decision, now)
            case DeclareToken() if self.phase in (Phase.LISTENING, *ACTIVE) and self.may_publish:
                self._publisher.log("info", "The exo cluster is silent; asking it to elect a master.")
                self._publisher.effects.append(DeclareTokenEffect())
            case Probe() if self._publishes and self.phase is not Phase.LEAVING:
                self._publish_info(self._presence.name, now)
            case Nudge(candidate, why, again) if self.phase in ACTIVE and self._has_link:
                if not again:
                    self._publisher.log("warning", f"{why}; asking for an election.")
                self._publisher.candidate(candidate, now)

    def _adopt(self, decision: Adopt, now: float) -> None:
        """Follow another session: everything of the one before is dropped."""
        self._publisher.tally["sessions"] += 1
        self._drop_work()
        self._log, self._replica = EventLog(), Replica(self.me)
        self._publisher.start_session(decision.session)
        self._session_since = now
        self._presence.restart()
        self.drift, self.notes = (), ()
        if self.phase in (Phase.OUT, Phase.LEAVING):
            return
        self.phase, self.sentence = Phase.CHECKING, ""
        master = decision.session.master_node_id
        self._publisher.log("info", f"Following the exo master {master[:8]} ({decision.why}).")
        self._query_until = now + QUERY_TIMEOUT
        others = sorted(self._alive - {master})
        self._publisher.effects.append(QueryNodesEffect((master, *others), master not in self._compatible))

    def _compare(self, answer: NodeAnswer | None, now: float) -> None:
        """Compare the cluster with what we speak; nothing has been published to this session yet."""
        if answer is not None:
            differences = list(drift.state_keys(self.revision, answer.state))
            if answer.openapi is not None:
                differences += drift.openapi(self.revision, answer.openapi)
            if differences:
                self._become_passive(tuple(differences))
            elif answer.openapi is not None:
                self._compatible.add(answer.node_id)
        for entry in self._start_log(answer, now):
            self._apply(entry, now)
        if self.may_publish:
            self._join(now)

    def _start_log(self, answer: NodeAnswer | None, now: float) -> list[LogEntry]:
        """Start from `GET /state` where it is of this session, else from the first event."""
        start = 0
        if answer is not None:
            try:
                state = decoding.state(self.revision.table.shaped("State", answer.state))
                if self._log.highest < 0 or abs(state.applied - self._log.highest) <= SAME_LOG:
                    self._replica.load(state)
                    start = state.applied + 1
            except Unreadable as problem:
                self._become_passive((f"State: {problem}",))
        return self._log.start_at(start, now)

    def _join(self, now: float) -> None:
        if self.phase is Phase.CHECKING:
            self.phase = Phase.JOINING
            self._introduce(now)

    def _keep_going(self, now: float) -> None:
        """Repairs, repeats and signs of life."""
        since = self._log.gap(now)
        if since is not None:
            self._publisher.tally["gap_repairs"] += 1
            self._command("RequestEventLog", {"since_idx": since}, now)
        patience = RESEND
        if self._resend_at is not None and now >= self._resend_at:
            self._resend_at, patience = None, SETTLE_LINK
        self._publisher.resend(now, patience)
        if now >= self._presence.deadline and self.phase is not Phase.LEAVING:
            self._publish_info(self._presence.sign_of_life(), now)
        self._decide(events.TickedEvent(), now)

    # ── being kept out ───────────────────────────────────────────────────────────────────────────

    def _become_passive(self, differences: tuple[str, ...]) -> None:
        """Go on following without a word."""
        if self.phase in (Phase.OUT, Phase.LEAVING):
            return
        self.drift = (*self.drift, *(one for one in differences if one not in self.drift))[:KEPT]
        if self.phase is not Phase.PASSIVE:
            self.phase = Phase.PASSIVE
            self.sentence = (
                f"The exo cluster speaks another revision than {self.revision.name}: {differences[0]}"
                f"{f' and {len(differences) - 1} more' if len(differences) > 1 else ''}. Nothing is published to it."
            )
            self._fall_silent()

    def _step_out(self, sentence: str, *, remember: bool) -> None:
        """Stay out until the operator says otherwise; `remember` keeps that across restarts."""
        self.phase, self.sentence = Phase.OUT, sentence
        self._fall_silent()
        if remember:
            self._publisher.effects.append(StayOutEffect(sentence))

    def _fall_silent(self) -> None:
        self._publisher.log("error", self.sentence)
        self._drop_work()
        kept = [effect for effect in self._publisher.take() if not isinstance(effect, SendEffect)]
        self._publisher.effects += kept

    def _drop_work(self) -> None:
        """Cancel the board's tasks, and forget the session's worker and queue; what they counted is kept."""
        tasks = [one.task for one in self._worker.active_tasks()]
        self._publisher.effects += [CancelTaskEffect(task.id, task.command_id) for task in tasks]
        self._worker = self._new_worker()
        self._publisher.end_session()

    def _record_loss(self, now: float) -> None:
        if self.phase in ACTIVE:
            self._publisher.crash_watch.record_loss(self._alive, now)

    def _check_losses(self, now: float) -> None:
        if (kinds := self._publisher.crash_watch.verdict(self._alive, now)) and self.phase in ACTIVE:
            self._step_out(
                f"All exo nodes ended within seconds of our first {' and '.join(kinds)}: this exo may not bear"
                " them, so nothing more is sent.",
                remember=True,
            )

    # ── what goes out ────────────────────────────────────────────────────────────────────────────

    @property
    def _publishes(self) -> bool:
        return self._has_link and self.phase in (*ACTIVE, Phase.LEAVING)

    def _decide(self, event: events.WorkerEvent, now: float) -> None:
        self._worker, effects = decide(self._worker, event, self._replica, now, self._sources.new_id)
        for effect in effects:
            self._carry_out(effect, now)

    def _carry_out(self, effect: ClusterEffect, now: float) -> None:
        match effect:
            case PublishEventEffect():
                self._publish(effect)
            case PublishCommandEffect(tag, fields):
                self._command(tag, fields, now)
            case PublishNodeInfoEffect():
                self._introduce(now)
            case _:
                if isinstance(effect, CancelTaskEffect) and self._publisher.queue is not None:
                    self._publisher.queue.drop_chunks(effect.command_id)
                elif isinstance(effect, BeginTaskEffect):
                    self._publisher.tally["tasks"] += 1
                self._publisher.effects.append(effect)

    def _introduce(self, now: float) -> None:
        others = (facts for node, facts in self._replica.nodes.items() if node != self.me)
        for info in self._presence.everything(offers.backends(self._presence.placement, others)):
            self._publish_info(info, now)

    def _publish_info(self, info: Raw, now: float) -> None:
        event_id = self._sources.new_id()
        self._presence.published(event_id, now)
        self._publish(node_info(self.me, self._sources.time_of_day(), info), event_id)

    def _publish(self, event: PublishEventEffect, event_id: str = "") -> None:
        if self.phase in (*ACTIVE, Phase.LEAVING):
            self._publisher.event(event, event_id)

    def _command(self, tag: str, fields: Raw, now: float) -> None:
        # events come first, as they were meant: what a command relies on is said by then
        self._flush(now)
        self._publisher.command(tag, fields, now)

    def _flush(self, now: float) -> None:
        if self._publishes:
            self._publisher.flush(now)

    def _done(self, now: float) -> list[ClusterEffect]:
        self._flush(now)
        return self._publisher.take()

    # ── the view for people ──────────────────────────────────────────────────────────────────────

    @property
    def master(self) -> str:
        """The node id of the master that is followed, empty while there is none."""
        return self._follower.session.master_node_id if self._follower.session else ""

    def addresses(self) -> dict[str, tuple[str, ...]]:
        """IP addresses of nodes as they tell of themselves in the log."""
        return {node: facts.addresses for node, facts in self._replica.nodes.items() if facts.addresses}

    def view(self, now: float) -> ClusterView:
        session, queue = self._follower.session, self._publisher.queue
        phase, sentence = self.phase, self.sentence
        if not self._has_link and phase not in (Phase.OUT, Phase.LEAVING):
            phase, sentence = Phase.SEARCHING, sentence or "No link to any exo node."
        return ClusterView(
            phase=phase,
            node_id=self.me,
            name=self._presence.facts.name,
            sentence=sentence,
            hint="exo-rkllm cluster join" if phase is Phase.OUT else "",
            revision=self.revision.name,
            master=self._replica.name(self.master),
            election_clock=session.election_clock if session else 0,
            session_age=now - self._session_since if session else 0.0,
            nodes=node_views(self._replica, self.me, self.master),
            instances=instance_views(self._replica, self.me),
            tasks=sum(1 for _ in self._worker.active_tasks()),
            log_index=self._log.base - 1,
            lag=self._log.behind,
            unechoed=queue.unechoed if queue else 0,
            drift=self.drift,
            notes=self.notes,
            counters=self._publisher.counters(),
        )
