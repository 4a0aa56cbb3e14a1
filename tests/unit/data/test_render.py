"""A chat template is somebody's code: what it may do, and what it may not."""

from __future__ import annotations

import pytest

from dialects import FAMILIES
from metier.data import render
from metier.data.render import Renderer, TemplateRefusal, builtin_names, builtin_source

MESSAGES = [{"role": "user", "content": "secret"}, {"role": "assistant", "content": "yes"}]
VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}


@pytest.mark.parametrize("name", FAMILIES)
def test_it_renders_what_transformers_renders(name: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    for reply_follows in (False, True):
        theirs, _ = render_jinja_template(
            conversations=[MESSAGES], chat_template=FAMILIES[name], add_generation_prompt=reply_follows, **VARIABLES
        )
        assert Renderer(FAMILIES[name], VARIABLES)(MESSAGES, reply_follows=reply_follows) == theirs[0]


def test_generation_tags_render_what_they_hold() -> None:
    source = "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    assert Renderer(source, {})(MESSAGES) == "secretyes"


def test_loop_controls_and_plain_json_are_there() -> None:
    source = "{% for m in messages %}{% if loop.index0 %}{% break %}{% endif %}{{ {'a': '<é>'} | tojson }}{% endfor %}"
    assert Renderer(source, {})(MESSAGES) == '{"a": "<é>"}'


def test_the_clock_stands_still() -> None:
    assert Renderer("{{ strftime_now('%d %b %Y') }}", {})(MESSAGES) == "26 Jul 2024"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ().__class__.__bases__[0].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ namespace.__init__.__globals__ }}",
        "{% set ns = namespace(x='aaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='aaaa') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=9) %}{% for i in range(60) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
        "{{ 'a' * 10**12 }}",
        "{{ 9 ** 99999999 }}",
        "{{ [0] * 1000000000 }}",
        "{{ 'a'.ljust(10000000000) }}",
        "{{ 'a' | center(10000000000) }}",
        "{{ '%0999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '{:>999999999}'.format('a') }}",
        "{{ '%0999999999d' | format(1) }}",
        "{{ ('a' * 60000).replace('', 'b' * 60000) }}",
        "{{ ('a' * 60000) | replace('', 'b' * 60000) }}",
        "{{ range(90000) | join('b' * 60000) }}",
        "{{ ('b' * 60000).join(range(90000) | map('string')) }}",
        "{{ range(999999999) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ undefined_thing.field }}",
        "{{ none.strip() }}",
        "{{ 1 / 0 }}",
    ],
)
def test_attacks_and_mistakes_are_refused_quickly_and_without_content(source: str) -> None:
    with pytest.raises(TemplateRefusal) as caught:
        Renderer(source, {})(MESSAGES)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("source", ["{{ messages.__class__ }}", "{{ ''.join.__globals__ }}"])
def test_what_python_hides_behind_an_object_is_not_there(source: str) -> None:
    assert "class" not in Renderer(source, {})(MESSAGES) and "<" not in Renderer(source, {})(MESSAGES)


def test_filters_within_the_limits_work() -> None:
    source = (
        "{{ messages | map(attribute='role') | join(', ') }} {{ 'a-b' | replace('-', '+') }} {{ '-'.join(['x', 'y']) }}"
    )
    assert Renderer(source, {})(MESSAGES) == "user, assistant a+b x-y"


def test_an_endless_loop_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "MAX_SECONDS", 0.2)
    nested = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
    with pytest.raises(TemplateRefusal, match="longer than"):
        Renderer(nested, {})(MESSAGES)


def test_a_template_cannot_hide_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "MAX_SECONDS", 0.2)
    shadow = "{% set tick = 1 %}{% set environment = 1 %}" + "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
    with pytest.raises(TemplateRefusal, match="longer than"):
        Renderer(shadow, {})(MESSAGES)


def test_invalid_and_oversized_sources_are_refused() -> None:
    with pytest.raises(TemplateRefusal, match="line 2"):
        Renderer("\n{% if %}", {})
    with pytest.raises(TemplateRefusal, match="characters"):
        Renderer("a" * (render.MAX_SOURCE_CHARS + 1), {})


def test_a_templates_own_words_are_shown_and_the_rows_are_not() -> None:
    with pytest.raises(TemplateRefusal, match=r"^Roles must alternate$"):
        Renderer("{{ raise_exception('Roles must alternate') }}", {})(MESSAGES)
    with pytest.raises(TemplateRefusal, match=r"^TemplateError$"):
        Renderer("{{ raise_exception('bad: ' + messages[0].content) }}", {})(MESSAGES)


def test_the_shipped_templates_are_files() -> None:
    assert builtin_names() == ["chatml", "plain"]
    assert Renderer(builtin_source("plain"), VARIABLES)(MESSAGES) == "<s>User: secret\nAssistant: yes</s>\n"
