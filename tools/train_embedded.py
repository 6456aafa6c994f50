"""Train the embedded model or its draft on this interpreter's standard library.

    python tools/train_embedded.py --minutes 90
    python tools/train_embedded.py embedded-draft --minutes 15 --teacher checkpoints/embedded

Continues from the last checkpoint in the work folder. SIGUSR1 begins the
cool-down now; Ctrl-C stops and keeps what there is. Beside other work set
OMP_WAIT_POLICY=passive: threads that spin for a delayed one halve the speed.
"""

import signal
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaForCausalLM

from embedded import checkpoint, tokenizer
from embedded.schedule import Schedule
from embedded.shapes import SHAPES
from penstock.compress.corpus import Corpus, training_texts
from penstock.compress.training import Optimizers, distillation

TOKENS_PER_STEP = 2048
PEAK_RATE = 2e-3
SAVE_EVERY_S = 240
LOG_EVERY = 50

console = Console()


def loss_of(model: LlamaForCausalLM, batch: Tensor, teacher: LlamaForCausalLM | None) -> Tensor:
    """Mean loss in nats per token; with a teacher, the KL divergence from its view.

    A draft is worth how often it agrees with its teacher, right or wrong.
    `batch` is [rows, length + 1] token ids.
    """
    inputs, targets = batch[:, :-1], batch[:, 1:].flatten()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=inputs).logits.flatten(0, 1)
        with torch.no_grad():
            taught = None if teacher is None else teacher(input_ids=inputs).logits.flatten(0, 1)
    return distillation(logits, taught, targets, temperature=1.0, truth=0.0)


def own_tokenizer(folder: Path, texts: dict[str, list[str]]) -> Tokenizer:
    """The tokenizer in `folder`, trained first if there is none."""
    path = folder / "tokenizer.json"
    if not path.exists():
        console.print("training the tokenizer")
        made = tokenizer.train(text for source in texts.values() for text in source)
        made.save(str(path))
    return Tokenizer.from_file(str(path))


def main(
    shape: Annotated[str, typer.Argument(help=" or ".join(SHAPES))] = "embedded",
    minutes: Annotated[float, typer.Option(help="budget in minutes of stepping")] = 90,
    work: Annotated[Path, typer.Option(help="where checkpoints go")] = Path("checkpoints"),
    teacher: Annotated[Path | None, typer.Option(help="checkpoint to learn from")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads, 0 for all")] = 0,
) -> None:
    if shape not in SHAPES:
        raise typer.BadParameter(f"shape={shape!r} is not one of {', '.join(SHAPES)}")
    folder = work / shape
    folder.mkdir(parents=True, exist_ok=True)
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)

    texts = training_texts()
    coder = own_tokenizer(work, texts)
    data = Corpus.build(coder, texts, coder.encode(tokenizer.END).ids)
    counts = {source: f"{len(ids):,}" for source, ids in data.tokens.items()}
    console.print(f"corpus in tokens: {counts}")

    schedule = Schedule(seconds=60 * minutes)
    if (folder / "state.json").exists():
        model, moments, state = checkpoint.load(folder)
        optimizers = Optimizers(dict(model.named_parameters()), PEAK_RATE)
        optimizers.restore(moments)
        schedule = Schedule(**state["schedule"] | {"seconds": 60 * minutes})
        data.taken = state["taken"]
        console.print(f"continuing after {schedule.tokens:,} tokens")
    else:
        model = LlamaForCausalLM(SHAPES[shape])
        optimizers = Optimizers(dict(model.named_parameters()), PEAK_RATE)
    guide = checkpoint.load(teacher)[0] if teacher else None
    signal.signal(signal.SIGUSR1, lambda *_: schedule.cool_down())
    for stop in (signal.SIGINT, signal.SIGTERM):  # also where a shell has SIGINT ignored
        signal.signal(stop, signal.default_int_handler)

    def save() -> None:
        state = {"shape": shape, "schedule": schedule.state(), "taken": data.taken}
        checkpoint.save(folder, model, optimizers.tensors(), state)

    recent, saved, steps = 0.0, time.monotonic(), 0
    try:
        while not schedule.done:
            began = time.monotonic()
            length = schedule.length
            # Measured: plain matrix products cost a seventh less CPU time on short rows.
            model.set_attn_implementation("eager" if length <= 256 else "sdpa")
            loss = loss_of(model, data.batch(TOKENS_PER_STEP // length, length), guide)
            torch.autograd.backward(loss)
            optimizers.step(schedule.rate)
            schedule.step(TOKENS_PER_STEP, time.monotonic() - began)
            steps += 1
            recent = loss.item() if steps == 1 else 0.98 * recent + 0.02 * loss.item()
            if steps % LOG_EVERY == 0:
                speed = TOKENS_PER_STEP / (schedule.usual_step or 1.0)
                console.print(
                    f"{schedule.elapsed / 60:6.1f} min  {schedule.tokens / 1e6:7.2f} M tokens  "
                    f"loss {recent:.3f}  rate {schedule.rate:.2f}  {speed:,.0f} tokens/s"
                )
            if time.monotonic() - saved > SAVE_EVERY_S:
                save()
                saved = time.monotonic()
    except KeyboardInterrupt:
        console.print("stopped")
    save()
    console.print(f"{schedule.tokens:,} tokens in {schedule.elapsed / 60:.1f} min: {folder}")


if __name__ == "__main__":
    typer.run(main)
