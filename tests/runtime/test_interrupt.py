"""Signals become a flag; a second Ctrl-C does not wait; handlers are put back."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from jest_tf.runtime.interrupt import Interrupt


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_a_flag_with_the_shells_exit_code(number, exit_code):
    with Interrupt() as interrupt:
        assert not interrupt.requested and interrupt.exit_code == 0 and interrupt.reason == ""
        os.kill(os.getpid(), number)
        assert interrupt.requested
        assert interrupt.exit_code == exit_code
        assert interrupt.reason == number.name


def test_second_ctrl_c_raises():
    with pytest.raises(KeyboardInterrupt), Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested
        os.kill(os.getpid(), signal.SIGINT)


def test_repeated_sigterm_and_ctrl_c_after_it_still_save():
    with Interrupt() as interrupt:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert interrupt.exit_code == 143


def test_previous_handlers_return_also_after_an_error():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(RuntimeError), Interrupt():
        raise RuntimeError
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_outside_the_main_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def body():
        with Interrupt() as interrupt:
            seen.append((signal.getsignal(signal.SIGTERM), interrupt.requested))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


LOOP = """
import sys, time
from jest_tf.runtime.interrupt import Interrupt
with Interrupt() as interrupt:
    print("running", flush=True)
    while not interrupt.requested:
        time.sleep(0.01)
    print("saved", flush=True)
sys.exit(interrupt.exit_code)
"""


def test_a_process_stops_in_order():
    command = [sys.executable, "-c", LOOP]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "running\n"
        process.terminate()
        assert process.communicate(timeout=1200)[0] == "saved\n"
    assert process.returncode == 143
