"""Whether a claimed speed can be: the claim, its readings, the evidence, the verdict."""
