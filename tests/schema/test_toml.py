"""TOML: the line of every key, and what is written can be read."""

from __future__ import annotations

import re

import pytest

from exo_rkllm.schema import toml

TEXT = """\
a = 1
[t]
b = 1
'c' = 1
"d e" = 1
[u.v]
b = 2
x.y = 1
[[w]]
z = '''
b = 1
'''
q = 1
l = [
  "[t2]", # [x]
  ["k = 1"],
]
m = { n = 1 }
s = @@@one \\@@@
[not]
@@@
end = 1
api.port = 1
 [ "models" ]
"keep_alive"=1
# queue = 1
[dispatch]
  queue=1
queue_timeout = 2
[last]"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("a", 1), ("t", 2), ("t.b", 3), ("t.c", 4), ("t.d e", 5), ("u", 6), ("u.v", 6), ("u.v.b", 7), ("u.v.x.y", 8),
        ("w.z", 10), ("w.q", 13), ("w.l", 14), ("w.m", 18), ("w.m.n", 18), ("w.s", 19), ("w.end", 22), ("w.api", 23),
        ("w.api.port", 23), ("models", 24), ("models.keep_alive", 25), ("dispatch.queue", 28),
        ("dispatch.queue_timeout", 29), ("last", 30), ("not", 0), ("x", 0), ("t2", 0), ("w.b", 9), ("gone", 0),
    ],
)  # fmt: skip
def test_line_of_a_key_is_found_however_it_is_written(path: str, line: int) -> None:
    assert toml.line_of(TEXT.replace("@@@", '"' * 3), path) == line


def test_nulls_are_left_out_and_nothing_else_is() -> None:
    assert toml.dumps({"a": None, "b": [1, None], "t": {"c": None, "d": {"e": None, "f g": "\x7f\x01\n"}}}) == (
        'b = [1]\n\n[t]\nd = { "f g" = "\\u007F\\u0001\\n" }\n'
    )
    assert re.fullmatch(r"\s*", toml.dumps({}))
    with pytest.raises(TypeError, match="no null"):
        toml.dumps({"a": object()})
