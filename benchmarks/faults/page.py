"""docs/guarantees.md: the promises, their tests, and the figures that a results file holds."""

import pathlib

from benchmarks.faults.promises import SECTIONS, Promise
from benchmarks.figures import made, read

HEAD = """# What is promised, and which test shows it?

Written by `python -m benchmarks.faults --part=page`. Each promise names the tests that show it. A
bullet below a promise is a figure of a longer trial (`python -m benchmarks.faults`). Nothing here
was tried on TPU hardware. {made}

"""
TAIL = """## What is not promised?

- Bits agree between two runs on the same machine, software and device layout, with
  `strategy.deterministic`. Another CPU or GPU model, another number of replicas or another version
  of TensorFlow rounds differently: embeddings differ in their last digits, and the selection may
  differ where scores are that close to the cut. The order of the data and the random draws do not
  depend on the machine or the number of hosts.
- A machine that loses power may lose what its disk had acknowledged without writing. What is read
  back is checked; the last checkpoint may be an earlier one.
- An exported model is a program. Its operations are checked before it is loaded, but a graph that
  only computes may still compute for ever. Checkpoints and caches hold numbers only.
- The reader does not notice damage that leaves a record readable, for example a wrong caption.
"""


def write(results: pathlib.Path, page: pathlib.Path) -> None:
    """Writes the page."""
    page.write_text(text(results), encoding="utf-8")


def text(results: pathlib.Path) -> str:
    """The page for a results file. A figure that was not measured yet is said to be so."""
    known = {line["figure"]: line for line in read(results)}
    sections = [
        f"## {title}\n\n" + "\n".join(_promise(promise, known) for promise in promises)
        for title, promises in SECTIONS.items()
    ]
    head = HEAD.format(made=made(known.values(), results))
    return head + "\n\n".join(sections) + "\n\n" + TAIL


def _promise(promise: Promise, known: dict) -> str:
    tests = ", ".join(f"`{test}`" for test in promise.tests)
    lines = [f"- {promise.text}", f"  Tests: {tests}."]
    return "\n".join(lines + [f"  - {_figure(name, known)}" for name in promise.figures])


def _figure(name: str, known: dict) -> str:
    if name not in known:
        return f"`{name}`: not measured yet."
    line = known[name]
    value = f"{line['value']:,} {line['unit']}".strip()
    context = f"; {line['context']}" if "context" in line else ""
    return f"`{name}`: **{value}** (goal: {line['goal']}){context}."
