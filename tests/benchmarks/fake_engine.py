"""A library engine whose behaviour its arguments say: `python -m tests.benchmarks.fake_engine`."""

import time

from benchmarks.peers import library


def load(arguments):
    def generate(load):
        time.sleep(arguments.get("seconds", 0.001) * sum(load.outputs))
        if arguments.get("breaks_at") == len(load.prompts):
            raise RuntimeError("out of luck")
        short = arguments.get("short", 0)
        return [output - short for output in load.outputs]

    print("engines write where they like")
    return {"version": "1.2", "flags": ["fast"], "facts": arguments.get("facts", {})}, generate


if __name__ == "__main__":
    library.answer(load)
