"""The server's process: a socket, a supervisor with its replicas, and the application between them."""

import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import uvicorn

from ditmesh.job.description import Job
from ditmesh.replicas.engine import Engine
from ditmesh.replicas.supervisor import Supervisor
from ditmesh.serve.app import build
from ditmesh.serve.desk import Desk
from ditmesh.serve.metrics import Meter
from ditmesh.serve.orders import Orders
from ditmesh.serve.server import Server
from ditmesh.serve.settings import Settings
from ditmesh.serve.store import Store

WAITING = 128  # connections that nobody has taken yet


class Stopping(uvicorn.Server):
    """A server that lets the desk go before it waits for connections: streams of the page never end by themselves."""

    def __init__(self, config: uvicorn.Config, desk: Desk):
        super().__init__(config)
        self.desk = desk

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let a signal stop the server, and nothing else: what comes after it has to happen too."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self.desk.stop()
        await super().shutdown(sockets)


def run(job: Job, settings: Settings, engine: Engine, replicas: range, tell: Callable[[str], None]) -> None:
    """Serve until somebody stops it.

    Args:
        tell: hears where the server listens.

    Raises:
        ValueError: the address is taken, or the folder is another server's.
    """
    with ExitStack() as closing:
        listening = closing.enter_context(listen(settings.host, settings.port))
        store = Store(settings.folder)
        closing.callback(store.close)
        meter = Meter()
        desk, orders = Desk(settings, store, meter), Orders(job, settings)
        server = Server(job, settings, orders, store, desk, meter, store.secret(), time.time())
        supervisor = closing.enter_context(Supervisor(job, engine, replicas, desk.notice, settings.loras))
        closing.callback(supervisor.close, drain=False)
        app = build(server, supervisor, replicas.stop - 1)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=settings.patience
        )
        tell(address(listening))
        Stopping(config, desk).run([listening])


def listen(host: str, port: int) -> socket.socket:
    """A socket of that address.

    Raises:
        ValueError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host.strip("[]"), port), family=family, backlog=WAITING)
    except OSError as error:
        raise ValueError(f"--host {host} --port {port}: {error.strerror}; choose another address.") from error
    # Its connections inherit it; else the body of an answer waits 40 ms for the client to acknowledge the head.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def address(listening: socket.socket) -> str:
    """Where a socket listens, as a URL."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
