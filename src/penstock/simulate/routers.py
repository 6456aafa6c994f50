"""The router that a fleet file names."""

from __future__ import annotations

from penstock.schedule import routing
from penstock.simulate.fleet import Routing


def router(how: Routing, seed: int, pages: int, page_tokens: int) -> routing.Router:
    """A new router of that kind, over replicas of so many KV pages of so many tokens."""
    match how.policy:
        case "round-robin":
            return routing.RoundRobin()
        case "random":
            return routing.AtRandom(seed)
        case "least-loaded":
            return routing.LeastLoaded()
        case "power-of-two":
            return routing.PowerOfTwo(seed)
        case "session":
            return routing.BySession()
        case "prefix":
            guess = pages if how.cache_tokens is None else how.cache_tokens // page_tokens
            return routing.PrefixAware(max(1, guess), how.load_tokens)
        case "kv":
            return routing.KvAware(how.load_tokens)
