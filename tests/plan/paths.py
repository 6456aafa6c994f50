"""Where data lies that the repository does not hold; tests skip where it is absent."""

import os
from pathlib import Path

DATA = Path(os.environ.get("PENSTOCK_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
PRICES = DATA / "prices" / "llm_api_prices_2026-07-24.csv"
TRACES = DATA / "traces"
