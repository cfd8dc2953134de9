"""Simulated model files: the real container's outline, the tokenizer that library and tests share, named speeds."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exo_rkllm.board import speeds
from simulator import model_file, tokenizer
from simulator.model_file import ECHO, SIM_FIELDS, SimModel
from tests.simulated import REPOSITORY
from tests.simulator.raw import Runtime

Make = Callable[..., Path]
KNOWN = b"general.architecture"  # the first key of every file, real or simulated
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
STRING, ARRAY = 8, 9


class Reader:
    """Reads a container as reference 3.2 proposes for real files: the mask's beginning comes from the known key."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 24
        length, first = self.string()
        assert length == len(KNOWN)
        self.prefix = bytes(a ^ b for a, b in zip(first, KNOWN, strict=True))
        self.at = 24

    def number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return int(value)

    def string(self) -> tuple[int, bytes]:
        length = self.number("<Q")
        self.at += length
        return length, self.data[self.at - length : self.at]

    def text(self) -> tuple[int, bytes]:
        """A string's length, and as much of it as the mask's known beginning shows."""
        length, masked = self.string()
        return length, bytes(a ^ b for a, b in zip(masked, self.prefix, strict=False))

    def value(self) -> object:
        kind = self.number("<I")
        if kind == ARRAY:
            inner, count = self.number("<I"), self.number("<Q")
            return [self.scalar(inner) for _ in range(count)]
        return self.scalar(kind)

    def scalar(self, kind: int) -> object:
        if kind == STRING:
            return self.text()[1]
        self.at += WIDTHS[kind]
        return int.from_bytes(self.data[self.at - WIDTHS[kind] : self.at], "little")

    def entries(self, count: int) -> Iterator[tuple[tuple[int, bytes], object]]:
        for _ in range(count):
            yield self.text(), self.value()


def key(name: str) -> tuple[int, bytes]:
    return len(name), name.encode()[: len(KNOWN)]


def test_the_container_has_the_real_ones_outline(make_model: Make) -> None:
    data = make_model(
        architecture="llama", platform="RK3576", npu_cores=2, max_context=16384, toolkit="1.2.3", layers=28
    ).read_bytes()  # fmt: skip
    assert data[:4] != b"GGUF"
    version, tensors, count = struct.unpack_from("<IQQ", data, 4)
    assert (version, tensors) == (3, 1)
    reader = Reader(data)
    found = dict(reader.entries(count))
    assert found[key("general.architecture")] == b"llama"
    assert found[key("rkllm.platform")] == 1
    assert found[key("rkllm.core_num")] == 2
    assert found[key("rkllm.max_context")] == 16384
    assert found[key("rkllm.version")] == b"1.2.3"
    assert found[key("llama.block_count")] == 28
    tokens = found[key("tokenizer.ggml.tokens")]
    assert isinstance(tokens, list)
    assert len(tokens) == found[key("llama.vocab_size")] == len(tokenizer.pieces())
    assert reader.text() == (17, b"token_embd.weight")
    assert reader.number("<I") == 1
    size, kind, offset = (reader.number(form) for form in ("<Q", "<I", "<Q"))
    begin = reader.at + -reader.at % 32 + offset  # GGUF: offsets count from the next multiple of 32
    assert kind == 24
    assert begin + size + len("rkllm-toolkit version: 1.2.3") == len(data)
    assert data.endswith(b"rkllm-toolkit version: 1.2.3")


def test_files_are_sparse_and_of_the_size_asked_for(make_model: Make) -> None:
    path = make_model(size=1 << 30)
    assert path.stat().st_size == 1 << 30
    assert path.stat().st_blocks * 512 < 1 << 20
    assert make_model(size=0).stat().st_size < 1 << 20


def test_the_same_model_is_the_same_file(make_model: Make) -> None:
    assert make_model(reply="a").read_bytes() == make_model(reply="a").read_bytes()


@pytest.mark.parametrize("wrong", [{"platform": "RK9999"}, {"template": "mine"}, {"speed": "rk3588/gpt"}], ids=str)
def test_fields_are_checked(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"no {next(iter(wrong))}"):
        SimModel(**wrong)  # type: ignore[arg-type]


# ── the command line ──


def test_a_file_from_flags(tmp_path: Path, newest: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.rkllm"
    flags = ["--rule", "sun", "It shines", "--rule", "moon", "It glows", "--decode-tps", "1000", "--vision",
             "--fault", "error@token:30", "--full-domain", "3", "--full-domain", "4"]  # fmt: skip
    assert model_file.main([str(out), *flags]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    handle = newest.open(out)
    assert newest.ask(handle, "the moon?").text == "It glows"
    newest.close(handle)
    assert newest.init(newest.param(out, domain=4)) == (-1, None)


def test_a_wrong_flag_is_a_usage_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "simulator.model_file", str(tmp_path / "a.rkllm"), "--fault", "sneeze@init"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "no fault: 'sneeze@init'" in done.stderr


# ── the tokenizer ──


@given(st.text(max_size=80))
def test_text_survives_its_tokens(text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text, control=False)) == text


@given(st.binary(max_size=80))
def test_bytes_survive_too(data: bytes) -> None:
    assert tokenizer.decode_bytes(tokenizer.encode(data)) == data


def test_common_words_and_tags_are_one_token() -> None:
    assert len(tokenizer.encode("The quick answer is here")) == 5
    assert len(tokenizer.encode("<|im_start|>user<|im_end|><think></tool_call>")) == 5
    assert tokenizer.encode("<|im_end|>", control=False) != [tokenizer.token("<|im_end|>")]


def test_no_piece_runs_into_a_tag() -> None:
    """A piece with "<" inside or behind would swallow the beginning of a tag in a longest match."""
    tags = {tag.encode() for tag in (*tokenizer.CONTROLS, *tokenizer.TEXT_TAGS)}
    assert [piece for piece, _ in tokenizer.pieces() if b"<" in piece and piece not in tags] == [b"<", b"<"]


texts = st.text(st.one_of(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), st.sampled_from("aei ns")),
                min_size=1, max_size=60)  # fmt: skip
