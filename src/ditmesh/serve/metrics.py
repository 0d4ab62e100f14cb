"""Numbers for Prometheus: what waits, what is drawn, how it ended and how long each stage took."""

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1000)
MEDIA_TYPE = CONTENT_TYPE_LATEST


class Meter:
    """The numbers of one server; two in a process do not share them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        kept = {"registry": self.registry, "namespace": "ditmesh"}
        self._ended = Counter("requests", "Requests that ended, by kind and how.", ["kind", "status"], **kept)
        self._pictures = Counter("pictures", "Pictures and videos drawn.", **kept)
        self._whole = Histogram("request_seconds", "From asking to the answer.", ["kind"], buckets=SECONDS, **kept)
        self._stage = Histogram("stage_seconds", "Of a picture, by stage.", ["stage"], buckets=SECONDS, **kept)

    def watch(self, name: str, text: str, count: Callable[[], float]) -> None:
        """A number that is looked up when it is asked for."""
        Gauge(name, text, namespace="ditmesh", registry=self.registry).set_function(count)

    def drawn(self, seconds: Mapping[str, float]) -> None:
        """A picture is done; the seconds are those of its stages, the time in the queue among them."""
        self._pictures.inc()
        for stage, spent in seconds.items():
            self._stage.labels(stage).observe(spent)

    def ended(self, kind: str, status: str, seconds: float) -> None:
        self._ended.labels(kind, status).inc()
        if status == "completed":
            self._whole.labels(kind).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self.registry)
