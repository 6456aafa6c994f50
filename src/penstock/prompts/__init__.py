"""Prompts made shorter before a model reads them: what a small model finds predictable goes.

Imports no tensor library; the scores come from an engine, in this process or another.
"""
