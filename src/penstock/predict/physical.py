"""The step time that follows from a model, a hardware sheet, and the share of its rates reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from penstock.predict.architecture import Gqa, Mla, Moe
from penstock.predict.deployment import Deployment, expert_bytes
from penstock.predict.steptime import (
    Costs,
    Efficiencies,
    Overheads,
    StepLoad,
    Work,
    terms,
)

# Choosing experts, sorting tokens by them and adding up their answers are kernels of their own:
# half as many again as a dense layer has.
ROUTING = 0.5
_FOUR_BITS = frozenset({"fp4", "mxfp4", "int4"})


class PhysicalStepTime:
    """Step time of one replica.

    With `dp` groups each takes an equal share of the sequences. With `pp`
    stages as many micro-batches are under way, each of an equal share: a
    round of all of them takes as long as one of them through all layers.
    Everything takes `scale` times as long as the parameters say.
    Raises `ValueError` where the sheet lacks a rate that is needed.
    """

    def __init__(
        self,
        deployment: Deployment,
        efficiencies: Efficiencies | None = None,
        overheads: Overheads | None = None,
        scale: float = 1.0,
    ) -> None:
        self.deployment = deployment
        self.efficiencies = efficiencies or Efficiencies()
        self.overheads = overheads or Overheads()
        # Precisions of the products outside experts, and of theirs.
        self.arithmetic = _arithmetic(deployment, _plain(deployment))
        self.expert_arithmetic = _arithmetic(deployment, deployment.weights)
        self.costs = self._costs().times(scale)
        self.request_s = self.costs.request

        d, model, device = deployment, deployment.model, deployment.device
        self._groups, self._stages = d.dp, d.pp
        self._bandwidth = device.read_bytes_per_s
        shared = model.read_bytes(0, d.weights) - expert_bytes(model, d.weights, 0)
        self._read = shared / d.tp / self._bandwidth
        head = 2 * model.vocab * model.hidden
        body = model.matmul_flops(1, 0)
        routed = _routed_flops(d)
        self._token_s = (body - routed) / d.tp / _rate(d, _plain(d))
        self._logits_s = head / d.tp / _rate(d, "bf16")
        self._routed_s = routed / (d.tp * d.dp) / _rate(d, d.weights)
        self._experts_read = _remember(
            lambda tokens: expert_bytes(model, d.weights, tokens) / (d.tp * d.dp) / self._bandwidth
        )
        attending = [layer.attention for layer in model.layers]
        bends = [kind.window for kind in attending if isinstance(kind, Gqa) and kind.window]
        bends += [kind.top for kind in attending if isinstance(kind, Mla) and kind.top]
        rate16 = _rate(d, "bf16") * d.tp
        self._kv = _Bent(lambda c: model.kv_read_bytes(c, d.kv, d.tp) / self._bandwidth, bends)
        self._decoding = _Bent(lambda c: model.attended_flops(c) / rate16, bends)
        self._attending = _Bent(lambda c: model.attended_flops(c, expanded=True) / rate16, bends)
        self._link_s, self._collectives = _communication(d)
        routing = sum(layer.count for layer in model.layers if isinstance(layer.ffn, Moe))
        self._layers = model.depth + ROUTING * routing

    def _costs(self) -> Costs:
        e, o = self.efficiencies, self.overheads
        return Costs(
            read=1 / e.bandwidth,
            compute=1 / e.computing(self.arithmetic),
            experts_compute=1 / e.computing(self.expert_arithmetic),
            kv=1 / e.kv,
            attention=1 / e.attention,
            link=1 / e.link,
            collective=o.collective_s,
            layer=o.layer_s,
            sequence=o.sequence_s,
            step=o.step_s,
            request=o.request_s,
        )

    def work(self, load: StepLoad) -> Work:
        """The step's work on one device: seconds at the sheet's rates, and counts."""
        share = self._groups * self._stages
        tokens = (load.prefill_tokens + load.decodes) / share
        decodes, prefill = load.decodes / share, load.prefill_tokens / share
        context = load.decode_context / load.decodes if load.decodes else 0.0
        seen = load.prefill_pairs / load.prefill_tokens if load.prefill_tokens else 0.0
        together = tokens * self._groups  # tokens that meet at the experts
        return Work(
            read=self._read,
            compute=tokens * self._token_s + load.logits / share * self._logits_s,
            experts_read=self._experts_read(together),
            experts_compute=together * self._routed_s,
            kv=decodes * self._kv(context),
            decode_attention=decodes * self._decoding(context),
            attention=prefill * self._attending(seen),
            link=tokens * self._link_s,
            collectives=self._collectives,
            layers=self._layers,
            sequences=load.decodes / share,
            logits=load.logits / share,
        )

    def terms(self, load: StepLoad) -> dict[str, float]:
        """Seconds of each term, by name; their sum is `seconds`."""
        return terms(self.work(load), self.costs)

    def seconds(self, load: StepLoad) -> float:
        """Seconds of one step."""
        return float(sum(self.terms(load).values()))


class _Bent:
    """A function of context that is straight between 0, the bends and far away."""

    def __init__(self, function: Callable[[float], float], bends: Iterable[int]) -> None:
        starts = sorted({0.0, *map(float, bends)}, reverse=True)
        self._pieces = [(s, function(s), function(s + 1) - function(s)) for s in starts]

    def __call__(self, context: float) -> float:
        for start, value, slope in self._pieces:
            if context >= start:
                return value + slope * (context - start)
        raise ValueError(f"context={context} must not be negative.")


def _remember(function: Callable[[float], float]) -> Callable[[float], float]:
    """The function, with the values it gave for whole numbers of tokens kept."""
    known: dict[float, float] = {}

    def remembering(tokens: float) -> float:
        found = known.get(tokens)
        if found is None:
            found = function(tokens)
            if len(known) < 100_000:
                known[tokens] = found
        return found

    return remembering


def _plain(d: Deployment) -> str:
    """Format of the weights outside experts: 16 bits where only experts have 4."""
    return "bf16" if d.weights in _FOUR_BITS and d.model.is_moe else d.weights


def _arithmetic(d: Deployment, weights: str) -> str:
    found = d.device.arithmetic(weights)
    if found is None:
        raise ValueError(
            f"the sheet of {d.device.name} has no rate for weights={weights!r} (flops: "
            f"{', '.join(d.device.flops) or 'none'}): add one to a sheet of your own."
        )
    return found


def _rate(d: Deployment, weights: str) -> float:
    return d.device.flops[_arithmetic(d, weights)]


def _routed_flops(d: Deployment) -> float:
    """Operations of one token in the experts it is routed to."""
    return sum(
        2 * layer.count * 3 * d.model.hidden * layer.ffn.width * layer.ffn.active
        for layer in d.model.layers
        if isinstance(layer.ffn, Moe)
    )


def _communication(d: Deployment) -> tuple[float, float]:
    """Seconds at the link's full rate for each token of a group, and collectives in a step."""
    if d.devices == 1:
        return 0.0, 0.0
    rate = d.device.link_bytes_per_s
    if d.devices > d.device.link_devices:
        rate = d.device.network_bytes_per_s
    if rate is None:
        raise ValueError(
            f"tp x pp x dp = {d.devices} devices must exchange data, but the sheet of "
            f"{d.device.name} has no link for so many (link_devices={d.device.link_devices}): "
            "take fewer, or give link_bytes_per_s or network_bytes_per_s in a sheet of your own."
        )
    tensor = d.model.tensor_bytes(1)
    # A ring all-reduce moves 2 (n - 1) / n of the data over each link.
    moved = d.model.allreduce_bytes(1) * 2 * (d.tp - 1) / d.tp
    collectives = 2.0 * d.model.depth if d.tp > 1 else 0.0
    if d.dp > 1:
        # Tokens travel to their experts and back, to each group that holds one of them.
        for layer in d.model.layers:
            if isinstance(layer.ffn, Moe):
                parts = min(layer.ffn.active, d.dp)
                moved += layer.count * 2 * tensor * parts * (d.dp - 1) / d.dp
                collectives += 2 * layer.count
    moved += (d.pp - 1) * tensor
    collectives += d.pp - 1
    return moved / rate, collectives
