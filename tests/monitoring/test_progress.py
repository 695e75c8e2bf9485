"""The progress line: numbers against hand-made ones, a bounded rate, terminals and files."""

import io

import pytest

from jest_tf.monitoring.progress import RATE_SECONDS, Progress, duration, short_number


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
    assert written.split("\n")[0].endswith("\rsaved a checkpoint")


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
