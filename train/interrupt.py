"""Ctrl-C and SIGTERM as a flag that the loop looks at between steps, on all processes at the same one."""

import signal
import threading
from types import FrameType
from typing import Self

from parallel import is_distributed, publish_once, published

# Steps from the one at which a process saw a signal to the one at which all stop. A host goes on from step n once n - 2
# is complete, and a step is complete once all hosts dispatched it: who looks after step s + 3 does so after the process
# with the signal dispatched s + 1, which it did after publishing.
_NOTICE = 3


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

    def agreed(self, step: int) -> int:
        """The signal for which all processes stop after this step, or 0; each calls it once after each step."""
        if not is_distributed():
            return self.signum  # looked at once, so that what is said and what is saved agree
        if self.signum:
            publish_once("stop", f"{step + _NOTICE} {self.signum}")
        at, _, signum = published("stop").partition(" ")
        return int(signum) if signum and step >= int(at) else 0

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signum = number
        self.__exit__()

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
