"""Our renderer against Hugging Face's, and against templates that mean harm."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from exo_rkllm.chat.families import FAMILIES
from exo_rkllm.chat.template import Template
from exo_rkllm.chat.template_source import TemplateSource
from exo_rkllm.errors import TemplateError
from tests.chat.conversations import ASK, CALL, HELLO, RESULT, SCENARIOS, SYSTEM, WEATHER
from tests.chat.hostile import COUNTED
from tests.chat.in_process import render_template
from tests.chat.make_goldens import TOKENS, sources, undated, values

HERE = Path(__file__).parent
TEXT = ", arguments as text"
GOLDENS = [
    pytest.param(source, scenario, golden, id=f"{name}: {scenario}")
    for name, source in sources().items()
    for scenario, golden in json.loads((HERE / "goldens" / f"{name.replace(' ', '-')}.json").read_text()).items()
]
PUBLISHED = [
    pytest.param(family, scenario, golden, id=f"{family}: {scenario}")
    for family, scenarios in json.loads((HERE / "published.json").read_text()).items()
    for scenario, golden in scenarios.items()
]


def render(source: str, **values: Any) -> str:
    return Template(source).render(**{"messages": [], **values})


@pytest.mark.parametrize(("source", "scenario", "golden"), GOLDENS)
def test_renders_as_hugging_face_does(source: str, scenario: str, golden: dict[str, str]) -> None:
    given = values(SCENARIOS[scenario.removesuffix(TEXT)], text=scenario.endswith(TEXT))
    template = Template(source, TOKENS)
    if "refused" in golden:
        with pytest.raises(TemplateError) as refusal:
            template.render(add_generation_prompt=True, documents=None, **given)
        assert golden["refused"].rstrip(".") in refusal.value.sentence
    else:
        assert undated(template.render(add_generation_prompt=True, documents=None, **given)) == golden["prompt"]


@pytest.mark.parametrize(("family", "scenario", "golden"), PUBLISHED)
def test_our_own_templates_say_what_the_published_ones_say(family: str, scenario: str, golden: dict[str, str]) -> None:
    template = Template(FAMILIES[family].template, TOKENS)
    given = values(SCENARIOS[scenario], text=False)
    if "refused" in golden:
        with pytest.raises(TemplateError):
            template.render(add_generation_prompt=True, **given)
    else:
        made = template.render(add_generation_prompt=True, **given)
        if family == "deepseek-r1":  # later revisions open the thoughts, and so do we
            made = made.removesuffix("<think>\n")
        if (family, scenario) == ("telechat", "system"):  # vLLM's template leaves the system words' tag out
            made = made.removeprefix(f"<_system>{SYSTEM.content}")
        assert made == golden["prompt"]


def test_sandbox_offers_what_published_templates_use() -> None:
    assert render("{{ {'b': 'é<', 'a': [1, none]} | tojson }}") == '{"b": "é<", "a": [1, null]}'
    assert render("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}") == '{\n "a": 2,\n "b": 1\n}'
    assert render("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}") == "012"
    assert render("{% generation %}said{% endgeneration %}") == "said"
    assert render("{{ strftime_now('%Y') }}") == time.strftime("%Y")
    assert (
        render("{% for key, value in {'a': 1} | items %}{{ key ~ value }}{% endfor %}{{ gone | items | list }}")
        == "a1[]"
    )
    assert render("  {% if true %}\n x\n  {% endif %}\n") == " x\n"  # trim_blocks and lstrip_blocks
    assert render("{% for d in documents %}{{ d.title }}{% endfor %}", documents=[{"title": "T"}]) == "T"
    assert render("{{ '%d-%s' | format(1, 'a') }} {{ '%.2f' % 1.5 }} {{ 'a\nb' | indent }} {{ 2 ** 3 }}") == (
        "1-a 1.50 a\n    b 8"
    )
    assert render("{{ 'a{}{b:>3}{c.__class__}'.format(1, b=2, c=3) }}") == "a1  2"
    assert render("{{ ', '.join(['a', 'b']) }}{{ 'x'.center(3) }}{{ 'ab' * 2 }}{{ [1] + [2] }}") == "a, b x abab[1, 2]"


def test_a_templates_own_refusal_reaches_the_client() -> None:
    with pytest.raises(TemplateError, match="refuses this: roles must alternate"):
        render("{{ raise_exception('roles must alternate.') }}")


def test_percent_formats_of_numbers_work() -> None:
    assert render("{{ '%03d %c' % (7, 65536) }}") == "007 \U00010000"


@pytest.mark.parametrize("source", COUNTED.values(), ids=COUNTED.keys())
def test_hostile_templates_end_in_a_sentence(source: str) -> None:
    started = time.process_time()
    with pytest.raises(TemplateError) as error:
        render(source)
    assert time.process_time() - started < 30.0  # a guard against hanging, also under coverage
    assert "Traceback" not in str(error.value)
    assert len(error.value.sentence) < 400


def test_system_words_are_said_by_the_user_where_there_is_no_system_role() -> None:
    template = TemplateSource(FAMILIES["gemma"].template, (("bos_token", "<bos>"),))
    made = render_template(template, (SYSTEM, HELLO), ())
    assert made == (
        f"<bos><start_of_turn>user\n{SYSTEM.content}\n\n{HELLO.content.rstrip()}<end_of_turn>\n<start_of_turn>model\n"
    )


def test_arguments_become_text_for_templates_that_join_them() -> None:
    template = TemplateSource((HERE / "templates" / "deepseek-r1.jinja").read_text(), tuple(TOKENS.items()))
    made = render_template(template, (ASK, CALL, RESULT), (WEATHER,))
    assert '```json\n{"city": "Tromsø", "days": 2, "units": "metric"}\n```' in made


def test_first_refusal_of_a_template_is_the_one_raised() -> None:
    template = TemplateSource(
        "{% if messages[0].role == 'system' %}{{ raise_exception('A') }}{% endif %}{{ raise_exception('B') }}"
    )
    with pytest.raises(TemplateError, match="refuses this: A"):
        render_template(template, (SYSTEM, ASK, CALL), ())
