"""Which drafter an engine has."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from penstock import models
from penstock.engine.kv import KVStore
from penstock.engine.model.config import ModelConfig
from penstock.engine.model.decoder import Decoder
from penstock.engine.options import EngineOptions
from penstock.engine.runner import Runner
from penstock.engine.speculate.copying import Lookup, Suffix
from penstock.engine.speculate.drafter import Drafter
from penstock.engine.speculate.measure import step_table
from penstock.engine.speculate.model import DraftModel
from penstock.engine.speculate.speculator import Speculator


def draft_config(
    model: str, config: ModelConfig, options: EngineOptions
) -> tuple[ModelConfig, Path] | None:
    """The draft model that the options ask for, and where it is.

    Raises `ValueError` for options that contradict each other, and for a draft model
    that cannot guess for this one.
    """
    if options.speculate != "off" and not options.kv_cache:
        raise ValueError(f"speculate={options.speculate} needs the KV cache: kv_cache=true.")
    if options.speculate == "off" and options.draft_tokens is not None:
        raise ValueError(
            f"draft_tokens={options.draft_tokens} without guesses: set speculate to "
            "lookup, suffix or draft."
        )
    if options.speculate != "draft":
        if options.draft_model is not None:
            raise ValueError(
                f"draft_model={options.draft_model} with speculate={options.speculate}: "
                "set speculate=draft."
            )
        return None
    if options.kv_budget is not None:
        raise ValueError(
            "speculate=draft needs all of the context, which kv_budget gives up: "
            "set speculate to lookup or suffix."
        )
    name = options.draft_model or ("embedded-draft" if model == "embedded" else None)
    if name is None:
        raise ValueError(f"speculate=draft needs a draft_model of the vocabulary of {model}.")
    directory = models.path(name)
    draft = ModelConfig.load(directory)
    if draft.vocab_size != config.vocab_size:
        raise ValueError(
            f"draft_model={name} has {draft.vocab_size:,} tokens, {model} has "
            f"{config.vocab_size:,}: they must share one vocabulary."
        )
    if (other := _other_word(models.path(model), directory)) is not None:
        token, ours, theirs = other
        raise ValueError(
            f"draft_model={name} spells token {token:,} {theirs!r}, {model} spells it {ours!r}: "
            "its guesses would mean other words. Set draft_model to a model that was trained with "
            f"the tokenizer of {model}, or speculate to lookup or suffix."
        )
    longest = options.max_model_len or config.max_positions
    if draft.max_positions < longest:
        raise ValueError(
            f"draft_model={name} holds {draft.max_positions:,} tokens of context, this engine "
            f"{longest:,}: lower max_model_len to {draft.max_positions:,}."
        )
    return draft, directory


def _other_word(model: Path, draft: Path) -> tuple[int, str, str] | None:
    """The first token that two checkpoints spell differently, and how; None if there is none.

    Where either has no `tokenizer.json` nothing is known. Raises `ValueError` for one
    that cannot be read.
    """
    files = [directory / "tokenizer.json" for directory in (model, draft)]
    if not all(file.is_file() for file in files):
        return None
    if files[0].read_bytes() == files[1].read_bytes():  # as most pairs: no need to parse
        return None
    ours, theirs = map(_words, files)
    for token in sorted(ours.keys() & theirs.keys()):
        if ours[token] != theirs[token]:
            return token, ours[token], theirs[token]
    return None


def _words(file: Path) -> dict[int, str]:
    """Tokens by id, without those that were added later: in one family they may differ in name."""
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(
            f"speculate=draft compares tokenizers, and {file} cannot be read ({error}): fetch it "
            "again, or set speculate to lookup or suffix."
        ) from error
    added = tokenizer.get_added_tokens_decoder()
    words: dict[str, int] = tokenizer.get_vocab(with_added_tokens=False)
    return {id_: word for word, id_ in words.items() if id_ not in added}


def speculator(runner: Runner, options: EngineOptions, draft: Decoder | None) -> Speculator | None:
    """What guesses for a runner, or None. Measures its steps, if that decides how often.

    Raises `ValueError` for more guesses than the drafter can make.
    """
    if options.speculate == "off":
        return None
    drafter: Drafter
    if draft is not None:
        kv = KVStore(
            draft.kv_layers(),
            runner.kv.pages,
            runner.kv.page_size,
            draft.dtype,
            draft.device,
            storage=draft.kernels.pages,
        )
        seconds = step_table(draft, kv, options.max_running)
        budget = options.max_step_tokens
        drafter = DraftModel(draft, kv, runner.tables, budget=budget, seconds=seconds)
    else:
        drafter = Lookup() if options.speculate == "lookup" else Suffix()
    fixed = options.draft_tokens
    if fixed is not None and not 1 <= fixed <= drafter.most:
        raise ValueError(
            f"draft_tokens={fixed} must lie between 1 and {drafter.most} with "
            f"speculate={options.speculate}; leave it out to guess as many as pay."
        )
    step = step_table(runner.decoder, runner.kv, options.max_step_tokens)
    return Speculator(drafter, step, fixed)
