"""The real clock: from a plan to tensors, from logits to tokens."""

import os

# By default the OpenMP threads under PyTorch spin while they wait for each
# other. When anything else wants the processor (here the HTTP server and a
# client do) a spinning thread keeps its partner from running, and a step takes
# ten times as long. Only heard if it comes before PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
