"""Decoding piece by piece says what decoding at once says, and never half a character."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from penstock.engine.model.tokenizer import Tokenizer

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


KINDS = {"byte level": byte_level(), "sentencepiece": sentencepiece(), "metaspace": metaspace()}


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


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(max_size=60))
def test_any_text_streams(kind, text):
    tokenizer = Tokenizer(KINDS[kind])
    ids = tokenizer.encode(text)
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids) == KINDS[kind].decode(ids)


@given(ids=st.lists(st.integers(0, 280), max_size=40))
def test_any_ids_decode_as_in_the_tokenizers_library(ids):
    inner = KINDS["byte level"]
    tokenizer = Tokenizer(inner)
    assert tokenizer.decode(ids) == inner.decode(ids)
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


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