PARTS = ("The", " cat", ",", " ", "<|im_end|>", "\n\n", "<think>", "🙂", "don't", "12", "é世", "[", "]", "<")
words = st.lists(st.sampled_from(PARTS), min_size=1)


def test_the_library_tokenizes_alike(newest: Runtime, make_model: Make) -> None:
    """What an echo gives back is the text, and its ids are the helper's."""
    handle = newest.open(make_model(reply=ECHO))

    @settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(st.one_of(texts, words.map("".join)))
    def check(text: str) -> None:
        newest.kept = newest.kept[:8]
        run = newest.ask(handle, text)
        assert run.text == text
        assert [event.token for event in run.answer] == tokenizer.encode(text, control=False)

    check()
    newest.close(handle)


# ── speeds ──


def test_every_row_of_the_benchmark_has_a_name() -> None:
    """19 + 18 x 3 - 2 + 4 + 4 x 3 cells, 45 short names for them, and 7 x 2 image rows; and 3 measurements."""
    found = {name: speed for name, speed in speeds.speeds().items() if not name.startswith("measured/")}
    assert len(speeds.speeds()) - len(found) == 3
    cells = [name for name in found if name.count("/") == 2 and not name.endswith("/image")]
    assert len(cells) == 19 + 52 + 4 + 12
    assert len([name for name in found if name.count("/") == 1]) == 45
    assert len([name for name in found if name.endswith("/image")]) == 14
    assert found["rk3588/qwen2.5-1.5b"] == speeds.Speed(128, 378.31, 16.69, 1689.21)
    assert found["rk3576/qwen3-0.6b"] == found["rk3576/qwen3-0.6b/w4a16"] == speeds.Speed(128, 468.61, 24.85, 512.71)
    assert found["rk3576/qwen3-0.6b/w8a8"].decode_tps == 17.17
    assert "rk3576/gemma3n-2b/w4a16_g128" not in found
    assert found["rk3576/qwen3.5-0.8b/image"] == speeds.Speed(216, 3400, 15.4, 0)


def test_a_speed_gives_the_tables_first_token_at_the_tables_length() -> None:
    for speed in speeds.speeds().values():
        total = speed.prefill_base_ms + speed.prompt_tokens / speed.prefill_tps * 1000
        assert total == pytest.approx(speed.ttft_ms, abs=0.01)


def test_a_name_fills_what_was_left_open() -> None:
    paced = SimModel(speed="rk3588/qwen2.5-1.5b", decode_tps=100).paced()
    assert paced.decode_tps == 100
    assert paced.prefill_base_ms == pytest.approx(1000 / 16.69, abs=0.001), "one decode step"
    assert paced.prefill_tps == pytest.approx(128 / (0.37831 - 1 / 16.69))
    assert paced.decode_slowdown == 0.25
    assert paced.npu_bytes == int(1689.21 * (1 << 20))


# ── the page ──


def test_the_readme_lists_exactly_the_keys_that_are_read() -> None:
    sources = (REPOSITORY / "simulator" / "src").glob("*.c")
    read = {name for source in sources for name in re.findall(r'"sim\.([a-z_.]+)"', source.read_text())}
    written = {*SIM_FIELDS, "rules.match", "rules.reply"}
    readme = (REPOSITORY / "simulator" / "README.md").read_text()
    listed = set(re.findall(r"^\| `sim\.([a-z_.]+)`", readme, re.MULTILINE))
    assert read == written == listed


FIGURE = re.compile(r"^ *#define \w+ (?:[\"\d-]|\(\d)")


@pytest.mark.parametrize("source", sorted((REPOSITORY / "simulator/src").glob("*.[ch]")), ids=lambda path: path.name)
def test_every_figure_in_the_sources_says_where_it_comes_from(source: Path) -> None:
    """On its line or in the comment above: the reference's section, a row, an issue, or that it is a choice of ours."""
    lines = source.read_text().splitlines()
    for number, line in enumerate(lines):
        if FIGURE.match(line):
            assert "/*" in line or lines[number - 1].endswith("*/"), f"{source.name}: {line}"


def test_the_readme_lists_exactly_the_variables_that_are_read() -> None:
    sources = (REPOSITORY / "simulator" / "src").glob("*.c")
    read = {name for source in sources for name in re.findall(r'getenv\("(\w+)"\)', source.read_text())}
    readme = (REPOSITORY / "simulator" / "README.md").read_text()
    assert set(re.findall(r"^\| `(RKLLM_\w+)`", readme, re.MULTILINE)) == read
