"""Membership in one exo cluster, without a network or a clock: what comes in, what goes out, and when to look again.

Events come with the time of their arrival; every call returns effects for the shell (`node.py`) to carry out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from exo_rkllm.backends import base
from exo_rkllm.cluster.effects import ClusterEffect, DeclareTokenEffect, QueryNodesEffect, SendEffect, StayOutEffect
from exo_rkllm.cluster.identity import JOIN
from exo_rkllm.cluster.serving import NodeDescription, Servable
from exo_rkllm.cluster.session.compatibility import Compatibility
from exo_rkllm.cluster.session.election import SETTLE_LINK, Adopt, Decision, DeclareToken, Follower, Nudge, Probe
from exo_rkllm.cluster.session.local_node import LocalNode
from exo_rkllm.cluster.session.log import EventLog
from exo_rkllm.cluster.session.node_query import NodeAnswer
from exo_rkllm.cluster.session.publishing import ELECTION, RESEND, MembershipSources, Publisher
from exo_rkllm.cluster.session.view import ClusterView, Phase
from exo_rkllm.cluster.wire import decoding, drift
from exo_rkllm.cluster.wire.decoding import Unreadable
from exo_rkllm.cluster.wire.events import LogEntry, NodeGatheredInfo, Raw
from exo_rkllm.cluster.wire.revisions import Revision
from exo_rkllm.cluster.worker import events
from exo_rkllm.config.table import ErrorForm, Placement
from exo_rkllm.errors import ExoRkllmError

# An exo node's answer over HTTP is waited for so long; after that the log is read from its beginning.
QUERY_TIMEOUT = 2.0
# Snapshot and log that are further apart than this are not of one session.
SAME_LOG = 5000
GLOBAL, DOWNLOADS = "global_events", "download_commands"
TOPICS = (GLOBAL, ELECTION, DOWNLOADS)
ACTIVE = (Phase.JOINING, Phase.SERVING)


class Membership:
    """`may_publish` is false while it is not decided that this cluster is the one to join."""

    def __init__(
        self,
        me: str,
        revision: Revision,
        facts: NodeDescription,
        *,
        placement: Placement = "own",
        errors: ErrorForm = "answer",
        sources: MembershipSources | None = None,
        stay_out: str = "",
    ) -> None:
        self.me = me
        self.phase = Phase.OUT if stay_out else Phase.SEARCHING
        self.sentence = stay_out
        self.may_publish = True
        sources = sources or MembershipSources()
        self._publisher = Publisher(me, revision, sources)
        self.local = LocalNode(me, facts, self._publisher, sources, placement=placement, errors=errors)
        self._follower = Follower(me)
        self._log = EventLog()
        self._compatibility = Compatibility(revision)
        self._resend_at: float | None = None
        self._query_until: float | None = None
        self._session_since = 0.0
        self._alive = self.local.alive

    # ── what comes in ────────────────────────────────────────────────────────────────────────────

    def link_up(self, now: float) -> list[ClusterEffect]:
        self._publisher.has_link = True
        self._publisher.tally["links"] += 1
        self._follower.link_up(now)
        if self.phase is Phase.SEARCHING:
            self.phase = Phase.LISTENING
        self._resend_at = now + SETTLE_LINK
        return self._done(now)

    def link_down(self, now: float) -> list[ClusterEffect]:
        self._record_loss(now)
        self._publisher.has_link = False
        self._follower.link_down()
        self._resend_at = None
        self._alive.clear()
        return self._done(now)

    def liveliness(self, node: str, now: float, *, alive: bool) -> list[ClusterEffect]:
        """An exo node showed that it is there, or went."""
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
            self._receive(topic, decoding.parse(payload), now)
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
        self.local.change_models(models, now)
        return self._done(now)

    def engine_answered(
        self, answers: Iterable[tuple[str, base.GenerationEvent | ExoRkllmError]], now: float
    ) -> list[ClusterEffect]:
        """Take events of engines, by task; pieces that come together travel together."""
        for task_id, event in answers:
            self.local.decide(events.AnswerEvent(task_id, event), now)
        return self._done(now)

    def interfaces_changed(self, interfaces: tuple[Raw, ...], now: float) -> list[ClusterEffect]:
        if interfaces != self.local.interfaces:
            self.local.interfaces = interfaces
            if self.phase in ACTIVE:
                self.local.publish_info(self.local.addresses, now)
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
            self.phase = Phase.LISTENING if self._publisher.has_link else Phase.SEARCHING
            self.sentence = ""
            self._publisher.effects.append(StayOutEffect(""))
            if self._follower.session is not None and self._publisher.has_link:
                self._adopt(Adopt(self._follower.session, "told to join again"), now)
        else:
            self.local.decide(events.JoinedEvent(), now)
        return self._done(now)

    def leave(self, now: float) -> list[ClusterEffect]:
        """Say goodbye; `gone` tells when it has been heard."""
        if self.phase is Phase.SERVING:
            self.local.decide(events.LeavingEvent(), now)
        if self.phase not in (Phase.OUT, Phase.PASSIVE):
            self.phase = Phase.LEAVING
        return self._done(now)

    def abandon(self) -> list[ClusterEffect]:
        """End all work for a cluster that is not spoken to any more."""
        self.local.drop_work()
        return [effect for effect in self._publisher.take() if not isinstance(effect, SendEffect)]

    @property
    def gone(self) -> bool:
        """Whether there is nothing more to wait for before the link is closed."""
        pending = self.local.deletes_instances or not self._publisher.queue.idle
        return not (pending and self._publisher.has_link and self.phase is Phase.LEAVING)

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
            times += [self._log.deadline, self._resend_at, self._publisher.queue.deadline]
            if self.phase is not Phase.LEAVING:
                times.append(self.local.deadline)
        return min((time for time in times if time is not None), default=None)

    # ── messages ─────────────────────────────────────────────────────────────────────────────────

    def _receive(self, topic: str, message: Raw, now: float) -> None:
        self._publisher.crash_watch.record_received(now)
        difference = drift.of_message(topic, message, self._compatibility.revision)
        if difference is not None:
            message = self._compatibility.revision.shape(topic, message)
        if topic == GLOBAL:
            self._receive_event(decoding.log_entry(message), difference, now)
        elif topic == ELECTION:
            candidate = decoding.election_message(message)
            self._note(difference)
            self._follower.candidate(candidate, now)
        elif topic == DOWNLOADS:
            command = events.CommandEvent(decoding.download_command(message))
            self._note(difference)
            self.local.decide(command, now)

    def _receive_event(self, entry: LogEntry, difference: drift.Difference | None, now: float) -> None:
        self._publisher.tally["events_in"] += 1
        if entry.origin != entry.session.master_node_id:
            return
        self._follow(self._follower.event(entry.session, now), now)
        if entry.session != self._follower.session:
            return
        self._note(difference)
        self._publisher.acknowledge(entry.event_id, now)
        for released in self._log.receive(entry, now):
            self._apply(released, now)

    def _apply(self, entry: LogEntry, now: float) -> None:
        event = decoding.event(entry.kind, entry.body)
        self.local.apply(event)
        if isinstance(event, NodeGatheredInfo) and event.node_id == self.me:
            self._own_sign(entry.event_id, now)
        if self.phase in (Phase.SERVING, Phase.LEAVING):
            self.local.decide(events.AppliedEvent(event, self._log.behind == 0), now)

    def _own_sign(self, event_id: str, now: float) -> None:
        """A sign of life under our id came back in the log."""
        if self.local.is_ours(event_id):
            if self.phase is Phase.JOINING and self.local.is_latest(event_id):
                self.phase = Phase.SERVING
                self._publisher.log("info", f"In the exo cluster as {self.local.facts.name} ({self.me[:8]}).")
                self.local.decide(events.CaughtUpEvent(), now)
        elif self.phase is Phase.SERVING and self.local.has_twin(now):
            sentence = f"Another board in the exo cluster uses our node id {self.me}, perhaps from a copied SD card."
            self._step_out(sentence, remember=False)

    def _note(self, difference: drift.Difference | None) -> None:
        """Only a difference in a type that we send keeps us from speaking."""
        if difference is None:
            return
        self.local.shows_gauges &= "MacmonMetrics" not in difference.problem
        self.local.shows_edges &= "TopologyEdge" not in difference.problem
        if difference.ours:
            self._become_passive((difference.problem,))
        elif self._compatibility.is_new_note(difference.problem):
            unknown = f"The exo cluster says something that this version does not know: {difference.problem}"
            self._publisher.log("info", unknown)

    # ── sessions ─────────────────────────────────────────────────────────────────────────────────

    def _follow(self, decision: Decision | None, now: float) -> None:
        match decision:
            case Adopt():
                self._adopt(decision, now)
            case DeclareToken() if self.phase in (Phase.LISTENING, *ACTIVE) and self.may_publish:
                self._publisher.log("info", "The exo cluster is silent; asking it to elect a master.")
                self._publisher.effects.append(DeclareTokenEffect())
            case Probe() if self._publishes and self.phase is not Phase.LEAVING:
                self.local.speak(now)
            case Nudge(candidate, why, again) if self.phase in ACTIVE and self._publisher.has_link:
                if not again:
                    self._publisher.log("warning", f"{why}; asking for an election.")
                self._publisher.candidate(candidate, now)

    def _adopt(self, decision: Adopt, now: float) -> None:
        """Follow another session: everything of the one before is dropped."""
        self._publisher.tally["sessions"] += 1
        self.local.restart()
        self._log = EventLog()
        self._publisher.start_session(decision.session)
        self._session_since = now
        self._compatibility.restart()
        if self.phase in (Phase.OUT, Phase.LEAVING):
            return
        self.phase, self.sentence = Phase.CHECKING, ""
        master = decision.session.master_node_id
        self._publisher.log("info", f"Following the exo master {master[:8]} ({decision.why}).")
        self._query_until = now + QUERY_TIMEOUT
        others = sorted(self._alive - {master})
        self._publisher.effects.append(QueryNodesEffect((master, *others), self._compatibility.needs_openapi(master)))

    def _compare(self, answer: NodeAnswer | None, now: float) -> None:
        """Compare the cluster with what we speak; nothing has been published to this session yet."""
        if answer is not None:
            differences = self._compatibility.compare(answer)
            if differences:
                self._become_passive(differences)
        for entry in self._log.start_at(self._snapshot(answer), now):
            self._apply(entry, now)
        if self.may_publish:
            self._join(now)

    def _snapshot(self, answer: NodeAnswer | None) -> int:
        """Start from `GET /state` where it is of this session; returns the first index that is still needed."""
        # after an election, another node than the master may not have heard its result, and tells of another session
        if not (answer and answer.state) or (self._publisher.tally["sessions"] > 1 and answer.node_id != self.master):
            return 0
        try:
            state = decoding.state(self._compatibility.revision.table.shape("State", answer.state))
        except Unreadable as problem:
            self._become_passive((f"State: {problem}",))
            return 0
        if self._log.highest >= 0 and abs(state.applied - self._log.highest) > SAME_LOG:
            return 0
        self.local.replica.load(state)
        return state.applied + 1

    def _join(self, now: float) -> None:
        if self.phase is Phase.CHECKING:
            self.phase = Phase.JOINING
            self.local.introduce(now)

    def _keep_going(self, now: float) -> None:
        """Repairs, repeats and signs of life."""
        since = self._log.gap(now)
        if since is not None:
            self._publisher.tally["gap_repairs"] += 1
            self._publisher.command("RequestEventLog", {"since_idx": since}, now)
        patience = RESEND
        if self._resend_at is not None and now >= self._resend_at:
            self._resend_at, patience = None, SETTLE_LINK
        self._publisher.resend(now, patience)
        if now >= self.local.next_sign_at and self.phase is not Phase.LEAVING:
            self.local.publish_sign_of_life(now)
        self.local.decide(events.TickedEvent(), now)

    # ── being kept out ───────────────────────────────────────────────────────────────────────────

    def _become_passive(self, differences: tuple[str, ...]) -> None:
        """Go on following without a word."""
        if self.phase in (Phase.OUT, Phase.LEAVING):
            return
        self._compatibility.add_drift(differences)
        if self.phase is not Phase.PASSIVE:
            self.phase = Phase.PASSIVE
            self.sentence = self._compatibility.sentence(differences)
            self._fall_silent()

    def _step_out(self, sentence: str, *, remember: bool) -> None:
        """Stay out until the operator says otherwise; `remember` keeps that across restarts."""
        self.phase, self.sentence = Phase.OUT, sentence
        self._fall_silent()
        if remember:
            self._publisher.effects.append(StayOutEffect(sentence))

    def _fall_silent(self) -> None:
        self._publisher.log("error", self.sentence)
        self._publisher.effects += self.abandon()

    def _record_loss(self, now: float) -> None:
        if self.phase in ACTIVE:
            self._publisher.crash_watch.record_loss(self._alive, now)

    def _check_losses(self, now: float) -> None:
        kinds = " and ".join(self._publisher.crash_watch.verdict(self._alive, now))
        if kinds and self.phase in ACTIVE:
            sentence = f"All exo nodes ended within seconds of our first {kinds}: this exo may not bear them"
            self._step_out(f"{sentence}, so nothing more is sent.", remember=True)

    # ── what goes out ────────────────────────────────────────────────────────────────────────────

    @property
    def _publishes(self) -> bool:
        return self._publisher.has_link and self.phase in (*ACTIVE, Phase.LEAVING)

    def _done(self, now: float) -> list[ClusterEffect]:
        self._publisher.flush(now)
        return self._publisher.take()

    # ── the view for people ──────────────────────────────────────────────────────────────────────

    @property
    def master(self) -> str:
        """The node id of the master that is followed, empty while there is none."""
        return self._follower.session.master_node_id if self._follower.session else ""

    def view(self, now: float) -> ClusterView:
        session = self._follower.session
        phase, sentence = self.phase, self.sentence
        if not self._publisher.has_link and phase not in (Phase.OUT, Phase.LEAVING):
            phase, sentence = Phase.SEARCHING, sentence or "No link to any exo node."
        return replace(
            self.local.view(self.master),
            phase=phase,
            sentence=sentence,
            hint=JOIN if phase is Phase.OUT else "",
            revision=self._compatibility.revision.name,
            election_clock=session.election_clock if session else 0,
            session_age=now - self._session_since if session else 0.0,
            log_index=self._log.base - 1,
            lag=self._log.behind,
            unechoed=self._publisher.queue.unechoed,
            drift=self._compatibility.drift,
            notes=self._compatibility.notes,
            counters=self._publisher.counters(),
        )
