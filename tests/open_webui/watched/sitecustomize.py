"""Notes every address that its Python process turns to, a line each, in the file $CONNECTIONS.

Names are noted as they are looked up, addresses as they are connected to. uvloop does both without
Python seeing it, so it is hidden: its users fall back to asyncio's own loop.
"""

import os
import sys

sys.modules["uvloop"] = None
_file = os.open(os.environ["CONNECTIONS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def _note(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        os.write(_file, f"{arguments[1][0]}\n".encode())
    elif event == "socket.getaddrinfo":
        os.write(_file, f"{arguments[0]}\n".encode())


sys.addaudithook(_note)
