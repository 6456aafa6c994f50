"""A chat template says what it says in transformers, and can do nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from penstock.engine.model import template
from penstock.engine.model.template import ChatTemplate
from penstock.engine.model.tokenizer import Tokenizer
from tests.engine.model.chat_templates import LLAMA, MISTRAL, QWEN
from tests.engine.model.test_tokenizer import byte_level

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The <weather> in a city & its surroundings: “now”",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
TIME = {"type": "function", "function": {"name": "now", "description": "d", "parameters": {}}}


def call(name: str, id_: str, **arguments: Any) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}


PLAIN = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "naïve ☕?\n"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": "Why?"},
]
WITH_TOOLS = [
    *PLAIN,
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [call("get_weather", "abcdefgh1", city="Zürich", days=[1, {"a": None}])],
    },
    {"role": "tool", "tool_call_id": "abcdefgh1", "content": '{"sun": true}'},
    {"role": "assistant", "content": "Sunny."},
    {"role": "user", "content": "And now?"},
]
PARALLEL = [
    {"role": "user", "content": "Both?"},
    {
        "role": "assistant",
        "content": "Well.",
        "tool_calls": [
            call("now", "abcdefgh1"),
            call("get_weather", "abcdefgh2", city="</tool_call>"),
        ],
    },
    {"role": "tool", "tool_call_id": "abcdefgh1", "content": "12:00"},
    {"role": "tool", "tool_call_id": "abcdefgh2", "content": "rain"},
]


@pytest.mark.parametrize("source", [QWEN, LLAMA, MISTRAL], ids=["qwen", "llama", "mistral"])
@pytest.mark.parametrize("tools", [None, [WEATHER], [WEATHER, TIME]], ids=["none", "one", "two"])
@pytest.mark.parametrize("messages", [PLAIN, WITH_TOOLS, PARALLEL, PARALLEL[:1]])
def test_as_transformers_renders_it(tmp_path, source, tools, messages):
    theirs = PreTrainedTokenizerFast(tokenizer_object=byte_level(), chat_template=source, **SPECIAL)
    theirs.save_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    assert ours.chat_template(tools=tools is not None) == source
    if source is LLAMA and messages is PARALLEL:
        with pytest.raises(ValueError, match="one call at a time, please"):
            ours.chat(messages, tools)
        return
    expected = theirs.apply_chat_template(
        messages, tools, add_generation_prompt=True, return_dict=False
    )
    assert ours.chat(messages, tools) == expected
    as_sent = [  # OpenAI's clients send arguments as JSON text
        {**m, "tool_calls": [_with_text(c) for c in m["tool_calls"]]} if "tool_calls" in m else m
        for m in messages
    ]
    assert ours.chat(as_sent, tools) == expected


def _with_text(made: dict[str, Any]) -> dict[str, Any]:
    function = made["function"]
    return {**made, "function": {**function, "arguments": json.dumps(function["arguments"])}}


def render(source: str, messages=PLAIN, tools=None, **variables: Any) -> str:
    return ChatTemplate(source, SPECIAL).render(messages, tools, variables)


def test_variables_reach_the_template():
    assert render(QWEN, enable_thinking=False).endswith("<think>\n\n</think>\n\n")
    assert render(QWEN).endswith("assistant\n")
    assert "Today: then" in render(LLAMA, date_string="then")


@pytest.mark.parametrize("name", ["date_string", "add_generation_prompt", "messages_"])
def test_what_the_template_would_ignore_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}: this model's chat template has no such"):
        render(QWEN, **{name: "x"})


def test_tools_that_the_template_would_ignore_are_refused():
    with pytest.raises(ValueError, match="tools: this model's chat template has no place"):
        render("{% for m in messages %}{{ m.content }} tools{% endfor %}", tools=[WEATHER])


def test_tools_may_have_a_template_of_their_own(tmp_path):
    PreTrainedTokenizerFast(
        tokenizer_object=byte_level(),
        chat_template={"default": "{{ messages[0].content }}", "tool_use": QWEN, "rag": "{{ x }}"},
        **SPECIAL,
    ).save_pretrained(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.decode(tokenizer.chat(PLAIN)) == PLAIN[0]["content"]
    assert tokenizer.chat_template(tools=True) == QWEN
    assert "get_weather" in tokenizer.decode(tokenizer.chat(PLAIN, [WEATHER]))


def test_a_developer_is_the_system_unless_the_template_knows_better():
    messages = [{"role": "developer", "content": "Be brief."}]
    roles = "{% for m in messages %}{{ m.role }}{% endfor %}"
    assert render(roles, messages) == "system"
    assert render(roles + "{# system or developer #}", messages) == "developer"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [("{nope", "is not JSON"), ("[1]", "must be a JSON object"), ('"x"', "must be a JSON object")],
)
def test_arguments_that_are_no_object_are_refused(arguments, why):
    made = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [*PLAIN, {"role": "assistant", "content": "", "tool_calls": [made]}]
    with pytest.raises(ValueError, match=rf"messages\[4\]\.tool_calls\[0\].*arguments {why}"):
        render(QWEN, messages)
    made["function"]["arguments"] = ""
    assert '"arguments": {}' in render(QWEN, messages)


def test_loop_variables_are_what_they_were_without_a_bound():
    source = (
        "{% for m in messages if m.role != 'system' %}{{ loop.index }}/{{ loop.length }}"
        "{{ (loop.previtem or {}).role }}>{{ m.role }}>{{ (loop.nextitem or {}).role }}"
        "{% if loop.last %}.{% endif %}{% else %}none{% endfor %}"
        "{% for key, value in {'a': 1}.items() %}{{ key }}{{ value }}{% break %}{% endfor %}"
        "{% for x in [[1, [2]], 3] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}"
        "{% for x in missing %}x{% else %}none{% endfor %}"
    )
    turns = "1/3>user>assistant2/3user>assistant>user3/3assistant>user>."
    assert render(source) == turns + "a1123none"


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ (messages | map(attribute='__class__') | first).mro() }}",
        "{{ ('{0.__class__.__mro__}' | format(messages)).x.y }}",
        "{{ raise_exception.__globals__['sys'].exit() }}",
        "{{ strftime_now.__closure__[0] }}",
        "{{ namespace.__init__.__globals__['os'] }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ messages[0].pop('role') }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ 'x' * 10000000000 }}",
        "{{ [0] * 10000000000 }}",
        "{{ range(1000000000) | list }}",
        "{{ lipsum(1000000000) }}",
    ],
)
def test_hostile_templates_are_refused(attack):
    with pytest.raises(ValueError, match="chat template refuses"):
        render(attack)


def test_insides_are_invisible():
    said = render(
        "{{ self.__init__ }}{{ strftime_now.__globals__ }}{{ messages | attr('__class__') }}"
        "{{ '{0.__class__}'.format(messages) }}{{ dict.__base__ }}{{ namespace.mro }}"
    )
    assert said == ""


@pytest.mark.parametrize(
    "attack",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro two(n) %}{% if n %}{{ two(n - 1) }}{{ two(n - 1) }}{% endif %}{% endmacro %}"
        "{{ two(90) }}",
        "{% set _deadline = 9999999999 %}{% block late scoped %}{% for i in range(99999) %}"
        "{% for j in range(99999) %}{% endfor %}{% endfor %}{% endblock %}",
    ],
)
def test_templates_that_would_run_for_ever_end(monkeypatch, attack):
    monkeypatch.setattr(template, "MAX_SECONDS", 0.2)
    with pytest.raises(ValueError, match=r"takes longer than 0\.2 s"):
        render(attack)


def test_templates_that_would_write_for_ever_end(monkeypatch):
    monkeypatch.setattr(template, "MAX_CHARACTERS", 10_000)
    with pytest.raises(ValueError, match="exceeds 10,000 characters"):
        render("{% for i in range(99999) %}{{ i }}{% endfor %}")


@pytest.mark.parametrize(
    "source", ["{% if %}", "{{ x | no_such_filter }}", "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}"]
)
def test_templates_that_cannot_be_read_are_refused(source):
    with pytest.raises(ValueError, match="chat template cannot be read"):
        ChatTemplate(source, {})
