"""Put trained checkpoints into the package and measure them.

    python tools/ship_embedded.py --work checkpoints

Writes `src/penstock/models/{embedded,embedded-draft}/` in HF layout with weights
in bf16, measures what was written, keeps the figures in `results.json` and makes
the README from them.
"""

import json
import platform
from math import log
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from rich.console import Console
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaForCausalLM

from embedded import checkpoint, measure, tokenizer
from embedded.shapes import CONTEXT, SHAPES
from penstock import models
from penstock.workload import stdlib
from train_embedded import TOKENS_PER_STEP

PACKAGE = Path(models.__file__).parent
MAIN, DRAFT = "embedded", "embedded-draft"
ROWS = 32
PER_GRADE = 200
CHECK_MODULE, CHECK_TOKENS = "json", 1000

console = Console()


def export(work: Path, name: str) -> dict[str, Any]:
    """Write one checkpoint in HF layout, weights in bf16; gives back its training state."""
    folder = PACKAGE / name
    folder.mkdir(exist_ok=True)
    model, _, state = checkpoint.load(work / name)
    model.config.use_cache = True
    generation = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "do_sample": False}
    model.generation_config = GenerationConfig.from_dict(generation)
    model.bfloat16().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # written for its owner alone
    tokenizer.save(Tokenizer.from_file(str(work / "tokenizer.json")), folder, CONTEXT)
    return state


def figures(name: str, state: dict[str, Any]) -> dict[str, Any]:
    """All that is measured on one shipped checkpoint; losses in nats per token."""
    folder = PACKAGE / name
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    coder = Tokenizer.from_file(str(folder / "tokenizer.json"))
    library = dict(stdlib.texts("held_out"))
    tests = [t for n, t in stdlib.texts("held_out", tests=True) if n not in library]
    by_source = {}
    for source, texts in {"library": list(library.values()), "tests": tests}.items():
        if not texts:  # a distribution that comes without the test suite
            continue
        rows, size = measure.windows(coder, texts, CONTEXT - 1, ROWS)
        loss = measure.losses(model, rows)
        by_source[source] = {
            "loss": loss.mean().item(),
            "bits_per_byte": loss.sum().item() / size / log(2),
            "tokens": loss.numel(),
            "by_position": {
                f"{a}-{b}": loss[:, a:b].mean().item()
                for a, b in ((0, 64), (64, 256), (256, 1024), (1024, 2047))
            },
        }
    schedule = state["schedule"]
    start = torch.tensor([coder.encode(library[CHECK_MODULE]).ids[: CHECK_TOKENS + 1]])
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": {
            "tokens": schedule["tokens"],
            "minutes": schedule["elapsed"] / 60,
            "cooled_down": schedule["cooling_from"] is not None,
            "rows": state["taken"],
        },
        "held_out": by_source,
        # A small figure that the tests measure again.
        "check": {
            "module": CHECK_MODULE,
            "tokens": CHECK_TOKENS,
            "loss": measure.losses(model, start).mean().item(),
        },
        "doctests": measure.doctest_accuracy(model, coder, PER_GRADE),
        "samples": {prompt: measure.sample(model, coder, prompt, 96) for prompt in measure.SAMPLES},
    }


def write_page(results: dict[str, Any]) -> None:
    """Keep the results and make the page from them."""
    (PACKAGE / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "embedded"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    ).get_template("README.md.jinja")
    (PACKAGE / "README.md").write_text(page.render(results))


def main(
    work: Annotated[Path, typer.Option(help="folder with the checkpoints")] = Path("checkpoints"),
    note: Annotated[str, typer.Option(help="what this run did otherwise than the tools say")] = "",
) -> None:
    results: dict[str, Any] = {
        "python": platform.python_version(),
        "rows": ROWS,
        "tokens_per_step": TOKENS_PER_STEP,
        "doctests_per_grade": PER_GRADE,
        "note": note,
        "models": {},
    }
    for name in SHAPES:
        results["models"][name] = figures(name, export(work, name))
        console.print(f"{name}: {results['models'][name]['doctests']}")
    rows_read = results["models"][MAIN]["training"]["rows"]
    results["shares"] = {
        source: f"{count / sum(rows_read.values()):.0%}" for source, count in rows_read.items()
    }
    coder = Tokenizer.from_file(str(PACKAGE / MAIN / "tokenizer.json"))
    rows, _ = measure.windows(coder, [text for _, text in stdlib.texts("held_out")], 511, ROWS)
    model, draft = (
        LlamaForCausalLM.from_pretrained(PACKAGE / name, dtype=torch.float32)
        for name in (MAIN, DRAFT)
    )
    results["draft_agreement"] = measure.agreement(model, draft, rows)
    results["shapes"] = {
        name: json.loads((PACKAGE / name / "config.json").read_text()) for name in SHAPES
    }
    write_page(results)


if __name__ == "__main__":
    typer.run(main)
