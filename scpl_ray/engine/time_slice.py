"""For how long a thread that computes keeps its core before others that wait for one get it.

Linux gives each some 3 ms. Where stages share cores, each then finds its caches cold again and
again; what is short of work (Ray's own threads, a shell) gets a core at once all the same, for its
slice is shorter. Python's `os` has the policy and the priority of a thread, but not its slice, and
psutil neither: so the system is called here by hand.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

_NUMBERS = {"x86_64": 314, "aarch64": 274}
"""Of the system call sched_setattr."""

# size, policy, flags, nice, priority, runtime, deadline, period
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")


def set_time_slice(milliseconds: float) -> bool:
    """Sets the slice of the thread that calls; threads that it starts have the same.

    Args:
        milliseconds: from 0.1 to 100.

    Returns:
        Whether the system took it. Linux before 6.12 takes it and does as before.
    """
    number = _NUMBERS.get(platform.machine())
    if sys.platform != "linux" or number is None:
        return False
    policy = os.sched_getscheduler(0)
    if policy not in (os.SCHED_OTHER, os.SCHED_BATCH):
        return False
    nice, runtime = os.getpriority(os.PRIO_PROCESS, 0), int(milliseconds * 1e6)
    given = _ATTRIBUTES.pack(_ATTRIBUTES.size, policy, 0, nice, 0, runtime, 0, 0)
    return bool(ctypes.CDLL(None).syscall(ctypes.c_long(number), 0, given, 0) == 0)
