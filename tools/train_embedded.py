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
import torch.nn.functional as F
import typer
from rich.console import Console
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaForCausalLM

from embedded import checkpoint, corpus, tokenizer
from embedded.corpus import Corpus
from embedded.schedule import Schedule
from embedded.shapes import SHAPES

TOKENS_PER_STEP = 2048
PEAK_RATE = 2e-3
SAVE_EVERY_S = 240
LOG_EVERY = 50

console = Console()


class Optimizers:
    """Muon for the hidden matrices, AdamW for embedding and norms."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        named = dict(model.named_parameters())
        matrices = {n: p for n, p in named.items() if p.ndim == 2 and "embed" not in n}
        others = {n: p for n, p in named.items() if n not in matrices}
        # match_rms_adamw scales Muon's orthogonal updates to the size of AdamW's,
        # so that one learning rate serves both (Liu et al. 2025).
        muon = torch.optim.Muon(
            list(matrices.values()),
            lr=PEAK_RATE,
            weight_decay=0.1,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        )
        adam = torch.optim.AdamW(
            list(others.values()), lr=PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.0
        )
        self.parts = list[tuple[torch.optim.Optimizer, dict[str, torch.nn.Parameter]]](
            [(muon, matrices), (adam, others)]
        )

    def step(self, rate: float) -> None:
        """One step at `rate` times the peak learning rate."""
        for optimizer, _ in self.parts:
            for group in optimizer.param_groups:
                group["lr"] = PEAK_RATE * rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """State as named tensors, `parameter/field`."""
        return {
            f"{name}/{field}": value
            for optimizer, named in self.parts
            for name, parameter in named.items()
            for field, value in optimizer.state[parameter].items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        for key, value in tensors.items():
            name, field = key.split("/")
            for optimizer, named in self.parts:
                if name in named:
                    optimizer.state[named[name]][field] = value


def loss_of(model: LlamaForCausalLM, batch: Tensor, teacher: LlamaForCausalLM | None) -> Tensor:
    """Mean loss in nats per token; with a teacher, half of it is the cross entropy to its view.

    `batch` is [rows, length + 1] token ids.
    """
    inputs, targets = batch[:, :-1], batch[:, 1:].flatten()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=inputs).logits.flatten(0, 1)
    loss = F.cross_entropy(logits.float(), targets)
    if teacher is None:
        return loss
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        soft = teacher(input_ids=inputs).logits.flatten(0, 1).float().softmax(-1)
    return 0.5 * loss + 0.5 * F.cross_entropy(logits.float(), soft)


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

    texts = corpus.training_texts()
    data = Corpus.build(own_tokenizer(work, texts), texts)
    counts = {source: f"{len(ids):,}" for source, ids in data.tokens.items()}
    console.print(f"corpus in tokens: {counts}")

    schedule = Schedule(seconds=60 * minutes)
    if (folder / "state.json").exists():
        model, moments, state = checkpoint.load(folder)
        optimizers = Optimizers(model)
        optimizers.restore(moments)
        schedule = Schedule(**state["schedule"] | {"seconds": 60 * minutes})
        data.taken = state["taken"]
        console.print(f"continuing after {schedule.tokens:,} tokens")
    else:
        model = LlamaForCausalLM(SHAPES[shape])
        optimizers = Optimizers(model)
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
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
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
