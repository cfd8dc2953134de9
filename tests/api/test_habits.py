"""What unmodified clients take for granted, each with what it means here: names, copies, counts, items, prefixes."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ollama
import pytest

from exo_rkllm.api.context import ApiKey, ApiServerSettings
from exo_rkllm.backends.base import IMAGE_MARK
from exo_rkllm.catalogue import modelfile
from exo_rkllm.config import ApiSettings
from exo_rkllm.sampling import Sampling
from tests.api.test_serving import ask, post
from tests.api.world import CARDS, World, world
from tests.words import count, write_tokenizer

KEYS = ApiServerSettings(keys=(ApiKey("admin", "sesame", control=True), ApiKey("guest", "guest")))
ADMIN, GUEST = {"Authorization": "Bearer sesame"}, {"Authorization": "Bearer guest"}
WITH_ADAPTERS = {
    **CARDS,
    "poet": (
        'engine = "scripted"\ncontext = 4096\n[options]\nloras.sonnet = "s_lora.rkllm"\nloras.haiku = "h_lora.rkllm"\n'
    ),
}
HI = [{"role": "user", "content": "hi"}]


async def get(server: World, path: str, **headers: str) -> Any:
    async with server.http.get(server.url + path, headers=headers) as response:
        assert response.status == 200, await response.text()
        return await response.json()


# ── names ────────────────────────────────────────────────────────────────────────────────────────


async def test_configured_alias_answers_and_is_listed(server: World) -> None:
    server.catalogue.aliases = {"gpt-4o": "qwen", "lost": "nothing"}
    status, said, _ = await post(server, "/v1/chat/completions", ask(model="gpt-4o"))
    assert (status, said["model"]) == (200, "qwen")
    for path, key in (("/v1/models", "data"), ("/api/tags", "models")):
        names = [one.get("id", one.get("name")) for one in (await get(server, path))[key]]
        assert "gpt-4o" in names and "lost" not in names
    assert (await get(server, "/v1/models/gpt-4o"))["id"] == "qwen"
    assert (await post(server, "/v1/chat/completions", ask(model="lost")))[0] == 404


async def test_every_model_has_a_digest_that_ollamas_command_line_can_cut(server: World) -> None:
    """`ollama list` and `ollama ps` print 12 signs of it, and panic where it is shorter."""
    await post(server, "/api/chat", {"model": "qwen", "messages": HI, "stream": False})
    listed = {one["name"]: one["digest"] for one in (await get(server, "/api/tags"))["models"]}
    (loaded,) = (await get(server, "/api/ps"))["models"]
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in listed.values())
    assert len(set(listed.values())) == len(listed) and loaded["digest"] == listed["qwen"]
    write_tokenizer(server.folder / "qwen")
    changed = {one["name"]: one["digest"] for one in (await get(server, "/api/tags"))["models"]}
    assert {name for name in listed if listed[name] != changed[name]} == {"qwen"}


async def test_model_of_an_aliases_name_is_meant_before_the_alias(server: World) -> None:
    server.catalogue.aliases = {"qwen": "thinker"}
    assert (await post(server, "/v1/chat/completions", ask()))[1]["model"] == "qwen"


async def test_copy_is_another_name_that_is_deleted_alone() -> None:
    async with world(settings=KEYS) as server:
        body = {"source": "qwen", "destination": "gpt-4o:latest"}
        assert (await post(server, "/api/copy", body, **GUEST))[0] == 403
        assert (await post(server, "/api/copy", body, **ADMIN))[0] == 200
        assert (await post(server, "/api/copy", {**body, "source": "slow"}, **ADMIN))[0] == 200, "it is replaced"
        assert (await post(server, "/api/copy", body, **ADMIN))[0] == 200
        for name in ("gpt-4o", "GPT-4o:latest"):
            assert (await post(server, "/v1/chat/completions", ask(model=name), **ADMIN))[1]["model"] == "qwen"
        assert "gpt-4o" in [one["name"] for one in (await get(server, "/api/tags", **ADMIN))["models"]]
        assert {entry.id for entry in server.catalogue.list()} == set(CARDS), "the cluster is not offered it twice"
        status, said, _ = await post(server, "/api/copy", {"source": "slow", "destination": "qwen"}, **ADMIN)
        assert status == 409 and "There is a model 'qwen' already" in said["error"]
        status, said, _ = await post(server, "/api/copy", {"source": "slow", "destination": "///"}, **ADMIN)
        assert status == 400 and "cannot be a model's name" in said["error"]
        async with server.http.delete(
            f"{server.url}/api/delete", json={"model": "gpt-4o:latest"}, headers=ADMIN
        ) as response:
            assert response.status == 200
        assert (server.folder / "qwen").is_dir()
        assert (await post(server, "/v1/chat/completions", ask(model="gpt-4o"), **ADMIN))[0] == 404


async def test_ollamas_client_copies_creates_and_deletes() -> None:
    async with world(settings=KEYS) as server:
        client = ollama.AsyncClient(host=server.url, headers=ADMIN)
        await client.copy("qwen", "gpt-4o")
        made = await client.create(model="pirate", from_="gpt-4o", system="Arr.", parameters={"temperature": 0.1})
        assert made.status == "success"
        answer = await client.chat(model="pirate", messages=[{"role": "user", "content": "hi"}])
        assert answer.message.content == "hi"
        assert (await client.show("pirate")).model_dump()["details"]["family"] == "qwen"
        for name in ("pirate", "gpt-4o"):
            await client.delete(name)
        assert {one.model for one in (await client.list()).models} == set(CARDS)
        assert [step.status async for step in await client.pull("qwen", stream=True)] == ["success"]


async def test_alias_of_a_model_that_is_gone_names_the_model() -> None:
    async with world(settings=KEYS) as server:
        await post(server, "/api/copy", {"source": "qwen", "destination": "gpt-4o"}, **ADMIN)
        server.catalogue.remove("qwen")
        status, said, _ = await post(server, "/v1/chat/completions", ask(model="gpt-4o"), **ADMIN)
        assert status == 404 and "No model 'qwen'" in said["error"]["message"]


async def test_what_is_here_is_pulled_without_a_right_and_what_is_not_says_why() -> None:
    async with world(settings=KEYS) as server:
        async with server.http.post(f"{server.url}/api/pull", json={"model": "qwen:latest"}, headers=GUEST) as response:
            assert (response.status, json.loads(await response.text())) == (200, {"status": "success"})
        assert (await post(server, "/api/pull", {"name": "qwen", "stream": False}, **GUEST))[1] == {"status": "success"}
        status, said, _ = await post(server, "/api/pull", {"model": "llama9"}, **GUEST)
        assert status == 404 and "No model 'llama9' is here" in said["error"]
        assert (await post(server, "/api/pull", {"model": "org/repo"}, **GUEST))[0] == 403


# ── a model of its own ───────────────────────────────────────────────────────────────────────────

MODELFILE = '''FROM qwen
SYSTEM """You are a pirate.
Always."""
PARAMETER temperature 0.1
PARAMETER num_ctx 2048
PARAMETER stop "Captain"
PARAMETER stop "<|end|>"
'''
FIELDS = {
    "from": "qwen",
    "system": "You are a pirate.\nAlways.",
    "parameters": {"temperature": 0.1, "num_ctx": 2048, "stop": ["Captain", "<|end|>"], "num_gpu": 3},
}


@pytest.mark.parametrize("body", [{"modelfile": MODELFILE}, FIELDS], ids=["text", "fields"])
async def test_create_makes_a_card_of_its_own_over_the_same_weights(body: Mapping[str, Any]) -> None:
    async with world(settings=KEYS) as server:
        (server.folder / "qwen" / "tokenizer_config.json").write_text("{}")
        assert (await post(server, "/api/create", {"model": "pirate", **body}, **GUEST))[0] == 403
        status, said, _ = await post(server, "/api/create", {"model": "pirate", "stream": False, **body}, **ADMIN)
        assert (status, said) == (200, {"status": "success"})
        card = server.catalogue.get("pirate").card
        assert card.context == 2048
        assert card.sampling == Sampling(temperature=0.1)
        assert card.chat.stop == ("Captain", "<|end|>")
        assert card.chat.system == "You are a pirate.\nAlways."
        assert card.base_model == server.catalogue.get("qwen").card.base_model
        one, other = (server.folder / name / "tokenizer_config.json" for name in ("qwen", "pirate"))
        assert one.samefile(other), "it takes no space again"
        shown = (await post(server, "/api/show", {"model": "pirate"}, **ADMIN))[1]["modelfile"]
        assert modelfile.parse(shown) == replace(modelfile.parse(MODELFILE), weights="pirate", context=0)
        await post(server, "/v1/chat/completions", ask(model="pirate"), **ADMIN)
        assert "You are a pirate." in (server.ledger.requests[-1].prompt or "")
        await post(server, "/v1/chat/completions", ask(), **ADMIN)
        assert "pirate" not in (server.ledger.requests[-1].prompt or "")


async def test_template_of_a_modelfile_is_jinja() -> None:
    async with world(settings=KEYS) as server:
        jinja = "{% for message in messages %}[{{ message.role }}] {{ message.content }}\n{% endfor %}"
        body = {"model": "plain", "from": "qwen", "template": jinja, "stream": False}
        assert (await post(server, "/api/create", body, **ADMIN))[0] == 200
        await post(server, "/v1/chat/completions", ask(model="plain"), **ADMIN)
        assert server.ledger.requests[-1].prompt == "[user] hi\n"
        body["template"] = "{{ if .System }}<|im_start|>system {{ .System }}{{ end }}{{ .Prompt }}"
        status, said, _ = await post(server, "/api/create", body, **ADMIN)
        assert status == 400 and "Go's template language" in said["error"]


async def test_create_again_replaces_its_own_and_no_other_model() -> None:
    async with world(settings=KEYS) as server:
        (server.folder / "qwen" / "w.bin").write_bytes(b"x")
        card = server.folder / "qwen" / "model.toml"
        card.write_text(card.read_text() + '[weights]\nfile = "w.bin"\n')
        body = {"model": "mine", "from": "qwen", "system": "one", "stream": False}
        assert (await post(server, "/api/create", body, **ADMIN))[0] == 200
        assert (await post(server, "/api/create", {**body, "system": "two"}, **ADMIN))[0] == 200
        assert server.catalogue.get("mine").card.chat.system == "two"
        for name in ("slow", "qwen"):
            status, said, _ = await post(server, "/api/create", {**body, "model": name}, **ADMIN)
            assert status == 409 and f"There is a model {name!r} already" in said["error"]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"from": "./x.gguf"}, 400, "FROM one that is here"),
        ({"from": "qwen", "files": {"x": "sha256:0"}}, 400, "FROM one that is here"),
        ({}, 400, "FROM one that is here"),
        ({"from": "absent"}, 404, "No model 'absent'"),
        ({"from": "qwen", "messages": [{"role": "user", "content": "x"}]}, 400, "no place for MESSAGE"),
        ({"from": "qwen", "adapters": {"a": "1", "b": "2"}}, 400, "There are 2 adapters"),
        ({"from": "qwen", "adapters": {"a": "1"}}, 400, "qwen has no adapter 'a'; it has: none"),
        ({"modelfile": "FROM qwen\nPARAMETER temperature hot"}, 422, "TEMPERATURE must be a number"),
    ],
)
async def test_create_says_what_it_cannot_do(body: Mapping[str, Any], status: int, says: str) -> None:
    async with world(settings=KEYS) as server:
        answered, said, _ = await post(server, "/api/create", {"model": "mine", **body}, **ADMIN)
        assert answered == status and says in said["error"], said
        assert not (server.folder / "mine").exists()


# ── adapters ─────────────────────────────────────────────────────────────────────────────────────

QUESTIONS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HI},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": HI, "max_tokens": 9},
    "/api/chat": {"messages": HI, "stream": False},
    "/api/generate": {"prompt": "hi", "stream": False},
}


@pytest.mark.parametrize("path", QUESTIONS)
async def test_adapter_is_chosen_by_name_or_by_field(path: str) -> None:
    async with world(cards=WITH_ADAPTERS) as server:
        for chosen, expected in (
            ({"model": "poet"}, ""),
            ({"model": "poet:haiku"}, "haiku"),
            ({"model": "poet", "lora": "sonnet"}, "sonnet"),
            ({"model": "poet:haiku", "lora": "sonnet"}, "sonnet"),
        ):
            status, said, _ = await post(server, path, {**QUESTIONS[path], **chosen})
            assert status == 200, said
            assert server.ledger.requests[-1].lora == expected
        status, said, _ = await post(server, path, {**QUESTIONS[path], "model": "poet", "lora": "ode"})
        assert status == 400 and "poet has no adapter 'ode'. It has: sonnet, haiku" in json.dumps(said)


async def test_adapters_are_listed_and_described() -> None:
    async with world(cards=WITH_ADAPTERS) as server:
        names = [one["id"] for one in (await get(server, "/v1/models"))["data"]]
        assert {"poet", "poet:sonnet", "poet:haiku"} <= set(names)
        assert (await get(server, "/v1/models/poet:haiku"))["id"] == "poet:haiku"


async def test_adapter_of_a_modelfile_is_the_new_models_default() -> None:
    async with world(settings=KEYS, cards=WITH_ADAPTERS) as server:
        for name in ("s", "h", "ode"):
            (server.folder / "poet" / f"{name}_lora.rkllm").write_bytes(b"x")
        for file, adapter in (("haiku", "haiku"), ("/tmp/ode_lora.rkllm", "ode")):
            body = {"model": "mine", "modelfile": f"FROM poet\nADAPTER {file}", "stream": False}
            assert (await post(server, "/api/create", body, **ADMIN))[0] == 200
            assert server.catalogue.get("mine").card.options["lora"] == adapter
            server.catalogue.remove("mine")


# ── counts ───────────────────────────────────────────────────────────────────────────────────────


async def test_counts_without_a_tokenizer_are_marked_as_estimates(server: World) -> None:
    body = {"model": "qwen", "messages": HI}
    _, counted, _ = await post(server, "/v1/messages/count_tokens", body)
    assert counted["input_tokens"] > 5 and counted["input_tokens_estimated"] is True
    _, counted, _ = await post(server, "/v1/responses/input_tokens", {"model": "qwen", "input": "hi"})
    assert counted["object"] == "response.input_tokens" and counted["input_tokens_estimated"] is True


async def test_counts_are_the_tokenizers_where_there_is_one(server: World) -> None:
    write_tokenizer(server.folder / "qwen")
    _, counted, _ = await post(server, "/v1/messages/count_tokens", {"model": "qwen", "messages": HI})
    await post(server, "/v1/messages", {"model": "qwen", "messages": HI, "max_tokens": 5})
    assert counted == {"input_tokens": count(server.ledger.requests[-1].prompt or "")}


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_text_becomes_tokens_and_text_again(server: World, prefix: str) -> None:
    write_tokenizer(server.folder / "qwen", "one", " two", " one")
    body = {"model": "qwen", "prompt": "one two one", "return_token_strs": True}
    _, said, _ = await post(server, f"{prefix}/tokenize", body)
    assert said["count"] == 3 and said["max_model_len"] == 4096
    assert said["token_strs"] == ["one", " two", " one"]
    _, back, _ = await post(server, f"{prefix}/detokenize", {"model": "qwen", "tokens": said["tokens"]})
    assert back == {"prompt": "one two one", "content": "one two one"}
    _, said, _ = await post(server, f"{prefix}/tokenize", {"model": "qwen", "messages": HI})
    assert said["count"] == count("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")
    status, said, _ = await post(server, f"{prefix}/tokenize", {"model": "qwen"})
    assert status == 400 and "prompt is missing" in said["error"]["message"]
    status, said, _ = await post(server, f"{prefix}/tokenize", {"content": "x"})
    assert status == 400 and "model is missing" in said["error"]["message"]


async def test_tokenizer_info_is_the_models_own_settings_with_texts(server: World) -> None:
    """vLLM's clients take `eos_token` for a text, and render with `chat_template`."""
    async with server.http.get(f"{server.url}/tokenizer_info?model=qwen") as refused:
        assert refused.status == 400 and "qwen has no tokenizer here" in await refused.text()
    folder = server.folder / "qwen"
    write_tokenizer(folder)
    bare = await get(server, "/tokenizer_info?model=qwen")
    assert bare["tokenizer_class"] == "PreTrainedTokenizerFast" and "<|im_start|>" in bare["chat_template"]
    config = {"eos_token": {"content": "<|im_end|>"}, "bos_token": None, "add_bos_token": False, "tokenizer_class": "Q"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": "{{ messages }}"}))
    assert await get(server, "/v1/tokenizer_info?model=qwen") == {
        **config,
        "eos_token": "<|im_end|>",
        "chat_template": "{{ messages }}",
    }
    async with server.http.get(f"{server.url}/tokenizer_info") as refused:
        assert refused.status == 400 and "model is missing" in await refused.text()


async def test_only_model_needs_no_name() -> None:
    async with world(cards={"qwen": CARDS["qwen"]}) as server:
        write_tokenizer(server.folder / "qwen")
        assert (await post(server, "/tokenize", {"content": "a b"}))[1]["count"] == 2
        assert "chat_template" in await get(server, "/tokenizer_info")


# ── items ────────────────────────────────────────────────────────────────────────────────────────


async def test_input_items_are_what_the_response_answers(server: World) -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "c1", "output": "green"}
    _, first, _ = await post(server, "/v1/responses", {"model": "qwen", "input": [*HI, call, result]})
    _, second, _ = await post(
        server, "/v1/responses", {"model": "qwen", "input": "and now", "previous_response_id": first["id"]}
    )
    listed = await get(server, f"/v1/responses/{second['id']}/input_items?order=asc")
    assert [one["type"] for one in listed["data"]] == [
        "message", "function_call", "function_call_output", "message", "message",
    ]  # fmt: skip
    assert listed["data"][0]["content"] == [{"type": "input_text", "text": "hi"}]
    assert listed["data"][-1]["content"][0]["text"] == "and now"
    ids = [one["id"] for one in listed["data"]]
    assert len(set(ids)) == 5 and (listed["first_id"], listed["last_id"]) == (ids[0], ids[-1])
    page = await get(server, f"/v1/responses/{second['id']}/input_items?limit=2&after={ids[-1]}")
    assert [one["id"] for one in page["data"]] == [ids[3], ids[2]] and page["has_more"] is True


