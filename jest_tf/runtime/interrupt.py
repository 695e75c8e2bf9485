"""SIGTERM and Ctrl-C as a flag that the loop reads between host loops of steps.

`jest_tf.train` lists the exit codes. Among several worker processes a signal to one stops all, with
the same code.
A second Ctrl-C does not wait: KeyboardInterrupt, nothing is saved beyond the last checkpoint.
"""

import signal
import threading
import types

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interrupt:
    """Context manager; inside, `requested` turns True at the first SIGTERM or SIGINT.

    Handlers are Python's, in the main thread: one host loop bounds the delay. Outside the main
    thread signals are left alone.
    """

    def __init__(self):
        self._signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    @property
    def requested(self) -> bool:
        return self._signal is not None

    @property
    def exit_code(self) -> int:
        """0 when nothing was asked, else 128 + the signal's number, as shells report it."""
        return 0 if self._signal is None else 128 + self._signal

    @property
    def reason(self) -> str:
        """Name of the signal, empty when none came."""
        return "" if self._signal is None else self._signal.name

    def request(self, number: int) -> None:
        """As if the signal had come here: it came to another process of the run."""
        self._signal = self._signal or signal.Signals(number)

    @property
    def signal_number(self) -> int:
        """Number of the signal that came, 0 when none did."""
        return self._signal or 0

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _handle(self, number: int, _frame: types.FrameType | None) -> None:
        number = signal.Signals(number)
        if number == signal.SIGINT and self._signal == signal.SIGINT:
            raise KeyboardInterrupt
        # Nothing is printed here: a handler may run in the middle of another line of output.
        self._signal = self._signal or number
