"""What a worker of the cluster does, decided without a network: (worker, event) -> (worker, effects).

The replica is what the cluster says, the worker what this board does about it; `Transition.settle` brings one in line
with the other. Read `state` and `events` first, then `decide`.
"""
