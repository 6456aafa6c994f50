"""Decoding piece by piece says what decoding at once says, and never half a character."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from penstock import models as shipped
from penstock.engine.model.tokenizer import Tokenizer, _byte_level_alphabet

SAMPLES = [
    "plain words and   three spaces",
    " a leading space, a trailing one ",
    "family 👩‍👩‍👧 and flag 🇨🇭",
    "日本語テキスト、そして한국어",
    "tabs\tand\n\nlines\r\n",
    "naïve café — “quotes”",
]
TEMPLATE = (
    "{{ bos_token }}{% if tools is not none %}tools{% endif %}"
    "{% for m in messages %}{% if m.role not in ('user', 'assistant', 'system') %}"
    "{{ raise_exception('role ' + m.role + ' is unknown') }}{% endif %}"
    "<{{ m.role }}>{{ m.content | trim }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def byte_level() -> tokenizers.Tokenizer:
    """In the manner of Llama 3 and Qwen."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        ["plain words and spaces"] * 9,
        trainers.BpeTrainer(
            vocab_size=290,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=["<s>", "</s>"],
            show_progress=False,
        ),
    )
    made.add_tokens([AddedToken("<think>", special=False), AddedToken("two words", special=False)])
    return made


def sentencepiece() -> tokenizers.Tokenizer:
    """In the manner of Llama 2 and Mistral: U+2581 for a space, bytes as a last resort."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "▁plain", "▁words", "▁and", "▁a", "s", *"abcdefghijklmnopqrstuvwxyz"]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    made = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens(["<unk>", "<s>", "</s>"])
    return made


def metaspace() -> tokenizers.Tokenizer:
    made = sentencepiece()
    made.normalizer = None
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return made


KINDS = {
    "byte level": byte_level(),
    "sentencepiece": sentencepiece(),
    "metaspace": metaspace(),
    "embedded": tokenizers.Tokenizer.from_file(str(shipped.path("embedded") / "tokenizer.json")),
}


@pytest.fixture(params=KINDS)
def inner(request) -> tokenizers.Tokenizer:
    return KINDS[request.param]


def pieces(tokenizer: Tokenizer, ids: list[int], **kind) -> list[str]:
    stream = tokenizer.stream(**kind)
    return [*(stream.push([id_]) for id_ in ids), stream.flush()]


@pytest.mark.parametrize("text", SAMPLES)
def test_text_survives_and_streams(inner, text):
    if inner is KINDS["metaspace"]:
        text = text.lstrip(" ")  # it encodes a text with and without a leading space alike
    tokenizer = Tokenizer(inner)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    shown = pieces(tokenizer, ids)
    assert "".join(shown) == text
    assert not any("\ufffd" in piece for piece in shown)


def test_characters_of_several_tokens_appear_whole():
    tokenizer = Tokenizer(byte_level())
    ids = tokenizer.encode("👩日é")
    assert pieces(tokenizer, ids) == ["", "", "", "👩", "", "", "日", "", "é", ""]


TOKENIZERS = {kind: Tokenizer(inner) for kind, inner in KINDS.items()}
# Text in which what is one character to a reader is many code points, and more bytes.
TEXTS = st.lists(
    st.text(max_size=8)
    | st.sampled_from(
        [
            *("👩‍👩‍👧‍👦", "🏳️‍🌈", "🇨🇭", "👍🏽", "e\u0301", "각", "x\u0300\u0301\u0302", "ﷺ", "नी"),
            *(" ", "  ", "\n", "\u200d", "\ufeff", "\ufffd", "\U0010ffff", "\x00", "▁", "<0x41>"),
        ]
    ),
    max_size=8,
).map("".join)
PLACES = st.lists(st.integers(0, 10**6), max_size=12)


def cut(whole: Any, places: list[int]) -> list[Any]:
    """`whole`, a sequence, in parts that may be empty."""
    edges = [0, *sorted(place % (len(whole) + 1) for place in places), len(whole)]
    return [whole[a:b] for a, b in pairwise(edges)]


def streamed(tokenizer: Tokenizer, ids: list[int], places: list[int]) -> str:
    stream = tokenizer.stream()
    return "".join(map(stream.push, cut(ids, places))) + stream.flush()


def in_tokens(parts: list[bytes]) -> tuple[Tokenizer, list[int]]:
    """A byte-level tokenizer for which `parts` are tokens, and their ids."""
    letter = {byte: spelled for spelled, byte in _byte_level_alphabet().items()}
    spelled = ["".join(letter[byte] for byte in part) for part in parts if part]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(spelled))}
    inner = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.decoder = decoders.ByteLevel()
    return Tokenizer(inner), [vocab[token] for token in spelled]


@given(text=TEXTS, tokens=PLACES, pushes=PLACES)
def test_any_split_over_tokens_and_over_pushes_streams_as_the_text(text, tokens, pushes):
    tokenizer, ids = in_tokens(cut(text.encode(), tokens))
    assert tokenizer.decode(ids) == text
    assert streamed(tokenizer, ids, pushes) == text
    shown = pieces(tokenizer, ids)
    assert all(text.startswith("".join(shown[:n])) for n in range(len(shown)))


@given(text=TEXTS, tokens=PLACES)
def test_nothing_that_is_whole_is_held_back(text, tokens):
    tokenizer, ids = in_tokens(cut(text.encode(), tokens))
    stream = tokenizer.stream()
    shown, arrived = "", b""
    for id_ in ids:
        shown += stream.push([id_])
        arrived += tokenizer.token_bytes(id_)
        assert shown == arrived.decode(errors="ignore")


@pytest.mark.parametrize("kind", KINDS)
@given(text=TEXTS, places=PLACES)
def test_any_text_streams_as_the_tokenizers_library_decodes_it(kind, text, places):
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text)
    theirs = KINDS[kind].decode(ids)
    assert streamed(tokenizer, ids, places) == tokenizer.decode(ids) == theirs


def test_a_space_spelled_as_a_byte_is_one_even_at_the_start():
    tokenizer = TOKENIZERS["metaspace"]
    space = tokenizer.token_id("<0x20>")
    assert tokenizer.decode([space]) == KINDS["metaspace"].decode([space]) == " "


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), places=PLACES)
def test_any_ids_stream_as_the_tokenizers_library_decodes_them(kind, data, places):
    tokenizer = TOKENIZERS[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size), max_size=40))
    assert streamed(tokenizer, ids, places) == tokenizer.decode(ids)
    theirs = KINDS[kind].decode(ids)
    if "byte level" in kind or "\ufffd" not in theirs:
        assert tokenizer.decode(ids) == theirs


def test_one_token_to_be_read():
    tokenizer = TOKENIZERS["byte level"]
    first, *_ = tokenizer.encode("日")
    assert tokenizer.token_text(first) == "\ufffd"
    assert tokenizer.token_bytes(first) == "日".encode()[:1]
    assert [tokenizer.token_text(id_) for id_ in (0, 10**6)] == ["<s>", ""]
    (think,) = tokenizer.encode("<think>")
    assert tokenizer.token_text(think) == "<think>"
    assert tokenizer.token_id("<think>") == think
    assert tokenizer.token_id("no such token") is None


def test_special_tokens_that_are_wanted_are_shown():
    tokenizer = TOKENIZERS["byte level"]
    ids = [0, *tokenizer.encode("a"), 1, 0]
    assert "".join(pieces(tokenizer, ids, keep=["</s>", "no such token"])) == "a</s>"
    assert "".join(pieces(tokenizer, ids)) == "a"


def test_broken_bytes_show_once_it_is_certain():
    tokenizer = Tokenizer(byte_level())
    start, *_ = tokenizer.encode("日")
    letter = tokenizer.encode("x")[0]
    assert pieces(tokenizer, [start, letter]) == ["", "\ufffdx", ""]
    assert pieces(tokenizer, [start]) == ["", "\ufffd"]  # cut short: only the end can tell


def test_a_continuation_keeps_its_first_space():
    tokenizer = Tokenizer(sentencepiece())
    ids = tokenizer.encode("words")
    assert "".join(pieces(tokenizer, ids)) == "words"
    assert "".join(pieces(tokenizer, ids, continues=True)) == " words"


def test_a_special_token_first_does_not_bring_the_artificial_space_back():
    inner = sentencepiece()
    tokenizer = Tokenizer(inner)
    ids = [1, *tokenizer.encode("words")]
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids) == inner.decode(ids) == "words"


def test_special_tokens_and_foreign_ids_are_left_out():
    inner = byte_level()
    tokenizer = Tokenizer(inner)
    ids = [0, *tokenizer.encode("a <think>"), 1, 100_000, *tokenizer.encode(" b")]
    assert tokenizer.decode(ids) == "a <think> b"


def test_saved_truncation_and_padding_do_not_apply():
    inner = byte_level()
    inner.enable_truncation(2)
    inner.enable_padding(length=50)
    text = "plain words and spaces"
    assert Tokenizer(inner).decode(Tokenizer(inner).encode(text)) == text


def test_wordpiece_is_refused():
    inner = tokenizers.Tokenizer(models.WordPiece({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    inner.decoder = decoders.WordPiece()
    with pytest.raises(ValueError, match="decoder of type WordPiece"):
        Tokenizer(inner)


@pytest.fixture
def saved(tmp_path):
    PreTrainedTokenizerFast(
        tokenizer_object=byte_level(),
        bos_token="<s>",
        eos_token="</s>",
        chat_template=TEMPLATE,
    ).save_pretrained(tmp_path)
    return tmp_path


MESSAGES = [
    {"role": "system", "content": "plain words"},
    {"role": "user", "content": " and 日本 "},
]


def test_chat_as_transformers_renders_it(saved):
    tokenizer = Tokenizer.load(saved)
    theirs = PreTrainedTokenizerFast.from_pretrained(saved).apply_chat_template(
        MESSAGES, add_generation_prompt=True, return_dict=False
    )
    assert tokenizer.chat(MESSAGES) == theirs
    assert tokenizer.chat(MESSAGES)[0] == tokenizer.bos_token_id == 0
    assert tokenizer.eos_token_id == 1
    assert tokenizer.vocab_size == byte_level().get_vocab_size()


def test_template_in_the_config_file_and_among_several(saved):
    expected = Tokenizer.load(saved).chat(MESSAGES)
    (saved / "chat_template.jinja").unlink()
    path = saved / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    for template in (
        TEMPLATE,
        [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TEMPLATE}],
    ):
        path.write_text(json.dumps({**settings, "chat_template": template}))
        assert Tokenizer.load(saved).chat(MESSAGES) == expected
    path.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="no chat template"):
        Tokenizer.load(saved).chat(MESSAGES)


def test_what_the_template_refuses_is_said(saved):
    with pytest.raises(ValueError, match="role tool is unknown"):
        Tokenizer.load(saved).chat([{"role": "tool", "content": ""}])


def test_messages_the_template_stumbles_over_are_refused(saved):
    (saved / "chat_template.jinja").write_text("{{ 'said: ' + messages[0].content }}")
    with pytest.raises(ValueError, match="chat template refuses"):
        Tokenizer.load(saved).chat([{"role": "user", "content": None}])


@pytest.mark.parametrize(
    "attack",
    ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.append(1) }}"],
)
def test_templates_are_sandboxed(saved, attack):
    (saved / "chat_template.jinja").write_text(attack)
    with pytest.raises(ValueError, match="chat template refuses"):
        Tokenizer.load(saved).chat(MESSAGES)


def test_directory_without_a_tokenizer(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_module_needs_no_torch():
    code = "import sys; import penstock.engine.model.tokenizer; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_how_long_a_text_of_so_many_tokens_can_be():
    embedded = Tokenizer.load(shipped.path("embedded"))
    longest = embedded.most_characters(1)
    assert longest is not None
    assert embedded.most_characters(100) == 100 * longest
    for text in [" " * 1000, "=" * 1000, "self.assertEqual(" * 50, "\U0001f600" * 50, "\n" * 999]:
        assert len(text) <= embedded.most_characters(len(embedded.encode(text)))


@pytest.mark.parametrize(
    ("change", "known"),
    [
        ({}, True),
        ({"normalizer": {"type": "NFC"}}, True),
        ({"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}}, False),
        ({"pre_tokenizer": {"type": "Whitespace"}}, False),
    ],
    ids=["bytes", "NFC", "strips", "drops spaces"],
)
def test_where_text_may_be_dropped_nothing_bounds_its_length(change, known):
    path = shipped.path("embedded") / "tokenizer.json"
    spec = json.loads(path.read_text()) | change
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(spec)))
    assert (tokenizer.most_characters(10) is not None) == known
    if change.get("normalizer", {}).get("type") == "NFC":
        text = "a\u0323\u0302" * 500  # composes to one character
        assert len(text) <= tokenizer.most_characters(len(tokenizer.encode(text)))
