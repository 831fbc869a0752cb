"""Runs jobs in processes of their own, reports their progress, and stops all of them at the first failure.

Not `concurrent.futures`: that waits for running jobs before it stops, and cannot say how far a job is. A
worker that loses its parent, even by kill -9, notices at its next report and ends.
"""

import multiprocessing
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from albert_jax.errors import UserError

Report = Callable[[Any], None]


def run_jobs(
    setup: Callable[[Any], Callable[[Any, Report], Any]], argument: Any, jobs: Sequence[Any], processes: int
) -> Iterator[tuple[str, Any]]:
    """Yields ("progress", report) and ("done", result) as they come, in no fixed order.

    Each process calls `setup(argument)` once and the function it returns for job after job. One process, or
    one job, runs here without starting any. Raises the UserError of a job, or one that says that a worker
    died.
    """
    processes = min(processes, len(jobs))
    if processes <= 1:
        reports: list[Any] = []
        run = setup(argument) if jobs else None
        for job in jobs:
            result = run(job, reports.append)
            yield from (("progress", report) for report in reports)
            reports.clear()
            yield "done", result
        return
    # spawn: a fork would copy whatever threads the caller has, jax's for one, in the middle of what they do.
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, Any] = {}
    waiting = list(reversed(jobs))
    try:
        with _interrupts_held():
            for _ in range(processes):
                ours, theirs = context.Pipe()
                worker = context.Process(target=_work, args=(theirs, setup, argument), daemon=True)
                worker.start()
                theirs.close()
                workers[ours] = worker
                ours.send(waiting.pop())
        remaining = len(jobs)
        while remaining:
            for connection in wait(list(workers)):
                kind, value = _receive(connection, workers[connection])
                if kind == "done":
                    remaining -= 1
                    if waiting:
                        connection.send(waiting.pop())
                    else:
                        connection.close()
                        workers.pop(connection).join()
                yield kind, value
    finally:
        for worker in workers.values():
            worker.terminate()
        for worker in workers.values():
            worker.join()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """For starting workers, each to its end: a signal that comes meanwhile waits, and interrupts the parent afterwards.
    Workers inherit the blocking and keep it for Ctrl-C, which reaches the whole group: the parent ends them."""
    # Started now, since starting it unblocks the signal.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _receive(connection: Connection, worker: Any) -> tuple[str, Any]:
    try:
        kind, value = connection.recv()
    except (EOFError, ConnectionResetError):
        worker.join()
        raise UserError(
            f"a worker process ended without a word (exit code {worker.exitcode}; "
            "-9 is often a lack of memory); "
            "run the same command again to continue, with fewer --processes if memory is short"
        ) from None
    if kind == "user_error":
        raise UserError(value)
    if kind == "bug":
        raise RuntimeError(f"in a worker process:\n{value}")
    return kind, value


def _work(connection: Connection, setup: Callable, argument: Any) -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})  # by which the parent ends it

    try:
        try:
            run = setup(argument)
            while True:
                job = connection.recv()
                connection.send(("done", run(job, lambda report: connection.send(("progress", report)))))
        except UserError as error:
            connection.send(("user_error", str(error)))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise
        except Exception:
            connection.send(("bug", traceback.format_exc()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(0)  # no more jobs, or no parent
