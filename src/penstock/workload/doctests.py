"""Generated doctests: small questions with one right answer, in five grades.

    >>> 37 + 58
    95

The prompt ends where the interpreter would answer, so any model that continues
text can sit the test, and any target can be asked "how many *right* answers per
second". Expressions are made by a seeded generator and answered by Python
itself. As with modules, a hash of the expression decides which may be trained on.

Grade 1 asks for one trivial thing, grade 2 for two digits or an index, grade 3
for slices, sorting and carries, grade 4 for comprehensions, reversal and three
digits, grade 5 for two operations in one or for long numbers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from random import Random

from penstock.workload.stdlib import Split

GRADES = (1, 2, 3, 4, 5)
HELD_OUT_SHARE = 0.1

_WORDS = (  # noqa: SIM905, a list literal would take ninety lines
    "spam eggs ham bread apple pear plum lemon cherry banana orange grape red green blue black "
    "white yellow dog cat mouse horse cow duck bird fish tree leaf root stone river lake hill "
    "python snake lion tiger zebra house door window table chair lamp cup plate spoon knife "
    "one two three four five six seven eight nine ten left right north south east west start "
    "stop open close read write run walk jump sing play work rest name key value item list word "
    "line page book file path node edge point size width height depth count index total sum"
).split()


@dataclass(frozen=True, slots=True)
class Task:
    """One question and its answer, each exactly one line."""

    grade: int
    expression: str
    answer: str

    @property
    def prompt(self) -> str:
        """What is shown to a model: it must go on with the answer."""
        return f">>> {self.expression}\n"

    @property
    def text(self) -> str:
        """Question and answer as they stand in a docstring."""
        return f"{self.prompt}{self.answer}\n"

    def is_right(self, continuation: str) -> bool:
        """Whether the first line of a continuation is the answer."""
        return continuation.partition("\n")[0].rstrip() == self.answer


def is_held_out(expression: str) -> bool:
    """Whether this expression is kept from training."""
    digest = blake2b(expression.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < HELD_OUT_SHARE * 2**64


def tasks(seed: int | str, split: Split, grades: Sequence[int] = GRADES) -> Iterator[Task]:
    """An endless stream of tasks of one split, grades mixed evenly; equal seeds, equal streams."""
    rng = Random(seed)
    while True:
        grade = rng.choice(grades)
        expression = rng.choice(_MAKERS[grade])(rng)
        if is_held_out(expression) == (split == "held_out"):
            # The expression is our own, made above from literals and builtins.
            yield Task(grade, expression, repr(eval(expression)))


def few_shot(task: Task, shots: int = 4) -> str:
    """The prompt of `task` after `shots` answered train tasks of its own grade.

    The shots depend on the task alone, so a prompt is the same in every run.
    """
    examples = islice(tasks(task.expression, "train", [task.grade]), shots)
    return "".join(example.text for example in examples) + task.prompt


def document(rng: Random, split: Split = "train") -> str:
    """Several tasks in a row, laid out as a session, a docstring or a module's tests."""
    grades = GRADES if rng.random() < 0.5 else [rng.choice(GRADES)]
    chosen = list(islice(tasks(rng.getrandbits(64), split, grades), rng.randint(4, 16)))
    if rng.random() < 0.6:
        return "".join(task.text for task in chosen)
    gap = rng.choice(("", "\n"))
    body = gap.join(task.text for task in chosen)
    return rng.choice(_LAYOUTS)(rng, body)


def _in_function(rng: Random, body: str) -> str:
    name, argument = rng.sample(_WORDS, 2)
    return (
        f"def {name}({argument}):\n"
        f'    """{rng.choice(_TITLES)}.\n\n{_indented(body)}    """\n'
        f"    return {argument}\n"
    )


def _in_class(rng: Random, body: str) -> str:
    name = rng.choice(_WORDS).capitalize()
    return f'class {name}:\n    """{rng.choice(_TITLES)}.\n\n{_indented(body)}    """\n'


