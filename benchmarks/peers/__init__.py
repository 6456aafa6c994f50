"""Engines that people run on a CPU instead of ours, each with its best settings.

A file per engine says how to install it, convert a checkpoint for it, start it
and ask it. An engine without a server is run by the same file inside the
engine's own environment, so what these files import at the top is the
standard library and each other.
"""
