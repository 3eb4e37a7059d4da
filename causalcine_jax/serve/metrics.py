"""What the server measures, for Prometheus (GET /metrics)."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from causalcine_jax.serve.parts import ChunkInfo

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters of one desk; each has a registry of its own."""

    def __init__(self):
        self.registry = CollectorRegistry()
        made = {"namespace": "causalcine", "registry": self.registry}
        self._chunks = Counter("chunks", "Chunks made", **made)
        self._frames = Counter("frames", "Video frames made", **made)
        self._media = Counter("media_bytes", "Bytes of media made", **made)
        self._stages = Histogram(
            "chunk_seconds", "Seconds of a chunk by stage", ("stage",), buckets=SECONDS, **made
        )
        self.ended = Counter("sessions_ended", "Sessions that ended", ("reason",), **made)
        self.sessions = Gauge("sessions", "Sessions that are open", **made)
        self.waiting = Gauge("sessions_waiting", "Sessions that wait to be admitted", **made)
        self.turns = Gauge("turns_waiting", "Turns that wait for the device", **made)
        self.reserved = Gauge("history_bytes", "History that open sessions reserve", **made)

    def chunk(self, info: ChunkInfo) -> None:
        self._chunks.inc()
        self._frames.inc(info.frames)
        self._media.inc(info.bytes)
        for stage, seconds in info.timings.items():
            self._stages.labels(stage).observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
