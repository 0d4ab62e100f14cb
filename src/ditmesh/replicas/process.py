"""A rank as a process of the local engine: ``python -m ditmesh.replicas.process CONNECTION STORE``, two descriptors."""

import os
import pickle
import signal
import sys
import threading
from multiprocessing.connection import Connection

from ditmesh.replicas.rank import Rank
from ditmesh.runtime.launch import die_with_parent
from ditmesh.runtime.world import World


def main() -> None:
    """Be a rank until the supervisor is gone, or until this rank can draw no more."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the supervisor decides what is to end
    handles = [int(handle) for handle in sys.argv[1:]]
    for handle in handles:
        os.set_inheritable(handle, False)  # else a process that this one starts keeps the connection open
    connection = Connection(handles[0])
    try:
        job = pickle.loads(connection.recv_bytes())
    except EOFError:
        os._exit(1)  # the supervisor was gone before this process could ask to die with it
    world = World.read(os.environ)
    rank = Rank(job, world, connection.send_bytes)

    def listen() -> None:
        try:
            while True:
                rank.take(connection.recv_bytes())
        except (EOFError, OSError):
            os._exit(1)  # the supervisor is gone

    threading.Thread(target=listen, daemon=True).start()
    from ditmesh.runtime.store import serve_store  # with it comes torch, and meanwhile the rank says that it lives

    store = serve_store(handles[1]) if world.size > 1 and world.rank == 0 else None
    rank.run()
    del store
    # Not through the interpreter's shutdown: a communicator whose peers still wait can hang there.
    os._exit(1)


if __name__ == "__main__":
    main()
