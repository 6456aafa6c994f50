import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from penstock.workload.prompts import CutPrompts, GivenPrompts, from_file, held_out_stdlib

TEXT = "".join(f"def function_{i}(a, b):\n    return a + b * {i}\n\n" for i in range(300))


@pytest.fixture(scope="module")
def tokenizer():
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    built.train_from_iterator([TEXT], trainer)
    return built


def cut(tokenizer=None, text=TEXT, salt="s", seed=1):
    return CutPrompts(text, source="text", salt=salt, seed=seed, tokenizer=tokenizer)


@pytest.mark.parametrize("tokens", [1, 2, 7, 64, 500, 5000])
def test_cut_to_the_token(tokenizer, tokens):
    prompts = cut(tokenizer)
    counts = [len(tokenizer.encode(prompts.prompt(i, tokens)).ids) for i in range(20)]
    assert max(counts) <= tokens
    assert sum(counts) / 20 >= tokens - 0.5


def test_without_a_tokenizer_cut_by_estimate():
    prompts = cut()
    prompts.characters_per_token = 3.0
    assert len(prompts.prompt(0, 100)) == 300
    assert not prompts.exact


def test_no_two_prompts_share_a_prefix():
    prompts = cut()
    heads = {prompts.prompt(i, 50)[:16] for i in range(500)}
    assert len(heads) == 500


def test_a_fresh_salt_makes_other_prompts_of_the_same_text():
    one, two = cut(salt="a").prompt(3, 50), cut(salt="b").prompt(3, 50)
    assert one.split("\n", 1)[0] != two.split("\n", 1)[0]
    assert one.split("\n", 1)[1] == two.split("\n", 1)[1]


def test_a_short_text_goes_round():
    assert len(cut(text="one line\n").prompt(0, 100)) == 400


def test_an_empty_text_is_refused():
    with pytest.raises(ValueError, match="holds no text"):
        cut(text=" \n")


def test_standard_library():
    prompts = held_out_stdlib(salt="x", seed=0, tokenizer=None)
    assert prompts.prompt(0, 64) != prompts.prompt(1, 64)
    assert "standard-library" in prompts.description


def test_jsonl_is_used_as_it_is(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "a"}\n\n{"messages": [{"role": "user", "content": "b"}]}\n')
    prompts = from_file(file, salt="x", seed=0, tokenizer=None)
    assert isinstance(prompts, GivenPrompts)
    assert [prompts.prompt(i, 9) for i in range(3)] == [
        "a",
        [{"role": "user", "content": "b"}],
        "a",
    ]
    assert not prompts.sized


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"prompt": 3}', "line 1"), ('{"x": "y"}', "no prompt"), ("", "holds no prompt")],
)
def test_a_bad_jsonl_names_its_line(tmp_path, content, message):
    file = tmp_path / "p.jsonl"
    file.write_text(content)
    with pytest.raises(ValueError, match=message):
        from_file(file, salt="x", seed=0, tokenizer=None)


def test_a_text_file_is_cut(tmp_path):
    file = tmp_path / "book.txt"
    file.write_text(TEXT)
    assert from_file(file, salt="x", seed=0, tokenizer=None).sized
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="UTF-8"):
        from_file(file, salt="x", seed=0, tokenizer=None)
