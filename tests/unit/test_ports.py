"""Whose port an engine's is, by the kernel's own tables."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import anyio.to_thread
import pytest

from llm_router.api.exchange import Call
from llm_router.api.upstream import Engines, OutOfFiles, UpstreamError
from llm_router.config.schema import Model
from llm_router.units import ports
from llm_router.units.base import UnitError
from llm_router.units.ports import PortGuard, PortHeld, listeners

pytestmark = pytest.mark.anyio

OTHER = 54321
LISTEN = """
import socket, sys
family, address, port = sys.argv[1:]
one = socket.socket(getattr(socket, family))
if family == "AF_INET6":
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address == "::1")
one.bind((address, int(port)))
one.listen()
print(one.getsockname()[1], flush=True)
sys.stdin.read()
"""


@contextmanager
def listening(
    uid: int | None = None, family: str = "AF_INET", address: str = "127.0.0.1", port: int = 0
) -> Iterator[int]:
    """A process of the account ``uid`` that listens; the port."""
    with subprocess.Popen(
        ["/usr/bin/python3", "-I", "-c", LISTEN, family, address, str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        user=uid,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()


class Accounts:
    """As much of the units as the guard asks."""

    def __init__(self, *accounts: int | None) -> None:
        self.answers = list(accounts)

    async def account(self, _: Model) -> int | None:
        return self.answers.pop(0)


def model(port: int) -> Model:
    return Model(name="m", backend="vllm", service="vllm.service", port=port)


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has other accounts")


@pytest.mark.parametrize(
    ("family", "address", "seen"),
    [
        ("AF_INET", "127.0.0.1", True),
        ("AF_INET", "0.0.0.0", True),
        ("AF_INET6", "::", True),
        ("AF_INET6", "::1", False),
        ("AF_INET", "127.0.0.2", False),
    ],
)
def test_those_are_found_that_a_connection_would_reach(
    family: str, address: str, seen: bool
) -> None:
    with listening(None, family, address) as port:
        assert [one.uid for one in listeners(port)] == [os.geteuid()] * seen
        with socket.socket() as client:
            assert (client.connect_ex(("127.0.0.1", port)) == 0) is seen


def test_a_port_on_which_nobody_listens_has_no_listener() -> None:
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        assert listeners(bound.getsockname()[1]) == []


@as_root
async def test_a_listener_of_another_account_holds_the_port() -> None:
    with listening(OTHER) as port:
        with pytest.raises(PortHeld, match=f"port {port} is held .* {OTHER}, and vllm.service"):
            await PortGuard(Accounts(1000)).check(model(port))  # type: ignore[arg-type]
        assert await PortGuard(Accounts(OTHER)).check(model(port))  # type: ignore[arg-type]
        assert await PortGuard(Accounts(None)).check(model(port)) is None  # type: ignore[arg-type]


@as_root
async def test_the_account_is_asked_for_once_and_again_when_it_does_not_fit() -> None:
    guard = PortGuard(Accounts(1000, OTHER))  # type: ignore[arg-type]
    with listening() as port:  # root's: trusted
        one = await guard.check(model(port))
        assert one == await guard.check(model(port))
    with listening(OTHER) as port:
        assert await guard.check(model(port))


async def test_tables_that_cannot_be_read_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "TABLES", ("/nowhere/tcp",))
    with pytest.raises(UnitError, match="whose port 1 is: /nowhere/tcp: No such file"):
        listeners(1)


async def test_a_connection_is_used_only_if_the_same_listener_was_there_before_and_after() -> None:
    call = Call("GET", "/health", {"authorization": "Bearer key"}, ())
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        for seen in ([{1}, {2}], [{1}, set()], [set(), {1}]):
            answers = [frozenset(one) for one in seen]

            async def guard(answers: list[frozenset[int]] = answers) -> frozenset[int]:
                return answers.pop(0)

            async with Engines() as engines:
                url = f"http://127.0.0.1:{server.getsockname()[1]}"
                with pytest.raises(UpstreamError, match="listener has changed"):
                    await engines.ask(url, call, 5.0, guard)
            taken, _ = server.accept()
            with taken, suppress(ConnectionResetError):
                assert await anyio.to_thread.run_sync(taken.recv, 1000) == b""


async def test_no_free_descriptor_for_the_tables_is_the_routers_own_lack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def guard() -> frozenset[int] | None:
        raise UnitError("it cannot be told whose port 1 is") from OSError(errno.EMFILE, "EMFILE")

    async with Engines() as engines:
        with pytest.raises(OutOfFiles):
            await engines.ask("http://127.0.0.1:1", Call("GET", "/", {}, ()), 5.0, guard)