def _in_module(rng: Random, body: str) -> str:
    return (
        f'"""{rng.choice(_TITLES)}:\n\n{body}"""\n\n'
        'if __name__ == "__main__":\n    import doctest\n    doctest.testmod()\n'
    )


def _in_prose(rng: Random, body: str) -> str:
    return f"{rng.choice(_TITLES)}:\n\n{_indented(body)}\n"


def _indented(body: str) -> str:
    return "".join(f"    {line}" if line.strip() else line for line in body.splitlines(True))


_LAYOUTS = (_in_function, _in_class, _in_module, _in_prose)
_TITLES = (
    "Some examples",
    "Simple tests of the built-in types",
    "For example",
    "Check that numbers and strings work",
    "Try this at the prompt",
    "A few doctests",
)


def _word(rng: Random) -> str:
    return rng.choice(_WORDS)


def _digits(rng: Random, low: int, high: int, top: int = 9) -> list[int]:
    return [rng.randint(0, top) for _ in range(rng.randint(low, high))]


def _numbers(low: int, high: int, operators: str) -> Callable[[Random], str]:
    """A sum (or the like) of two numbers between `low` and `high`."""

    def make(rng: Random) -> str:
        a, b = rng.randint(low, high), rng.randint(low, high)
        return f"{a} {rng.choice(operators.split())} {b}"

    return make


def _call(functions: str, low: int, high: int, top: int = 9) -> Callable[[Random], str]:
    """A function of a list of `low` to `high` numbers."""
    return lambda r: f"{r.choice(functions.split())}({_digits(r, low, high, top)})"


def _method(methods: str) -> Callable[[Random], str]:
    """A method of a word that takes no argument."""
    return lambda r: f"{_word(r)!r}.{r.choice(methods.split())}()"


def _membership(rng: Random) -> str:
    return f"{rng.randint(0, 9)} in {_digits(rng, 2, 4)}"


def _index(rng: Random) -> str:
    return f"{_word(rng)!r}[{rng.choice((0, 1, 2, -1))}]"


def _cut(rng: Random) -> str:
    start = rng.randint(0, 2)
    return f"{_word(rng)!r}[{rng.choice((f'{start}:', f':{start + 1}', f'{start}:{start + 2}'))}]"


def _list_cut(rng: Random) -> str:
    return f"{_digits(rng, 4, 6)}[{rng.choice(('1:', ':2', ':-1', '-2:', '1:3', '::2'))}]"


def _split(rng: Random) -> str:
    separator = rng.choice((" ", ",", "-"))
    argument = "" if separator == " " else repr(separator)
    return f"{separator.join(rng.sample(_WORDS, rng.randint(2, 3)))!r}.split({argument})"


def _join(rng: Random) -> str:
    return f"{rng.choice((' ', ', ', '-'))!r}.join({rng.sample(_WORDS, rng.randint(2, 4))})"


def _replace(rng: Random) -> str:
    word = _word(rng)
    return f"{word!r}.replace({rng.choice(word)!r}, {rng.choice('aeiouxyz')!r})"


def _letter(method: str) -> Callable[[Random], str]:
    """A method of a word that takes one of its letters."""

    def make(rng: Random) -> str:
        word = _word(rng)
        return f"{word!r}.{method}({rng.choice(word)!r})"

    return make


def _prefix(rng: Random) -> str:
    word, other = _word(rng), _word(rng)
    return f"{word!r}.startswith({rng.choice((word, other))[: rng.randint(1, 2)]!r})"


def _lookup(rng: Random) -> str:
    keys = rng.sample(_WORDS, rng.randint(2, 3))
    return f"{ {key: rng.randint(0, 99) for key in keys} }[{rng.choice(keys)!r}]"


def _comprehension(rng: Random) -> str:
    change = rng.choice(("x + 1", "x * 2", "x - 1", "x * x", "x + 10", "-x"))
    return f"[{change} for x in {_digits(rng, 2, 4)}]"


def _filter(rng: Random) -> str:
    test = rng.choice((f"x > {rng.randint(2, 6)}", f"x < {rng.randint(3, 7)}", "x % 2 == 0"))
    return f"[x for x in {_digits(rng, 4, 6)} if {test}]"


