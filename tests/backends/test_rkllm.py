"""The NPU engine: what a card may set, what a runtime cannot do, and how tokens are counted."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import aclosing, nullcontext
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.backends.base import (
    JSON,
    Array,
    Finish,
    GenerationRequest,
    Image,
    Message,
    Piece,
    Sampling,
    Tool,
)
from exo_rkllm.backends.host import EngineHost, engine_host
from exo_rkllm.backends.rkllm import SPEC, RkllmEngine
from exo_rkllm.backends.rkllm_load import load_params
from exo_rkllm.board.detect import detect
from exo_rkllm.config import load
from exo_rkllm.dispatch.placement import placed
from exo_rkllm.errors import (
    ExoRkllmError,
    LoadError,
    ModelFileError,
    ModelNotFound,
    NotSupported,
    OutOfMemory,
    RunnerLost,
    RuntimeMissing,
    UsageError,
)
from exo_rkllm.runtime.locate import LibraryPlace, Search, only
from exo_rkllm.runtime.modelfile import inspect
from exo_rkllm.runtime.version import Version
from tests.backends.npu_fixtures import Card
from tests.simulated import Library


async def ask(engine: RkllmEngine, prompt: str, **fields: Any) -> tuple[str, Finish]:
    events = [event async for event in engine.generate(GenerationRequest(prompt=prompt, **fields))]
    last = events[-1]
    assert isinstance(last, Finish)
    return "".join(event.text for event in events if isinstance(event, Piece)), last


# ── what a card may set ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_kepp": 1}, "there is no key options.n_kepp. Did you mean n_keep?"),
        ({"n_keep": "1"}, "n_keep must be a whole number, not '1'"),
        ({"base_domain_id": True}, "base_domain_id must be a whole number, not true"),
        ({"cpus": 4}, "cpus must be a list"),
    ],
)
def test_unknown_option_or_wrong_type_is_refused(options: Mapping[str, JSON], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        RkllmEngine(Card(Path("some.rkllm"), options), EngineHost(lambda _: None))


async def test_domain_that_dispatch_chose_goes_before_the_cards(
    library: Library, board_root: Path, make_model: Callable[..., Path]
) -> None:
    """The card's own one is full: with it, the model would not load."""
    card = Card(make_model(full_domains=(0,)), {"base_domain_id": 0})
    engine = RkllmEngine(placed(card, 2), EngineHost(lambda _: None, only(library("1.2.3"))))
    await engine.initialize()
    await engine.close()
    assert card.domain is None, "the catalogue's entry stays as it is"


@pytest.mark.parametrize(
    ("version", "options", "full", "loads"),
    [
        ("1.2.3", {}, [0], True),
        ("1.2.3", {"base_domain_id": 0}, [0], False),
        ("1.2.3", {"base_domain_id": 4}, [0, 1, 2, 3], True),
        ("1.1.4", {}, [1], True),
    ],
)
async def test_model_without_a_dispatcher_starts_in_the_boards_language_domain(
    library: Library,
    board_root: Path,
    make_model: Callable[..., Path],
    version: str,
    options: Mapping[str, JSON],
    full: list[int],
    loads: bool,
) -> None:
    """`exo-rkllm run` without a daemon must not sit in librknnrt's domain either; 1.1.x crashes in any other."""
    card = Card(make_model(full_domains=tuple(full)), options)
    engine = RkllmEngine(card, EngineHost(lambda _: None, only(library(version)), domain=1))
    with nullcontext() if loads else pytest.raises(OutOfMemory):
        await engine.initialize()
    await engine.close()


async def test_library_that_changed_under_its_name_is_not_loaded(
    library: Library, board_root: Path, make_model: Callable[..., Path]
) -> None:
    """Within the moment until the daemon has looked again."""
    place = LibraryPlace(library("1.3.0"), "system", Version("1.2.3", "version string"))
    engine = RkllmEngine(Card(make_model(), {}), EngineHost(lambda _: None, Search((place,), place.path.parent)))
    with pytest.raises(RuntimeMissing, match="was replaced a moment ago"):
        await engine.initialize()
    assert engine.pid is None


def test_a_seed_is_refused_since_the_library_has_none() -> None:
    with pytest.raises(NotSupported, match="seed"):
        RkllmEngine(Card(Path("some.rkllm"), {}, sampling=Sampling(seed=1)), EngineHost(lambda _: None))


