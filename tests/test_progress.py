"""The progress line: numbers against hand-made ones, a bounded rate, terminals and files."""

import io
from concurrent import futures

import pytest

from jest_tf.progress import RATE_SECONDS, Counter, Progress, duration, short_number


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(progress, clock, steps, seconds_per_step=1.0):
    lines = []
    for step in steps:
        clock.now += seconds_per_step
        lines.append(
            progress.update(
                step, examples_scored=640 * step, examples_trained=128 * step, flops=1.5e12 * step
            )
        )
    return lines


def test_a_line_says_what_was_done_and_what_is_left():
    clock = Clock()
    progress = Progress(2000, stream=io.StringIO(), clock=clock, min_seconds=0)
    first, line = run(progress, clock, [1, 2], seconds_per_step=0.5)
    assert first == "step 1/2,000 0%  1.5TFLOP"
    assert line == "step 2/2,000 0%  scored 1.28k/s  trained 256/s  3TFLOP  ETA 16m 39s"


def test_values_are_shown():
    progress = Progress(10, stream=io.StringIO(), clock=Clock())
    line = progress.update(
        5, examples_scored=1, examples_trained=1, flops=0, values={"loss": 3.21987, "lr": 1e-4}
    )
    assert line == "step 5/10 50%  loss 3.22  lr 0.0001  0FLOP"


def test_a_policy_that_scores_nothing_does_not_speak_of_it():
    clock = Clock()
    progress = Progress(10, stream=io.StringIO(), clock=clock, min_seconds=0)
    for step in (1, 2):
        clock.now += 1
        line = progress.update(step, examples_scored=0, examples_trained=128 * step, flops=0)
    assert line == "step 2/10 20%  trained 128/s  0FLOP  ETA 8s"


def test_speed_and_eta_of_a_resumed_run_leave_out_its_past():
    clock = Clock()
    progress = Progress(1100, stream=io.StringIO(), clock=clock, min_seconds=0)
    assert run(progress, clock, [1001, 1002])[-1].endswith("ETA 1m 38s")


def test_speed_follows_a_slowdown():
    clock = Clock()
    progress = Progress(10_000, stream=io.StringIO(), clock=clock, min_seconds=0)
    run(progress, clock, range(1, 501), seconds_per_step=0.1)
    last = run(progress, clock, range(501, 541), seconds_per_step=3 * RATE_SECONDS / 60)[-1]
    assert "trained 42.7/s" in last  # 128 / 3


def test_lines_come_at_a_bounded_rate_and_the_last_always():
    clock, stream = Clock(), io.StringIO()
    run(Progress(1000, stream=stream, clock=clock), clock, range(1, 1001), 0.1)
    lines = stream.getvalue().splitlines()
    assert 10 <= len(lines) <= 12
    assert lines[-1].startswith("step 1,000/1,000 100%")
    assert "\r" not in stream.getvalue()


def test_a_terminal_rewrites_one_line():
    clock, stream = Clock(), Terminal()
    progress = Progress(10, stream=stream, clock=clock)
    run(progress, clock, [1, 2, 3])
    progress.note("saved a checkpoint")
    run(progress, clock, [4, 10])
    written = stream.getvalue()
    assert written.count("\n") == 2
    assert written.endswith("ETA 0s\n")
    assert written.split("\n")[0].endswith("\r\x1b[Ksaved a checkpoint")


def test_close_ends_an_unfinished_line():
    clock, stream = Clock(), Terminal()
    progress = Progress(10, stream=stream, clock=clock)
    run(progress, clock, [1])
    progress.close()
    progress.close()
    assert stream.getvalue().endswith("FLOP\n")


def test_a_clock_that_stands_still_divides_nothing_by_zero():
    clock = Clock()
    progress = Progress(10, stream=io.StringIO(), clock=clock, min_seconds=0)
    assert "ETA" not in run(progress, clock, [1, 2], seconds_per_step=0.0)[-1]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (950, "950"), (999.6, "1k"), (1234, "1.23k"), (45.6e6, "45.6M"), (7e18, "7E")],
)
def test_short_number(value, text):
    assert short_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.6, "1m 00s"), (307, "5m 07s"), (11_100, "3h 05m"), (187_200, "2d 04h")],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def count(counter, clock, n, seconds=1.0, **more):
    for _ in range(n):
        clock.now += seconds
        counter.add(**more)


def test_a_counter_says_how_many_how_fast_and_how_long():
    clock, stream = Clock(), io.StringIO()
    with Counter("embedding", 1600, stream=stream, clock=clock) as counter:
        count(counter, clock, 640, 1 / 64)
        counter.add(320)
        count(counter, clock, 640, 1 / 16)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "embedding: 640/1,600 records 40%  64/s  15s left"
    assert lines[-1] == "embedding: 1,600/1,600 records 100%  32/s  0s left"
    assert len(lines) == 5  # every ten seconds


def test_a_counter_of_short_work_says_nothing():
    clock, stream = Clock(), io.StringIO()
    with Counter("reading", 3, stream=stream, clock=clock) as counter:
        count(counter, clock, 3)
    assert stream.getvalue() == ""


def test_a_counter_may_count_other_things_and_know_no_total():
    clock, stream = Clock(), io.StringIO()
    with Counter("prepare", 4, "units", stream=stream, clock=clock, min_seconds=0) as counter:
        clock.now += 10
        counter.add(0, records=50)
        clock.now += 10
        counter.add(1, records=50)
    with Counter("captions", 0, "read", stream=stream, clock=clock, min_seconds=0) as counter:
        count(counter, clock, 1, 0.5)
    assert stream.getvalue().splitlines() == [
        "prepare: 0/4 units 0%  50 records  5/s",
        "prepare: 1/4 units 25%  100 records  5/s  1m 00s left",
        "captions: 1 read  2/s",
    ]


def test_a_counter_on_a_terminal_rewrites_its_line_and_ends_it(monkeypatch):
    monkeypatch.setenv("COLUMNS", "31")
    clock, stream = Clock(), Terminal()
    with Counter("embedding", 10, stream=stream, clock=clock) as counter:
        assert list(counter.over(_ticking(clock, 4))) == [0, 1, 2, 3]
    written = stream.getvalue()
    assert written.count("\n") == 1 and written.endswith("\n")
    lines = [line.removeprefix("\x1b[K") for line in written.strip().split("\r")]
    assert lines[-1] == "embedding: 4/10 records 40%  1"  # as wide as the terminal, less one


def _ticking(clock, n):
    for i in range(n):
        clock.now += 1
        yield i


def test_threads_lose_no_count():
    stream = io.StringIO()
    counter = Counter("x", 8000, unit="files", stream=stream, min_seconds=0)
    with futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [counter.add(1, records=2) for _ in range(1000)], range(8)))
    last = stream.getvalue().splitlines()[-1]
    assert last.startswith("x: 8,000/8,000 files 100%  16,000 records")
