"""What one session may ask for, and how many there may be."""

from dataclasses import dataclass

from causalcine_jax.serve.parts import MOST_SHOTS, Limits

MESSAGE_BYTES = 64 * 2**10


@dataclass(frozen=True)
class SessionLimits:
    """Seconds, unless it says otherwise.

    film_s       of one take
    idle_s       without a client, until the session is closed
    lifetime_s   until the session is closed whatever it does
    first_s      from opening a socket to its first message
    lead_chunks  that are left to play, at most, when the next is begun
    takes        of one session
    sessions     open at once
    waiting      that wait for one to end
    viewers      of one session
    rate         messages a second over a while, and requests by HTTP for what costs work
    """

    film_s: float = 600.0
    idle_s: float = 120.0
    lifetime_s: float = 3600.0
    first_s: float = 10.0
    lead_chunks: int = 2
    takes: int = 64
    sessions: int = 4
    waiting: int = 16
    viewers: int = 20
    rate: float = 50.0

    def as_message(self, pool_bytes: int) -> Limits:
        """What a client is told of them."""
        return Limits(
            film_s=self.film_s,
            queued_shots=MOST_SHOTS,
            idle_s=self.idle_s,
            lifetime_s=self.lifetime_s,
            message_bytes=MESSAGE_BYTES,
            lead_chunks=self.lead_chunks,
            takes=self.takes,
            pool_bytes=pool_bytes,
        )
