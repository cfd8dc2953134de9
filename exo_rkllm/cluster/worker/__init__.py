"""What a worker of the cluster does, decided without a network: (worker, what happened) -> (worker, effects).

The replica is what the cluster says, the worker what this board is doing about it; `Turn.settle` brings one to the
other. Read `state` and `happenings` first, then `decide`.
"""