PIXEL = base64.b64encode(b"a picture").decode()
BLOCK = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
SHOT = {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "/v1/responses",
            {
                "input": [
                    *HI,
                    {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
                    {
                        "type": "function_call_output",
                        "call_id": "c1",
                        "output": [{"type": "input_text", "text": "green"}, SHOT],
                    },
                ]
            },
        ),
        (
            "/v1/messages",
            {
                "max_tokens": 9,
                "messages": [
                    *HI,
                    {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "look", "input": {}}]},
                    {
                        "role": "user",
                        "content": [
                            {
                                "type": "tool_result",
                                "tool_use_id": "c1",
                                "content": [{"type": "text", "text": "green"}, BLOCK],
                            }
                        ],
                    },
                ],
            },
        ),
    ],
)
async def test_images_of_a_tools_result_stand_where_the_tool_put_them(
    server: World, path: str, body: dict[str, Any]
) -> None:
    status, said, _ = await post(server, path, {"model": "seer", **body})
    assert status == 200, said
    request = server.ledger.requests[-1]
    assert [image.data for image in request.images] == [b"a picture"]
    assert f"green{IMAGE_MARK}" in "".join((request.prompt or "").split("\n"))
    if path == "/v1/responses":
        _, second, _ = await post(
            server, path, {"model": "seer", "input": "and now", "previous_response_id": said["id"]}
        )
        assert len(server.ledger.requests[-1].images) == 1
        listed = await get(server, f"{path}/{second['id']}/input_items?order=asc")
        (output,) = (one["output"] for one in listed["data"] if one["type"] == "function_call_output")
        assert [part["type"] for part in output] == ["input_text", "input_image"]
    status, said, _ = await post(server, path, {"model": "qwen", **body})
    assert (status, said["error"]["message"].startswith("qwen does not see images.")) == (400, True)


