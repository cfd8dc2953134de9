"""Memory of a member over a long log, and what reading it costs: no network, events as exo writes them.

python -m bench cluster_log
"""

from __future__ import annotations

import json
import re
import resource
import time
from pathlib import Path

from exo_rkllm.cluster.session.membership import Membership
from exo_rkllm.cluster.wire.revisions import supported
from tests.exo_cluster.captured import scenarios
from tests.exo_cluster.replaying import FACTS


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


UUID_START = re.compile(rb'"[0-9a-f]{8}(?=-[0-9a-f]{4}-)')


def main(number: int = 1_000_000) -> None:
    records = scenarios()["30_real_exo_worker_with_fake_engine"] + scenarios()["31_mixed_mlx_and_rkllm"]
    events = [record.message for record in records if record.topic == "global_events" and record.direction == "in"]
    events += [  # what a turn created it also takes away, or the cluster itself would grow
        {
            **event,
            "event": {"InstanceDeleted": {"event_id": created["event_id"], "instance_id": instance["instance_id"]}},
        }
        for event in events
        if (created := event["event"].get("InstanceCreated"))
        for instance in created["instance"].values()
    ]
    session = {"master_node_id": "aa", "election_clock": 0}
    payloads = [
        json.dumps({**event, "origin": "aa", "session": session, "origin_idx": "@"}, separators=(",", ":"))
        for event in events
    ]
    member = Membership("c0ffee", supported()[0], FACTS)
    member.link_up(0.0)
    started = time.monotonic()
    print(f"{'events':>10}  {'resident KB':>11}  {'events/s':>9}")
    for index in range(number):
        turn, place = divmod(index, len(payloads))
        # every turn brings events, tasks, instances and runners that were never seen before
        payload = UUID_START.sub(b'"%08x' % turn, payloads[place].replace('"@"', str(index)).encode())
        member.receive("global_events", payload, index / 100)
        if index == 0:
            member.node_answered(None, 0.0)
        if (index + 1) % max(1, number // 10) == 0:
            rate = (index + 1) / (time.monotonic() - started)
            print(f"{index + 1:>10}  {resident():>11}  {rate:>9.0f}", flush=True)
    view = member.view(number / 100)
    print(f"applied {view.log_index + 1}, nodes {len(view.nodes)}, instances {len(view.instances)}")
