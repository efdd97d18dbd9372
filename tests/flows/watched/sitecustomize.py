"""Makes each Python process with this on its path log every address beyond loopback it contacts."""

import os
import sys

WATCHED = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
}
HERE = ("127.", "::1", "localhost")


def watch(event, arguments):
    if event not in WATCHED:
        return
    address = arguments[WATCHED[event]]
    host = address[0] if isinstance(address, tuple) else address
    # A Unix socket's address is a path.
    if not host or "/" in str(host) or str(host).startswith(HERE):
        return
    with open(os.environ["WATCHED_LOG"], "a") as log:  # noqa: PTH123
        log.write(f"{' '.join(sys.argv[:4])}: {event} {host}\n")


sys.addaudithook(watch)
