"""Penstock: raise, measure and plan the tokens per second of LLM serving."""

__version__ = "0.1.0"