# ── conversations ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/api/chat"])
async def test_answer_that_has_begun_is_continued(server: World, path: str) -> None:
    body = {
        "model": "qwen",
        "messages": [*HI, {"role": "assistant", "content": "Well, "}],
        "max_tokens": 9,
        "stream": False,
    }
    status, said, _ = await post(server, path, body)
    assert status == 200, said
    assert (server.ledger.requests[-1].prompt or "").endswith("<|im_start|>assistant\nWell, ")


async def test_begun_answer_ends_the_thoughts_that_a_template_opens() -> None:
    async with world(cards={"r1": 'engine = "scripted"\ncontext = 4096\n[chat]\nfamily = "deepseek-r1"\n'}) as server:
        await post(
            server,
            "/v1/messages",
            {"model": "r1", "messages": [*HI, {"role": "assistant", "content": "Well"}], "max_tokens": 9},
        )
        assert (server.ledger.requests[-1].prompt or "").endswith("<think>\n\n</think>\n\nWell")


async def test_documents_and_system_words_amid_the_conversation_are_read(server: World) -> None:
    document = {
        "type": "document",
        "title": "Lamps",
        "source": {"type": "content", "content": [{"type": "text", "text": "It is green."}]},
    }
    question = {"role": "user", "content": [document, {"type": "text", "text": "Which colour?"}]}
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    body = {
        "model": "qwen",
        "max_tokens": 9,
        "messages": [*HI, {"role": "assistant", "content": "Yes?"}, system, question],
    }
    assert (await post(server, "/v1/messages", body))[0] == 200
    prompt = server.ledger.requests[-1].prompt or ""
    assert '<document title="Lamps">\nIt is green.\n</document>\n\nWhich colour?' in prompt
    assert "<|im_start|>system\nBe brief.<|im_end|>" in prompt
    document["source"] = {"type": "base64", "data": "JVBERi0="}
    status, said, _ = await post(server, "/v1/messages", body)
    assert status == 400 and "messages[3].content[0].source must hold the document as text" in said["error"]["message"]


