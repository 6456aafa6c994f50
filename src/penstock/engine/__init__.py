"""The real clock: from a plan to tensors, from logits to tokens."""

import os

# By default the OpenMP threads under PyTorch spin while they wait for each
# other. When anything else wants the processor, as the HTTP server and a client
# do, a spinning thread keeps its partner from running, and a step can take ten
# times as long. Sleeping costs a few microseconds at each hand-over, which only
# small models feel, and those run on one thread (`facts.choose_threads`).
# Only heard if it comes before PyTorch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
