"""Ctrl-C and SIGTERM as a flag that the loop looks at between steps."""

import signal
import threading
from types import FrameType
from typing import Self


class Interrupt:
    """While it is entered, the first SIGINT or SIGTERM is noted; the second has its usual effect.

    Attributes:
        signum: the signal that came, or 0.

    Example:
        with Interrupt() as interrupt:
            while not interrupt.signum: ...
    """

    signum = 0

    def __enter__(self) -> Self:
        self._previous = {}
        if threading.current_thread() is threading.main_thread():  # Python sets handlers only there
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signum = number
        self.__exit__()

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
