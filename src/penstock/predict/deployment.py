"""One model on so many devices: how it is cut up, and what memory that leaves for K and V."""

from __future__ import annotations

import msgspec

from penstock.predict.architecture import Architecture, Linear, Moe, width_of
from penstock.predict.sheet import Device

# Bytes on each device that are neither weights nor KV: the runtime's own, captured graphs,
# activations. vLLM 0.19 serving Llama 3.1 8B on a 24 GB card kept 1.2 GB (0.9 x 25.25 GB
# less 16.06 GB of weights less 41,408 tokens x 128 KiB).
RESERVE_BYTES = 1.2e9
MEMORY_SHARE = 0.9  # of the device's memory that the server may use; vLLM's default


class Deployment(msgspec.Struct, frozen=True, dict=True):
    """One replica of a model: its formats and how it is spread over devices.

    `tp` devices share every layer, `pp` groups of them hold the layers one
    after the other, and `dp` such groups take different sequences. A mixture
    of experts keeps its experts once over all `tp * dp` devices of a stage,
    whole ones on `ep` parts of them, the rest cut; everything else is held by
    every one of the `dp` groups. Raises `ValueError` for parts that do not
    divide.
    """

    model: Architecture
    device: Device
    weights: str = "bf16"
    kv: str = "bf16"
    tp: int = 1
    pp: int = 1
    ep: int = 1
    dp: int = 1

    def __post_init__(self) -> None:
        width_of(self.weights, "weights")
        width_of(self.kv, "kv")
        for name in ("tp", "pp", "ep", "dp"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.pp > self.model.depth:
            raise ValueError(
                f"pp={self.pp} is more than the {self.model.depth} layers of {self.model.name}: "
                "each stage needs one."
            )
        if self.tp * self.dp % self.ep:
            raise ValueError(
                f"ep={self.ep} does not divide tp x dp = {self.tp * self.dp}, "
                "the devices that share the experts."
            )
        if self.ep > 1 and not self.model.is_moe:
            raise ValueError(f"ep={self.ep}, but {self.model.name} has no experts: leave it at 1.")
        if self.tp > 1 and (rest := [h for h in self._heads if h % self.tp]):
            raise ValueError(
                f"tp={self.tp} does not divide the {rest[0]} attention heads of {self.model.name}."
            )

    @property
    def devices(self) -> int:
        """Devices of the replica."""
        return self.tp * self.pp * self.dp

    @property
    def device_weight_bytes(self) -> float:
        """Bytes of weights on each device."""
        experts = expert_bytes(self.model, self.weights)
        shared = self.model.weight_bytes(self.weights) - experts
        return (shared / self.tp + experts / (self.tp * self.dp)) / self.pp

    def check_fits(self, share: float = MEMORY_SHARE, reserve: float = RESERVE_BYTES) -> None:
        """Raise `ValueError`, with the numbers, where the weights leave no room for K and V."""
        if self._room(share, reserve) <= 0:
            held = self.device.memory_bytes * share - reserve
            raise ValueError(
                f"{self.model.name} in {self.weights} puts {self.device_weight_bytes / 1e9:,.1f} "
                f"GB of weights on each of {self.devices} {self.device.title}, which has "
                f"{held / 1e9:,.1f} GB for weights and KV: take more devices (tp={self.tp}, "
                f"pp={self.pp}) or a smaller format."
            )

    def kv_tokens(
        self,
        context: float = 4096.0,
        share: float = MEMORY_SHARE,
        reserve: float = RESERVE_BYTES,
    ) -> float:
        """Tokens of context that the KV pool of the whole replica holds.

        `context` is the mean length of a sequence: where layers have windows,
        longer ones keep less for each token. `share` of the device's memory is used,
        `reserve` bytes of that for neither weights nor KV. Raises `ValueError`
        as `check_fits`.
        """
        self.check_fits(share, reserve)
        # MLA and heads too few to cut are kept by several devices, which kv_bytes knows.
        per_token = self.model.kv_bytes(context, self.kv, self.tp) / self.pp / context
        return self.dp * self._room(share, reserve) / per_token

    def _room(self, share: float, reserve: float) -> float:
        return self.device.memory_bytes * share - reserve - self.device_weight_bytes

    @property
    def _heads(self) -> list[int]:
        kinds = [layer.attention for layer in self.model.layers]
        return [kind.key_heads if isinstance(kind, Linear) else kind.heads for kind in kinds]


def expert_bytes(model: Architecture, weights: str, tokens: float | None = None) -> float:
    """Bytes of the routed experts: all, or those that a step over so many tokens reads."""
    width, total = width_of(weights, "weights"), 0.0
    for layer in model.layers:
        ffn = layer.ffn
        if isinstance(ffn, Moe):
            idle = 0.0 if tokens is None else (1 - ffn.active / ffn.experts) ** tokens
            total += layer.count * 3 * model.hidden * ffn.width * ffn.experts * (1 - idle)
    return width * total