def _reverse(rng: Random) -> str:
    return f"{_word(rng)!r}[::-1]"


def _precedence(rng: Random) -> str:
    a, b, c = (rng.randint(2, 12) for _ in range(3))
    plus = rng.choice("+-")
    return rng.choice((f"{a} {plus} {b} * {c}", f"{a} * {b} {plus} {c}", f"({a} {plus} {b}) * {c}"))


def _nested(rng: Random) -> str:
    outer, inner = rng.sample(("max", "min", "sum", "len"), 2)
    return f"{outer}({_digits(rng, 2, 4)}) + {inner}({_digits(rng, 2, 4)})"


def _top(rng: Random) -> str:
    return f"sorted({_digits(rng, 4, 6, 20)}, reverse=True)[:{rng.randint(2, 3)}]"


def _words_sorted(rng: Random) -> str:
    return f"sorted({rng.sample(_WORDS, rng.randint(3, 4))})"


def _zip(rng: Random) -> str:
    word = _word(rng)[:3]
    return f"list(zip({word!r}, {_digits(rng, len(word), len(word))}))"


def _words_mapped(rng: Random) -> str:
    change = rng.choice(("len(w)", "w.upper()", "w[0]", "w[-1]"))
    return f"[{change} for w in {rng.sample(_WORDS, rng.randint(2, 4))}]"


_MAKERS: dict[int, list[Callable[[Random], str]]] = {
    1: [
        _numbers(0, 9, "+ + -"),
        _numbers(0, 9, "== < >"),
        lambda r: f"{_word(r)!r} + {_word(r)!r}",
        _method("upper"),
        lambda r: f"{_digits(r, 1, 2)} + {_digits(r, 1, 2)}",
        lambda r: f"len({_digits(r, 1, 4)})",
        lambda r: f"not {r.choice((True, False))}",
    ],
    2: [
        _numbers(10, 99, "+ -"),
        _numbers(2, 9, "*"),
        _numbers(10, 99, "== < > >= !="),
        _call("max min", 2, 4),
        lambda r: f"len({_word(r)!r})",
        _index,
        _membership,
        _method("capitalize upper isdigit isalpha title"),
        lambda r: f"{_word(r)!r} * {r.randint(2, 3)}",
        lambda r: f"{_word(r)!r} == {_word(r)!r}",
        lambda r: f"list(range({r.randint(2, 9)}))",
    ],
    3: [
        _numbers(2, 20, "*"),
        lambda r: f"{r.randint(10, 99)} {r.choice(('%', '//'))} {r.randint(2, 9)}",
        lambda r: " + ".join(str(r.randint(1, 30)) for _ in range(3)),
        _call("sorted sum", 3, 5),
        _call("max min", 4, 6, 99),
        _cut,
        _list_cut,
        _split,
        _replace,
        _prefix,
        lambda r: f"list(range({r.randint(1, 5)}, {r.randint(6, 12)}))",
        lambda r: f"{_word(r)!r} < {_word(r)!r}",
    ],
    4: [
        _numbers(100, 999, "+ -"),
        _comprehension,
        _reverse,
        _join,
        _lookup,
        _letter("count"),
        _letter("find"),
        _words_sorted,
        lambda r: f"list(reversed({_digits(r, 3, 5)}))",
        lambda r: f"divmod({r.randint(10, 99)}, {r.randint(2, 9)})",
        lambda r: f"sum(range({r.randint(3, 12)}))",
    ],
    5: [
        _numbers(1000, 9999, "+ -"),
        _numbers(11, 99, "*"),
        _filter,
        _precedence,
        _nested,
        _top,
        _zip,
        _words_mapped,
        lambda r: f"{_word(r)!r}[::-1].upper()",
        lambda r: f"{' '.join(r.sample(_WORDS, 2))!r}.title()",
        lambda r: f"2 ** {r.randint(2, 12)}",
        lambda r: f"sorted(set({_digits(r, 4, 7)}))",
    ],
}
