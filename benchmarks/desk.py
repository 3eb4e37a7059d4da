"""Measures the director's desk over its own protocol; a JSON record.

    page    in Chromium: from opening the page to the first frame on the screen, and again after a
            reload; left out where Chromium or Playwright is missing
    one     a director with the embedded student: the first frame, an order's first frame, a retake,
            a branch, whether the picture ever stood still
    two     two directors at once: frames a second of each, and how evenly they share the device
    soak    eight directors and twenty viewers on drawn pictures: messages lost, memory, receipts
    soak_model   the same on the embedded student

`causalcine bench desk --out FILE.json` makes all; --case picks some. Of all cases but `page` the
player is simulated: it begins with the first chunk, runs in real time, and stands still when it
has no more.
"""

import asyncio
import dataclasses
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import REPOSITORY
from benchmarks.bench import write
from benchmarks.chromium import missing_browser
from benchmarks.desk_clients import Director, Served, directing, watch
from benchmarks.page_opening import opened_pages
from benchmarks.sources import run_context
from causalcine_jax.errors import DataError, choice_faults, raise_faults
from causalcine_jax.story import read_story

SCHEMA = "causalcine/desk@1"
CASES = ("page", "one", "two", "soak", "soak_model")
STORY = REPOSITORY / "examples/demo.yaml"
ORDERS, RETAKES = 10, 5
BETWEEN_S = 1.5  # at least, from an order's first frame to the next order
GOLDEN = 0.618  # of a chunk: multiples of it spread evenly over a chunk, however many they are
FILM_S, SHARED_S = 60.0, 30.0
DIRECTORS, VIEWERS, SOAK_MINUTES = 8, 20, 30
SAMPLES = 200  # of the server's memory in a soak
# A film is at most ten minutes long: the soak's directors begin another before that.
SESSION_S = 500.0
# Seconds, frames a second, shares.
SOAK_TARGETS = {"memory_growth": 0.02, "lost": 0, "receipt_p99_s": 0.1}
TARGETS: dict[str, dict[str, float]] = {
    "page": {"first_frame_s": 2.0, "reload_s": 2.0},
    "one": {"order_chunks": 1.5, "fps": 16, "retake_s": 1.0, "branch_s": 2.0, "stood_still_s": 0},
    "two": {"jain": 0.98, "fps": 16},
    "soak": SOAK_TARGETS,
    "soak_model": SOAK_TARGETS,
}


def desk(
    names: tuple[str, ...], minutes: int | None, out: Path | None, say: Callable[[str], None]
) -> dict:
    """Measures the cases `names` (empty: all); returns the record, written after each.

    Args:
      minutes: of a soak, in place of SOAK_MINUTES.

    Raises:
      UsageError: an unknown case, or `page` by name where no browser is.
      DataError: a server did not start, or ended.
    """
    faults = [fault for n in names for fault in choice_faults("case", n, CASES)]
    if (lacks := missing_browser()) and "page" in names:
        faults.append(f"--case page {lacks}")
    raise_faults("desk", faults)
    record = {
        "schema": SCHEMA,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **run_context(),
        "command": "causalcine bench desk",
        "targets": TARGETS,
        "cases": {},
    }
    cases: dict[str, Callable[[Served], dict[str, Any]]] = {
        "page": lambda at: opened_pages(at.url),
        "one": lambda at: asyncio.run(_directed(at)),
        "two": lambda at: asyncio.run(_shared(at)),
        "soak": lambda at: asyncio.run(_soaked(at, 60.0 * (minutes or SOAK_MINUTES))),
    }
    cases["soak_model"] = cases["soak"]
    for name in names or CASES:
        if name == "page" and lacks:
            say(f"{name}: not measured, {lacks}")
            record["cases"][name] = {"not_measured": lacks}
            continue
        say(f"{name} ...")
        flags = ["--max-sessions", str(DIRECTORS)] if name.startswith("soak") else []
        flags += ["--mock"] if name == "soak" else []
        with (
            tempfile.TemporaryDirectory(prefix="desk.") as films,
            Served(Path(films), *flags) as at,
        ):
            record["cases"][name] = cases[name](at)
        if out:
            write(record, out)
    return record


def desk_table(record: dict) -> str:
    """Returns Markdown, a row per measure."""
    rows = ["| case | measure | found | target |", "|---|---|---|---|"]
    for name, case in record["cases"].items():
        for measure, value in case.items():
            if measure == "orders":  # one by one: for the record alone
                continue
            target = record["targets"][name].get(measure, "")
            shown = f"{value:.3g}" if isinstance(value, float) else value
            rows.append(f"| {name} | {measure} | {shown} | {target} |")
    return "\n".join(rows)


def _captions() -> tuple[str, list[str]]:
    story = read_story(STORY)
    return story.global_caption, [shot.caption for shot in story.shots]