async def test_service_with_too_few_cpus_is_named_as_the_cause_and_not_the_card(
    library: Library,
    board_root: Path,
    make_model: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("exo_rkllm.backends.host.detect", lambda _root: detect(board_root))  # this machine is no board
    model = make_model(npu_cores=3)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        host = engine_host(load({}), only(library("1.3.0")), lambda _lines: None)
        with pytest.raises(LoadError) as caught:
            await RkllmEngine(Card(model, {}), host).initialize()
    finally:
        os.sched_setaffinity(0, before)
    assert f"uses 3 NPU cores and needs a CPU for each; the service may use CPU {min(before)} only" in str(caught.value)
    assert "CPUAffinity" in caught.value.hint
    assert "the vendor's library wants 4 threads on the RK3588" in caplog.text
    assert "card" not in caught.value.hint


async def test_a_model_without_a_file_says_how_to_get_one() -> None:
    engine = RkllmEngine(Card(None, {}), EngineHost(lambda _: None))
    with pytest.raises(ModelFileError) as caught:
        await engine.initialize()
    assert "exo-rkllm pull" in caught.value.hint


async def test_engine_that_is_not_loaded_answers_nobody_and_can_be_closed() -> None:
    engine = RkllmEngine(Card(Path("some.rkllm"), {}), EngineHost(lambda _: None))
    with pytest.raises(RunnerLost):
        await ask(engine, "hello")
    assert engine.memory is None
    assert engine.pid is None
    await engine.settled("")
    await engine.close()


async def test_the_cards_sampling_is_loaded_and_a_request_may_differ(
    opened: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    model = make_model(reply="[[a|b|c|d|e|f|g|h]] " * 10, template="none")
    async with opened(model, sampling=Sampling(temperature=0.0)) as engine:
        first, _ = await ask(engine, "x")
        assert (await ask(engine, "x"))[0] == first
        hot = {(await ask(engine, "x", sampling=Sampling(temperature=1.5, top_k=40)))[0] for _ in range(5)}
    assert len(hot | {first}) > 1


async def test_older_runtimes_refuse_another_sampling_per_request(
    opened: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    async with opened(make_model(), version="1.2.3", sampling=Sampling(temperature=0.5)) as engine:
        await ask(engine, "same", sampling=Sampling(temperature=0.5))
        with pytest.raises(NotSupported, match="temperature"):
            await ask(engine, "other", sampling=Sampling(temperature=0.9))


async def test_an_adapter_is_loaded_by_name_and_chosen_per_request(
    opened: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    lora = make_model(file="pirate_lora.rkllm", reply="Arr, {user}")
    options: dict[str, JSON] = {"loras": {"pirate": {"path": str(lora), "scale": 1.0}}}
    async with opened(make_model(reply="Hello {user}", template="none"), options) as engine:
        assert (await ask(engine, "you"))[0] == "Hello you"
        assert (await ask(engine, "you", lora="pirate"))[0] == "Arr, you"
        with pytest.raises(ExoRkllmError, match="parrot"):
            await ask(engine, "you", lora="parrot")


async def test_a_card_may_say_which_adapter_answers(
    opened: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    loras: dict[str, JSON] = {name: make_model(file=f"{name}_lora.rkllm", reply=name).name for name in ("one", "two")}
    async with opened(make_model(reply="base", template="none"), {"loras": loras, "lora": "two"}) as engine:
        assert (await ask(engine, "you"))[0] == "two"
        assert (await ask(engine, "you", lora="one"))[0] == "one"
    with pytest.raises(UsageError, match=r"is to answer with the adapter three, which is none of its loras\."):
        async with opened(make_model(), {"loras": loras, "lora": "three"}):
            pass


async def test_cache_of_one_adapter_is_not_reused_for_another(
    opened: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    """The library compares the words of a prompt only; whether it minds who computed them, nobody has told."""
    loras: dict[str, JSON] = {"pirate": make_model(file="pirate_lora.rkllm", reply="Arr").name}
    prompt = "one two three four five six seven eight nine ten"

    async def cached(engine: RkllmEngine, lora: str = "") -> int:
        finish = (await ask(engine, prompt, lora=lora))[1]
        assert finish.usage.prompt == length
        return finish.usage.cached

    async with opened(make_model(reply="base", template="none"), {"loras": loras}) as engine:
        length = (await ask(engine, prompt))[1].usage.prompt
        assert await cached(engine) > 0
        assert await cached(engine, "pirate") == 0
        assert await cached(engine, "pirate") > 0
        assert await cached(engine) == 0
        async with aclosing(engine.generate(GenerationRequest(prompt=prompt, lora="pirate"))) as left:
            async for event in left:
                if isinstance(event, Piece):
                    break
        await engine.settled("")
        assert await cached(engine) == 0, "who left took the knowledge along"


async def test_a_missing_adapter_is_named_before_the_model_is_loaded(
    opened: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    options: dict[str, JSON] = {"loras": {"gone": {"path": "/nowhere/gone_lora.rkllm"}}}
    with pytest.raises(ModelNotFound, match=r"/nowhere/gone_lora\.rkllm, the file of .*'s adapter gone, is not there"):
        async with opened(make_model(), options):
            pass


@pytest.mark.parametrize("value", [{"scale": 0.5}, {"path": "a.rkllm", "scale": "much"}, 7, ["a.rkllm"]])
async def test_an_adapter_of_another_shape_is_refused(
    opened: Callable[..., Any], make_model: Callable[..., Path], value: JSON
) -> None:
    with pytest.raises(UsageError, match=r"'s adapter odd is neither a file nor a table of path and scale\."):
        async with opened(make_model(), {"loras": {"odd": value}}):
            pass


async def test_a_folder_is_no_adapter(opened: Callable[..., Any], make_model: Callable[..., Path]) -> None:
    with pytest.raises(ModelNotFound, match=r"the file of .*'s adapter empty, is not there"):
        async with opened(make_model(), {"loras": {"empty": ""}}):
            pass


async def test_an_adapter_may_be_a_file_beside_the_model(
    opened: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    lora = make_model(file="pirate_lora.rkllm", reply="Arr, {user}")
    model = make_model(reply="Hello {user}", template="none")
    assert lora.parent == model.parent
    async with opened(model, {"loras": {"pirate": lora.name}}) as engine:
        assert (await ask(engine, "you", lora="pirate"))[0] == "Arr, you"


async def test_a_missing_prompt_cache_ends_the_load(
    opened: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    with pytest.raises(ExoRkllmError):
        async with opened(make_model(), {"prompt_cache": "/nowhere/cache.bin"}):
            pass


# ── what it cannot do ────────────────────────────────────────────────────────────────────────────


async def test_request_that_needs_our_template_is_refused_without_it(
    opened: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    user = Message("user", "hello")
    picture = Message("user", "look", images=(Image(b"", "image/png"),))
    async with opened(make_model(), {"runtime_template": True}) as engine:
        for request in (
            GenerationRequest(messages=(user,), tools=(Tool("clock"),)),
            GenerationRequest(messages=(picture,)),
            GenerationRequest(messages=(Message("system", "be brief"), user)),
            GenerationRequest(messages=(user, Message("assistant", "hi"), user)),
        ):
            with pytest.raises(NotSupported):
                _ = [event async for event in engine.generate(request)]


async def test_messages_that_nobody_rendered_are_a_mistake_of_ours(
    opened: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    async with opened(make_model()) as engine:
        with pytest.raises(UsageError):
            _ = [event async for event in engine.generate(GenerationRequest(messages=(Message("user", "x"),)))]


async def test_logits_need_a_runtime_that_has_them(opened: Callable[..., Any], make_model: Callable[..., Path]) -> None:
    async with opened(make_model(), version="1.1.4") as engine:
        with pytest.raises(NotSupported, match="logits"):
            await ask(engine, "x", output="logits")
    async with opened(make_model(), version="1.2.0") as engine:
        request = GenerationRequest(prompt="some text", output="logits")
        rows = [event async for event in engine.generate(request) if isinstance(event, Array)]
    assert len(rows[0].data) == rows[0].rows * rows[0].width * 4


# ── counting ─────────────────────────────────────────────────────────────────────────────────────


async def test_the_fifth_turn_prefills_only_what_is_new(
    opened: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    """By the runtime's own count of what it computed."""
    prompt = "<|im_start|>user\n one two three four five six seven eight nine ten<|im_end|>\n<|im_start|>assistant\n"
    async with opened(make_model(reply="and so on and on", template="none")) as engine:
        totals, cached = [], []
        for _ in range(5):
            answer, finish = await ask(engine, prompt)
            totals.append(finish.usage.prompt)
            cached.append(finish.usage.cached)
            prompt += answer + "<|im_end|>\n<|im_start|>user\n go on<|im_end|>\n<|im_start|>assistant\n"
    computed = [total - saved for total, saved in zip(totals, cached, strict=True)]
    assert cached[0] == 0
    assert len(set(computed[1:])) == 1, "each turn adds the same words, so each computes as many tokens"
    assert totals[-1] > 3 * computed[-1]


async def test_a_model_that_must_not_reuse_computes_everything_again(
    opened: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    async with opened(make_model(template="none"), reuse=False) as engine:
        first = (await ask(engine, "the same words again"))[1].usage
        second = (await ask(engine, "the same words again"))[1].usage
    assert (first.cached, second.cached) == (0, 0)
    assert second.prompt == first.prompt


@pytest.mark.parametrize("ids", [(5, -1), (1 << 30,)])
async def test_token_id_of_no_vocabulary_is_the_clients_mistake(
    opened: Callable[..., Any], make_model: Callable[..., Path], ids: tuple[int, ...]
) -> None:
    async with opened(make_model()) as engine:
        with pytest.raises(UsageError, match=f"The token id {ids[-1]} is not in the vocabulary"):
            await anext(engine.generate(GenerationRequest(tokens=ids)))


async def test_token_ids_are_counted_exactly(opened: Callable[..., Any], make_model: Callable[..., Path]) -> None:
    ids = tuple(range(300, 340))
    async with opened(make_model(template="none")) as engine:
        for expected in (0, len(ids) - 1):
            events = [event async for event in engine.generate(GenerationRequest(tokens=ids, max_tokens=2))]
            finish = events[-1]
            assert isinstance(finish, Finish)
            assert (finish.usage.prompt, finish.usage.cached) == (len(ids), expected)


async def test_a_full_context_ends_an_answer_by_length(
    opened: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    async with opened(make_model(reply="on ", endless=True, template="none"), context=64) as engine:
        _, finish = await ask(engine, "go")
    assert finish.reason == "length"


async def test_an_abort_by_id_ends_the_answer_as_one(
    opened: Callable[..., Any], make_model: Callable[..., Path]
) -> None:
    request = GenerationRequest(prompt="go")
    async with opened(make_model(reply="on ", endless=True, decode_tps=200, template="none")) as engine:
        reasons = []
        async for event in engine.generate(request):
            if isinstance(event, Piece):
                await engine.abort(request.id)
            if isinstance(event, Finish):
                reasons.append(event.reason)
    assert reasons == ["abort"]


async def test_engine_memory_is_its_childs(opened: Callable[..., Any], make_model: Callable[..., Path]) -> None:
    async with opened(make_model(malloc_bytes=64 << 20)) as engine:
        assert 64 << 20 < engine.memory < 160 << 20
    assert engine.memory is None


@pytest.mark.parametrize(("cpus", "told"), [([4, 5], True), ([4, 5, 6, 7], False), ([], False)])
def test_card_with_fewer_cpus_than_the_library_wants_is_told(
    make_model: Callable[..., Path], caplog: pytest.LogCaptureFixture, cpus: list[int], told: bool
) -> None:
    facts, host = inspect(make_model()), EngineHost(lambda _: None, cpus=(4, 5, 6, 7))
    engine = Card(facts.path, {"cpus": cpus})
    load_params(engine, facts, SPEC.options_of(engine), host, "1.3.1", {})
    assert ("gives the vendor's library CPU 4, 5 only, and it wants 4 threads here" in caplog.text) is told


@pytest.mark.parametrize("options", [{"end_tokens": ["<|im_end|>"]}, {"cpus": ["4"]}, {"end_tokens": [True]}])
def test_card_with_anything_but_numbers_in_a_list_is_refused(
    make_model: Callable[..., Path], options: dict[str, JSON]
) -> None:
    facts = inspect(make_model())
    engine = Card(facts.path, options)
    with pytest.raises(UsageError, match=r"under \[options\] in the card of .* must be whole numbers\."):
        load_params(engine, facts, SPEC.options_of(engine), EngineHost(lambda _: None), "1.3.1", {})


def test_board_decides_soc_and_cpus(board_root: Path, tmp_path: Path, make_board: Callable[..., Path]) -> None:
    host = engine_host(load({}), None, lambda _: None, board_root)
    assert (host.platform, host.cpus) == ("RK3588", (4, 5, 6, 7))
    small = engine_host(load({}), None, lambda _: None, make_board(soc="rk3576"))
    assert (small.platform, small.cpus) == ("RK3576", (4, 5))
    nowhere = engine_host(load({}), None, lambda _: None, tmp_path / "none")
    assert (nowhere.platform, nowhere.cpus) == ("", ())
