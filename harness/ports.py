"""Free ports of 127.0.0.1 for servers of tests and benchmarks.

They lie below the range from which the kernel gives ports to outgoing connections, so none is taken between being
named here and being listened on. Every worker of pytest-xdist has a range of its own, and no process names one twice.
"""

from __future__ import annotations

import os
import random
import socket

FIRST, LAST = 10_240, 32_000
WORKERS = 16
"""Workers with a range of their own."""


def free_ports(count: int) -> list[int]:
    """So many ports, each one more than the one before, that nobody listens on now.

    Raises:
        OSError: this process has named its whole range, or everything in it is in use.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = next(_untried, None)
        if port is None:
            raise OSError(f"found no {count} free ports in a row")
        if not _is_free(port):
            ports = []
        elif ports and port != ports[-1] + 1:
            ports = [port]
        else:
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as tried:
        try:
            tried.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _range_of_this_process() -> list[int]:
    """Its ports in order, from a random one on: another session of tests may be on this machine."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
    size = (LAST - FIRST) // WORKERS
    ports = list(range(FIRST + worker * size, FIRST + (worker + 1) * size))
    start = random.SystemRandom().randrange(size)
    return ports[start:] + ports[:start]


_untried = iter(_range_of_this_process())