async def _directed(served: Served) -> dict[str, Any]:
    """One director: orders at odd moments of a film, then retakes and a branch of a long one."""
    told, captions = _captions()
    found: dict[str, Any] = {}
    async with directing(served.url, global_caption=told, on_empty="hold") as one:
        await one.shot(captions[0], 4)
        found["first_frame_s"] = await one.first_frame()
        orders = []
        for number in range(ORDERS):
            # The last order was shown at a chunk's beginning, so this is the next one's phase.
            await asyncio.sleep(BETWEEN_S + GOLDEN * number % 1 * one.chunk_s)
            orders.append(await one.cut(captions[number % len(captions)]))
        shown = [order.shown for order in orders]
        found["order_made_s"] = median(order.made for order in orders)
        found["order_shown_s"] = median(shown)
        found["order_chunks"] = median(shown) / one.chunk_s
        found["order_chunks_longest"] = max(shown) / one.chunk_s
        found["orders"] = [dataclasses.asdict(order) for order in orders]
        await one.played(FILM_S / 2)
        found["played_s"], found["fps"] = one.player.position(), one.fps()
        found["stood_still_s"] = one.player.stood_still
        found["retake_s"] = median([await one.retake() for _ in range(RETAKES)])
    async with directing(served.url, global_caption=told, pace="free") as long:
        for caption in captions:
            await long.shot(caption, 16)
        await long.made(FILM_S - 1)  # 80 chunks are 59.8 s
        found["free_fps"] = long.fps()
        found["branch_s"] = await long.branch(captions[1])
    return found


async def _shared(served: Served) -> dict[str, Any]:
    """Two directors play in real time; then both film as fast as they can."""
    told, captions = _captions()
    found: dict[str, Any] = {}
    for pace in ("playback", "free"):
        async with (
            directing(served.url, global_caption=told, pace=pace, on_empty="hold") as one,
            directing(served.url, global_caption=told, pace=pace, on_empty="hold") as other,
        ):
            both = (one, other)
            await asyncio.gather(*(each.shot(captions[0], 4) for each in both))
            await asyncio.gather(*(each.first_frame() for each in both))
            begun = [each.arrivals.chunks for each in both]
            await asyncio.sleep(SHARED_S)
            if pace == "playback":
                found["fps"] = min(each.fps() for each in both)
                found["stood_still_s"] = max(each.player.stood_still for each in both)
            else:
                made = [each.arrivals.chunks - at for each, at in zip(both, begun, strict=True)]
                found["chunks"] = made
                found["jain"] = sum(made) ** 2 / (len(made) * sum(n * n for n in made))
    return found


async def _soaked(served: Served, seconds: float) -> dict[str, Any]:
    """Memory is compared between the second and the last quarter of the time."""
    begun = time.monotonic()
    end = begun + seconds
    films: dict[int, Director] = {}  # of each director, the film that is open
    memory: list[int] = []
    try:
        async with asyncio.TaskGroup() as group:
            clients = [
                *(
                    group.create_task(_films_on(served.url, n, films, end))
                    for n in range(DIRECTORS)
                ),
                *(
                    group.create_task(_watches_on(served.url, n, films, end))
                    for n in range(VIEWERS)
                ),
            ]
            for sample in range(SAMPLES):
                await asyncio.sleep(begun + (sample + 1) * seconds / SAMPLES - time.monotonic())
                memory.append(served.memory())
    except ExceptionGroup as failed:
        first = failed.exceptions[0]
        raise DataError(f"the soak ended early: {type(first).__name__}: {first}") from failed
    results = [client.result() for client in clients]
    receipts = sorted(each for result in results for each in result.receipts)
    quarter = len(memory) // 4
    second, last = median(memory[quarter : 2 * quarter]), median(memory[-quarter:])
    return {
        "minutes": seconds / 60,
        "chunks": sum(result.chunks for result in results[:DIRECTORS]),
        "watched_chunks": sum(result.chunks for result in results[DIRECTORS:]),
        "lost": sum(result.lost for result in results),
        "receipts": len(receipts),
        "receipt_p50_s": receipts[len(receipts) // 2],
        "receipt_p99_s": receipts[int(0.99 * (len(receipts) - 1))],
        "memory_second_quarter_bytes": second,
        "memory_last_quarter_bytes": last,
        "memory_growth": last / second - 1,
    }


@dataclasses.dataclass
class _Counted:
    """What a client of the soak received."""

    chunks: int = 0
    lost: int = 0
    receipts: list[float] = dataclasses.field(default_factory=list)


async def _films_on(url: str, number: int, films: dict[int, Director], end: float) -> _Counted:
    """A director who types a shot every few seconds, and now and then films one again."""
    counted, typed = _Counted(), 0
    told, captions = _captions()
    while time.monotonic() < end:
        until = min(end, time.monotonic() + SESSION_S)
        async with directing(url, global_caption=told, on_empty="hold", seed=number) as one:
            films[number] = one
            while time.monotonic() < until:
                typed += 1
                await one.shot(captions[typed % len(captions)], 3)
                if typed % 10 == 0:
                    await one.retake()
                await asyncio.sleep(2.5 + 0.1 * number)
            counted.chunks += one.arrivals.chunks
            counted.lost += one.arrivals.lost
            counted.receipts += one.receipts
            await one.stop()
    return counted


async def _watches_on(url: str, number: int, films: dict[int, Director], end: float) -> _Counted:
    """A viewer, who goes on with the director's next film."""
    counted, seen = _Counted(), None
    while time.monotonic() < end - 2:
        film = films.get(number % DIRECTORS)
        if film is None or film is seen:
            await asyncio.sleep(0.1)
            continue
        seen = film
        came = await watch(url, film.watch_token, end - 2)
        counted.chunks += came.chunks
        counted.lost += came.lost
    return counted
