"""Ports that tests listen on: in a row, named once, none that the kernel gives to outgoing connections."""

from __future__ import annotations

import socket
from pathlib import Path

from harness.ports import LAST, free_ports


def test_ports_are_in_a_row_and_named_once() -> None:
    first, second = free_ports(5), free_ports(2)
    assert first == list(range(first[0], first[0] + 5))
    assert second[1] == second[0] + 1
    assert not set(first) & set(second)


def test_a_port_in_use_is_passed_over() -> None:
    (before,) = free_ports(1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", before + 1))
        assert before + 1 not in free_ports(2)


def test_they_lie_below_those_of_outgoing_connections() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert lowest >= LAST
