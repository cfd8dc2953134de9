"""Cards: strict to read, and what is written can be read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exo_rkllm.backends.base import Sampling
from exo_rkllm.catalogue.card import Card, Weights, dump, parse, with_option
from exo_rkllm.chat.chat_format import ChatSettings
from exo_rkllm.errors import CardError

WHOLE = """\
# A card with everything.
id = "qwen2.5-1.5b"
name = "Qwen 2.5"
engine = "rkllm"
base_model = "Qwen/Qwen2.5-1.5B-Instruct"
source = "org/repo@abc:q.rkllm"
platform = "rk3588"
quantization = "w8a8"
runtime_floor = "1.1.4"
context = 4096
layers = 28
hidden_size = 1536
memory = 1_800_000_000
reuse = false

[weights]
file = "q.rkllm"
size = 12
sha256 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

[sampling]
temperature = 1
top_k = -1
presence_penalty = -0.5
seed = -3

[chat]
template = "chat_template.jinja"
tools = "hermes"
reasoning = "none"
family = "qwen"
stop = ["<|im_end|>", "###"]
system = '''
Be "kind".'''

[options]
n_keep = 3
cpus = [4, 5]
nested = { a = [true, "x", 1.5] }
"""


def test_card_is_read_completely() -> None:
    assert parse(WHOLE) == Card(
        id="qwen2.5-1.5b",
        name="Qwen 2.5",
        base_model="Qwen/Qwen2.5-1.5B-Instruct",
        source="org/repo@abc:q.rkllm",
        platform="rk3588",
        quantization="w8a8",
        runtime_floor="1.1.4",
        context=4096,
        layers=28,
        hidden_size=1536,
        memory=1_800_000_000,
        reuse=False,
        weights=Weights("q.rkllm", 12, "a" * 64),
        sampling=Sampling(temperature=1.0, top_k=-1, presence_penalty=-0.5, seed=-3),
        chat=ChatSettings("chat_template.jinja", "hermes", "none", "qwen", ("<|im_end|>", "###"), 'Be "kind".'),
        options={"n_keep": 3, "cpus": [4, 5], "nested": {"a": [True, "x", 1.5]}},
    )


def test_engines_without_a_file_need_no_weights() -> None:
    assert parse('id = "x"\nengine = "openai"\n[options]\nurl = "http://b"\n').weights is None


WRONG = {
    'id = "x"\nplatfrom = "rk3588"': (2, "there is no key platfrom.", "Did you mean platform?"),
    'id = "x"\nzzz = 1': (2, "there is no key zzz.", "There are: alias_of, base_model, chat, context"),
    'id = "x"\n[weights]\nfile = "a"\nsha = "b"': (4, "there is no key weights.sha.", "Did you mean sha256?"),
    'id = "x"\n\n[samplng]\ntop_k = 1': (3, "there is no key samplng.", "Did you mean sampling?"),
    'id = "x"\ncontext = "4096"': (2, "context must be a whole number, not '4096'.", ""),
    'id = "x"\ncontext = 4096.5': (2, "context must be a whole number, not 4096.5.", ""),
    'id = "x"\nreuse = 1': (2, "reuse must be true or false, not 1.", ""),
    'id = "x"\ncontext = true': (2, "context must be a whole number, not true.", ""),
    'id = "x"\ncontext = -1': (2, "context must be 0 or more, not -1.", ""),
    'id = "x"\n[sampling]\ntemperature = "hot"': (3, "sampling.temperature must be a number, not 'hot'.", ""),
    'id = "x"\n[sampling]\ntemperature = nan': (3, "sampling.temperature must be a number, not nan.", ""),
    'id = "x"\n[sampling]\ntemperature = inf': (3, "sampling.temperature must be a number, not inf.", ""),
    'id = "x"\n[sampling]\ntemperature = true': (3, "sampling.temperature must be a number, not true.", ""),
    'id = "x"\n[sampling]\ntemperature = 7': (3, "sampling.temperature must be from 0 to 2, not 7.", ""),
    'id = "x"\n[chat]\nstop = "a"': (3, "chat.stop must be a list of strings, not 'a'.", ""),
    'id = "x"\n[chat]\nstop = ["a", 1]': (3, "chat.stop[1] must be a string, not 1.", ""),
    'id = "x"\nweights = 3': (2, "weights must be a table, not 3.", ""),
    'id = "a/b"': (1, "id must be a model's id, not 'a/b'.", "Use letters"),
    'id = "../b"': (1, "id must be a model's id, not '../b'.", "Use letters"),
    'id = "."': (1, "id must be a model's id, not '.'.", "Use letters"),
    'id = "a\\u0000b"': (1, "id must be a model's id", "Use letters"),
    'id = ""': (1, "id must be a model's id, not ''.", "Use letters"),
    'id = "x"\n[weights]\nfile = "../y"': (3, "weights.file must be a file's name without a path, not '../y'.", "Put"),
    'id = "x"\n[weights]\nsize = 3': (2, "weights.file is missing.", "Add weights.file."),
    'id = "x"\n[weights]\nfile = "y"\nsha256 = "AB"': (4, "weights.sha256 must be 64 hexadecimal digits", "sha256sum"),
    'id = "x"\n[weights]\nfile = "y"\n[chat]\ntemplate = "/etc/passwd"': (5, "without a path", "Put the file beside"),
    'id = "x"\n[weights]\nfile = "y"\n[options]\nwhen = 1979-05-27': (
        5, "options.when holds a value that no engine takes: 1979-05-27.", "",
    ),
    'name = "x"': (0, "id is missing.", "Add id."),
    'id = "x"': (0, "weights is missing.", "Add: [weights]"),
    'id = "x': (0, "is not TOML", "Correct it"),
    "id = " + "[" * 5000: (0, "", "Correct it"),
    'name = """\nid = 1\n"""\nid = "x"\nbad = 1': (5, "there is no key bad.", "There are"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "says"), WRONG.items(), ids=[text[:60] for text in WRONG])
def test_wrong_card_is_explained_with_its_line(text: str, says: tuple[int, str, str]) -> None:
    line, sentence, hint = says
    with pytest.raises(CardError) as error:
        parse(text, "/m/model.toml")
    assert sentence in error.value.sentence
    assert error.value.hint.startswith(hint)
    assert error.value.sentence.startswith(f"/m/model.toml, line {line}:" if line else "/m/model.toml")
    assert "\n" not in error.value.sentence


TEXT = st.text(max_size=30)
NAME = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,20}[A-Za-z0-9])?", fullmatch=True)
WHOLE_NUMBER = st.integers(0, 2**50)
JSON_VALUE = st.recursive(
    st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
CARDS = st.builds(
    Card,
    id=NAME,
    name=TEXT,
    engine=st.sampled_from(["rkllm", "llamacpp"]),
    base_model=TEXT,
    context=WHOLE_NUMBER,
    memory=WHOLE_NUMBER,
    reuse=st.booleans(),
    weights=st.builds(Weights, file=NAME, size=WHOLE_NUMBER, sha256=st.sampled_from(["", "0f" * 32])),
    sampling=st.builds(
        Sampling,
        temperature=st.none() | st.floats(0, 2),
        top_p=st.none() | st.floats(0, 1),
        top_k=st.none() | st.integers(-1, 2**31 - 1),
    ),
    chat=st.builds(ChatSettings, stop=st.lists(TEXT, max_size=3).map(tuple), system=TEXT),
    options=st.dictionaries(TEXT, JSON_VALUE, max_size=4),
)


@given(CARDS)
def test_what_is_written_is_read_again(card: Card) -> None:
    assert parse(dump(card)) == card


def test_card_on_disk_leaves_out_defaults() -> None:
    assert dump(Card("x", weights=Weights("x.rkllm"))) == 'id = "x"\n\n[weights]\nfile = "x.rkllm"\n'


@given(st.text(max_size=300) | st.from_regex(r"(\[?\w+\]? ?= ?.{0,9}\n){1,5}"))
def test_any_text_is_a_card_or_a_card_error(text: str) -> None:
    try:
        parse(text)
    except CardError as error:
        assert "Traceback" not in error.sentence


OPEN = '# mine\nid = "m"\nengine = "x"\n[options]  # of the engine\n'


@pytest.mark.parametrize(
    ("text", "edited"),
    [
        ('id = "m"\nengine = "x"\n', 'id = "m"\nengine = "x"\n\n[options]\nruntime = "1.2.3"\n'),
        (OPEN + "n_keep = 4  # why\n[chat]\n", OPEN + 'runtime = "1.2.3"\nn_keep = 4  # why\n[chat]\n'),
        (
            'id = "m"\nengine = "x"\n[options]\nn_keep = 4\n  runtime = "1.3.1" # old\n',
            'id = "m"\nengine = "x"\n[options]\nn_keep = 4\nruntime = "1.2.3"\n',
        ),
        (
            'id = "m"\nengine = "x"\noptions = { runtime = "1.3.1" }\n',
            'id = "m"\nengine = "x"\n\n[options]\nruntime = "1.2.3"\n',
        ),
    ],
)
def test_option_is_written_and_the_rest_of_the_card_stays(text: str, edited: str) -> None:
    assert with_option(text, "runtime", "1.2.3") == edited
