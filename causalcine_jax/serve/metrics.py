"""What the server measures, for Prometheus (GET /metrics)."""

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from causalcine_jax.serve.parts import ChunkInfo

NAMESPACE = "causalcine"
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters of one desk; each has a registry of its own."""

    def __init__(self):
        self.registry = CollectorRegistry()
        counter = partial(Counter, namespace=NAMESPACE, registry=self.registry)
        gauge = partial(Gauge, namespace=NAMESPACE, registry=self.registry)
        histogram = partial(Histogram, namespace=NAMESPACE, registry=self.registry)
        self._chunks = counter("chunks", "Chunks made")
        self._frames = counter("frames", "Video frames made")
        self._media = counter("media_bytes", "Bytes of media made")
        self._stages = histogram(
            "chunk_seconds", "Seconds of a chunk by stage", ("stage",), buckets=SECONDS
        )
        self.ended = counter("sessions_ended", "Sessions that ended", ("reason",))
        self.sessions = gauge("sessions", "Sessions that are open")
        self.waiting = gauge("sessions_waiting", "Sessions that wait to be admitted")
        self.turns = gauge("turns_waiting", "Turns that wait for the device")
        self.reserved = gauge("history_bytes", "History that open sessions reserve")

    def chunk(self, info: ChunkInfo) -> None:
        self._chunks.inc()
        self._frames.inc(info.frames)
        self._media.inc(info.bytes)
        for stage, seconds in info.timings.items():
            self._stages.labels(stage).observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
