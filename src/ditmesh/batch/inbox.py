"""What becomes of replicas and requests, from the supervisor's thread to the one that keeps the books."""

from queue import Empty, SimpleQueue

from ditmesh.replicas.requests import Event, Failed, Finished, Judged, ReplicaChanged, Retried
from ditmesh.replicas.supervisor import Supervisor

LOOKS = 0.2  # seconds between two looks at the supervisor


class Inbox:
    """The events that the books need, in line."""

    def __init__(self) -> None:
        self._line: SimpleQueue[Finished | Failed | Retried] = SimpleQueue()
        self._judged: SimpleQueue[Judged] = SimpleQueue()
        self._knows = False

    def put(self, event: Event) -> None:
        if isinstance(event, Finished | Failed | Retried):
            self._line.put(event)
        elif isinstance(event, ReplicaChanged) and event.replica.judged is not None and not self._knows:
            self._knows = True
            self._judged.put(event.replica.judged)

    def judged(self, supervisor: Supervisor) -> Judged:
        """What the first rank that has looked found out of the job; to be asked once.

        Raises:
            ValueError: no replica can be started.
        """
        while True:
            try:
                return self._judged.get(timeout=LOOKS)
            except Empty:
                if supervisor.broken:
                    raise ValueError(f"{supervisor.broken}.") from None

    def next(self, seconds: float) -> Finished | Failed | Retried | None:
        """The next one; None if none comes in this time."""
        try:
            return self._line.get(seconds > 0, seconds or None)
        except Empty:
            return None
