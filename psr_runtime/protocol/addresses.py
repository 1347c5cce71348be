"""Where a process listens: at one address, or at every one of its machine, of both families.

A pod has addresses of IPv4, of IPv6, or of both, as its cluster has. Nobody asks which.
"""

from __future__ import annotations

import errno
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

EVERYWHERE = ("", "0.0.0.0", "::")
"""Hosts that stand for every address of the machine; each of them means both families."""
ONLY_IPV6 = Path("/proc/sys/net/ipv6/bindv6only")


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: an address, or one of `EVERYWHERE`.
        port: 0 for any that is free.

    Raises:
        OSError: the port is in use, or the address is not this machine's.
    """
    if host in EVERYWHERE:
        if socket.has_dualstack_ipv6():
            try:
                return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
            except OSError as error:
                if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    raise
        host = "0.0.0.0"
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def http_server(host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> ThreadingHTTPServer:
    """An HTTP server that listens; arguments and errors are those of `listening`."""
    listener = listening(host, port)
    server = ThreadingHTTPServer((host, port), handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.server_address = listener.getsockname()
    server.server_name, server.server_port = host, server.server_address[1]
    return server


def for_others(host: str) -> str:
    """The host to give to a program that binds a socket itself: one that means both families to it, too."""
    if host not in EVERYWHERE or not socket.has_dualstack_ipv6():
        return host
    try:
        with listening("::", 0):
            both = ONLY_IPV6.read_text().strip() == "0"
    except OSError:
        return host
    return "::" if both else host
