"""pgqueuer: one process works off no-op jobs. What goes in and out: ../README.md."""

import asyncio
import importlib.metadata
import json
import os
import sys
import time

import asyncpg
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries

DSN = os.environ["BENCH_DATABASE_URL"]
JOBS = int(os.environ["BENCH_JOBS"])
PAYLOAD_BYTES = int(os.environ["BENCH_PAYLOAD_BYTES"])

# Its documentation on tuning, and its own benchmark: the faster driver, a connection per manager, uvloop, big batches of
# short jobs, its own settings of autovacuum. Its time is Python's own: batches of 500 to 2000 cost the same, and more managers
# in the process, or five with batches of 100, only cost more.
SETTING = {"batch": 1000, "managers": 1} | json.loads(os.environ.get("BENCH_SETTING") or "{}")

STALLED_S = 60
INSERTED_AT_ONCE = 5_000
ENTRYPOINT = "noop"

ran = bytearray(JOBS)
calls = 0


async def noop(job) -> None:
    global calls
    n = json.loads(job.payload)["n"]
    ran[n] = min(ran[n] + 1, 2)
    calls += 1


async def insert(queries: Queries) -> None:
    await queries.install()
    await queries.optimize_autovacuum()
    text = "x" * max(0, PAYLOAD_BYTES - 20)
    for start in range(0, JOBS, INSERTED_AT_ONCE):
        some = [json.dumps({"n": n, "text": text}).encode() for n in range(start, min(JOBS, start + INSERTED_AT_ONCE))]
        await queries.enqueue([ENTRYPOINT] * len(some), some, [0] * len(some))


async def left(conn: asyncpg.Connection) -> int:
    return await conn.fetchval("select count(*) from pgqueuer")


async def finished(conn: asyncpg.Connection) -> None:
    """Asks the store only when all jobs have run, so that it does not disturb them."""
    seen, since = calls, time.monotonic()
    while time.monotonic() - since < STALLED_S:
        if calls >= JOBS and await left(conn) == 0:
            return
        if calls != seen:
            seen, since = calls, time.monotonic()
        await asyncio.sleep(0.005)


async def main() -> None:
    conn = await asyncpg.connect(DSN)
    await insert(Queries(AsyncpgDriver(conn)))
    print(json.dumps({"ready": True}), flush=True)
    if not await asyncio.to_thread(sys.stdin.readline):
        sys.exit("nobody says go")

    started = time.monotonic()
    managers = [PgQueuer(AsyncpgDriver(await asyncpg.connect(DSN))) for _ in range(SETTING["managers"])]
    for manager in managers:
        manager.qm.entrypoint(ENTRYPOINT)(noop)
    running = [asyncio.create_task(manager.qm.run(batch_size=SETTING["batch"])) for manager in managers]
    await finished(conn)
    seconds = time.monotonic() - started
    for manager in managers:
        manager.shutdown.set()
    await asyncio.gather(*running)

    print(
        json.dumps(
            {
                "jobs": JOBS,
                "seconds": seconds,
                "ran_once": ran.count(1),
                "ran_twice_or_more": ran.count(2),
                "never_ran": ran.count(0),
                "left_in_store": await left(conn),
                # Its log keeps a row per job: the status, not the payload.
                "keeps_outcome": True,
                "version": f"{importlib.metadata.version('pgqueuer')} (python {sys.version.split()[0]})",
                "setting": f"batches of {SETTING['batch']}, {SETTING['managers']} manager(s) in one process, uvloop",
            }
        ),
        flush=True,
    )
    # What a manager leaves behind of connections ends with the process.
    os._exit(0)


uvloop.run(main())
