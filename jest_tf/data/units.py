"""Units of work in an Apache Beam pipeline, in place of threads of this process.

What is done for a unit follows from its number, and its files are put in place whole. So it does
not matter who does a unit, nor how often, and a rerun does those whose files are missing. Workers
see the same paths: inputs and output lie on storage that they share.
"""

import collections
import functools
import json
import os
import pkgutil
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, NamedTuple

from jest_tf.errors import UserError, explaining
from jest_tf.files import parse_json

RUNNERS = ("DirectRunner", "FlinkRunner", "SparkRunner", "DataflowRunner", "PrismRunner")
KEPT = "Units that are done are kept: the same command goes on from there."
AHEAD = 32
HELD, HELD_BYTES = 64, 1 << 24  # items that are held together, at most
_LOCK = threading.Lock()


class Beam(NamedTuple):
    """A runner of Beam, and the options that follow `--`, as Beam documents them."""

    runner: str
    options: tuple[str, ...] = ()


def runner_flag(flag: Callable) -> Any:
    """Defines --runner; `flag` is that of `cli.own_flags`."""
    text = "Do the units in an Apache Beam pipeline; options of Beam follow --."
    return flag("enum", "runner", None, text, enum_values=list(RUNNERS))


def beam_of(argv: Sequence[str], runner: str | None) -> tuple[list[str], Beam | None]:
    """(argv without Beam's options, Beam if --runner is given).

    UserError: options without a runner, or Beam is not installed.
    """
    # Flags of our own are gone: what still looks like one stood behind `--`.
    at = next((i for i, word in enumerate(argv) if word.startswith("--")), len(argv))
    if not runner:
        if argv[at:]:
            raise UserError(
                f"{argv[at]} is an option of Beam, which needs --runner, e.g. --runner={RUNNERS[0]}"
            )
        return list(argv), None
    with explaining(
        ImportError,
        f"--runner={runner} needs Apache Beam, which is not installed ({{error}}): pip "
        "install 'jest_tf[beam]', in an environment of its own (docs/your_data.md)",
    ):
        import apache_beam  # noqa: F401
    return list(argv[:at]), Beam(runner, tuple(argv[at:]))


def run(
    beam: Beam | None,
    opener: str,
    arguments: dict,
    left: Callable[[], Sequence[int]],
    here: Callable[[Sequence[int]], None],
) -> None:
    """Does the units that are `left`, without their files: by `here` in this process, or by `beam`.

    opener: `module:function`. Each worker calls it once, with `arguments` (JSON), and gets what
    does the unit of a number. UserError: the pipeline failed, or wrote to other storage.
    """
    todo = left()
    if not beam:
        here(todo)
        return
    if not todo:
        return
    import apache_beam
    from apache_beam.options.pipeline_options import PipelineOptions

    options = PipelineOptions([f"--runner={beam.runner}", *beam.options])
    hook, threading.excepthook = threading.excepthook, _ends_with_its_worker
    told = explaining(Exception, f"--runner={beam.runner}: {{error}} {KEPT}", _reason)
    try:
        with told, apache_beam.Pipeline(options=options) as pipeline:  # each raises its own types
            units = pipeline | apache_beam.Create(list(todo)) | apache_beam.Reshuffle()
            _ = units | apache_beam.Map(do, opener, json.dumps(arguments))
    finally:
        threading.excepthook = hook
    if lost := left():
        raise UserError(
            f"--runner={beam.runner} is done, but nothing of {len(lost):,} units is seen here. All "
            "workers must write to the same --out as this machine reads: shared storage or gs://."
        )


def in_order(
    pool: futures.Executor, work: Callable, items: Iterable, ahead: int = AHEAD
) -> Iterator:
    """`pool.map`, but at most `ahead` results are held, also where one takes long."""
    waiting = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) == ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for job in waiting:
            job.cancel()


def together(items: Iterable, n_bytes: Callable[[Any], int]) -> Iterator[list]:
    """The items in lists that are short enough to be held; n_bytes: of one.

    What came before an error is given before it is raised.
    """
    held, size, error = [], 0, None
    try:
        for item in items:
            held.append(item)
            size += n_bytes(item)
            if len(held) == HELD or size > HELD_BYTES:
                yield held
                held, size = [], 0
    except Exception as raised:
        error = raised
    if held:
        yield held
    if error:
        raise error


def do(index: int, opener: str, arguments: str) -> None:
    """Does one unit; in a worker."""
    with _LOCK:
        unit = _opened(opener, arguments)
    unit(index)


@functools.lru_cache(1)
def _opened(opener: str, arguments: str) -> Callable[[int], None]:
    return pkgutil.resolve_name(opener)(**parse_json(arguments))


def _reason(error: Exception) -> str:
    """Our own message where a unit raised one, else the first lines of Beam's."""
    text = str(error)
    own = re.search(r"UserError: (.+?)(?: \[while running|\n\n|$)", text, re.DOTALL)
    return own[1] if own else text.partition(" [while running")[0][:600] or type(error).__name__


def _ends_with_its_worker(event) -> None:
    """The DirectRunner waits for ever for a worker process that was killed: this one ends then."""
    if event.thread is None or event.thread.name != "run_worker":
        threading.__excepthook__(event)
        return
    print(f"error: --runner=DirectRunner: {event.exc_value}. {KEPT}", file=sys.stderr, flush=True)
    os._exit(2)
