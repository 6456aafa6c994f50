"""One checkpoint in, a cheaper one out: quantized, pruned, distilled.

Everything works on a `Checkpoint` in memory and on `forward`, the model as a plain
differentiable function of its named tensors. What comes out is a directory in
Hugging Face layout again. What it cost is measured in the engine that serves it.
"""
