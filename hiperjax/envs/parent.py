"""Worker processes that do not outlive the process that started them."""

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""From the kernel's prctl.h."""


def end_with_parent() -> None:
    """Have the kernel end this process with the one that started it, whatever it is stuck in.

    Elsewhere than on Linux a worker ends when it next looks at its pipe.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError, AttributeError):  # a C library without it
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # it died meanwhile
        os._exit(1)