# ── what has no effect ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        ("/v1/chat/completions", "logit_bias", {"1": 2}),
        ("/v1/chat/completions", "reasoning_effort", "high"),
        ("/v1/completions", "best_of", 4),
        ("/v1/responses", "truncation", "auto"),
        ("/api/chat", "think", True),
    ],
)
async def test_strict_daemon_refuses_what_a_lenient_one_ignores(path: str, field: str, value: object) -> None:
    body = {"model": "qwen", "stream": False, **QUESTIONS[path], field: value}
    async with world() as server:
        status, said, headers = await post(server, path, body)
        assert status == 200, said
        assert headers["X-Ignored-Fields"] == field
    async with world(settings=ApiServerSettings(ApiSettings(strict=True))) as server:
        status, said, _ = await post(server, path, body)
        assert status == 400 and field in json.dumps(said)
        assert not server.ledger.requests, "nothing was computed"


async def test_allowed_tools_are_the_only_ones_that_are_offered(server: World) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in ("look", "move")]
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "move"}}]}
    said = '«{"to": "x"}}\n</tool_call>»'
    body = ask(said, tools=tools, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    _, answer, _ = await post(server, "/v1/chat/completions", body)
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "move"
    assert "look" not in (server.ledger.requests[-1].prompt or "")


async def test_guided_json_is_a_schema_for_the_answer(server: World) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    _, answer, _ = await post(server, "/v1/chat/completions", ask('«{"a": 1}»', guided_json=schema))
    assert answer["choices"][0]["message"]["content"] == '{"a": 1}'
    assert (await post(server, "/v1/chat/completions", ask("«a: 1»", guided_json=schema)))[0] == 422
