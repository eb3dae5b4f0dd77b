"""Pieces of work on the cores of this machine: processes that die alone."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from typing import Any

import torch

from .calls import ONE_THREAD, Call, Outcome, call_pickled, check_importable, check_number, pickled


@dataclass(frozen=True)
class Cores:
    """Processes on this machine, each with one piece at a time.

    A process that dies (killed, out of memory) takes nothing with it but its piece, which is tried again. This is
    why it is not ``concurrent.futures``, whose pool breaks as a whole, and does not say which piece it was.

    Started from a script, the work must stand under ``if __name__ == "__main__":``, because processes import the
    script (they are spawned: PyTorch's threads do not survive a fork).

    Raises:
        ValueError: a number is out of range.
    """

    n: int | None = None
    """Processes; None: as many as there are cores that this process may use."""
    retries: int = 1
    """How often a piece is tried again whose process died."""

    def __post_init__(self) -> None:
        check_number("Cores: n", self.n, 1)
        check_number("Cores: retries", self.retries, 0)

    def check(self, function: Callable[..., Any]) -> None:
        """It must be importable; from a script, though not from a notebook."""
        check_importable(function, main=hasattr(sys.modules["__main__"], "__file__"))

    def outcomes(self, calls: Sequence[Call]) -> Generator[tuple[str, Outcome], None, None]:
        """As they come."""
        data, impossible = pickled(calls)
        yield from impossible.items()
        waiting, tries = deque(data), dict.fromkeys(data, 0)
        workers: list[_Worker] = []
        try:
            while waiting or any(worker.piece for worker in workers):
                busy = sum(worker.piece is not None for worker in workers)
                while len(workers) < min(self._number(), busy + len(waiting)):
                    workers.append(_Worker())
                for worker in workers:
                    if waiting and worker.ready and worker.piece is None:
                        worker.give(waiting[0], data[waiting.popleft()])
                for worker in _heard(workers):
                    piece = worker.piece
                    try:
                        outcome = worker.receive()
                    except (EOFError, OSError):  # it died
                        workers.remove(worker)
                        outcome = worker.died()
                        if piece is not None and tries[piece] < self.retries:
                            tries[piece] += 1
                            waiting.appendleft(piece)
                            continue
                    if piece is not None and outcome is not None:
                        yield piece, outcome
        finally:
            _end(workers)

    def _number(self) -> int:
        if self.n is not None:
            return self.n
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Worker:
    """A process that computes one piece after the other, as seen from here."""

    def __init__(self) -> None:
        self.ready = False
        """Whether it has started."""
        self.piece: str | None = None
        """What it computes."""
        context = get_context("spawn")
        self.connection, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there,), daemon=True)
        with _environment(ONE_THREAD), _no_interrupts():
            self.process.start()
        there.close()  # so that the end of the process is the end of the connection

    def give(self, piece: str, data: bytes) -> None:
        """Have it compute a piece. That it died meanwhile is seen when it is heard."""
        self.piece = piece
        with contextlib.suppress(OSError):
            self.connection.send_bytes(data)

    def receive(self) -> Outcome | None:
        """The outcome of its piece, which it is then free of; None: it has started. Raises EOFError if it died."""
        message = pickle.loads(self.connection.recv_bytes())
        self.ready, self.piece = True, None
        return message

    def died(self) -> Outcome:
        """The outcome of its piece after it has died.

        Raises:
            RuntimeError: it died before it had started, and so would others.
        """
        self.connection.close()
        self.process.join()
        code = self.process.exitcode or 0
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        if not self.ready:
            raise RuntimeError(
                f"A process ended {how} before it had started; what it said stands above. In a script, start the "
                "work under `if __name__ == '__main__':`, because processes import the script."
            )
        memory = "; out of memory?" if how == "by SIGKILL" else ""
        return Outcome(None, f"its process ended {how}{memory}")


def _heard(workers: Sequence[_Worker]) -> list[_Worker]:
    """Wait for workers that have sent something, or have died."""
    heard = connection.wait([worker.connection for worker in workers])
    return [worker for worker in workers if worker.connection in heard]


def _end(workers: Sequence[_Worker]) -> None:
    """End workers, whatever they do."""
    for worker in workers:
        worker.connection.close()
        worker.process.terminate()
    for worker in workers:
        worker.process.join(5)
        worker.process.kill()
        worker.process.join()


def _serve(there: connection.Connection) -> None:
    """What a worker does: say that it has started, then compute what it is given until nobody is there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the process that started it ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    there.send_bytes(pickle.dumps(None))
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            there.send_bytes(pickle.dumps(call_pickled(there.recv_bytes())))


def _end_with_parent() -> None:
    """End this process at once when the one that started it has died, however that was."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Processes that are started meanwhile ignore Ctrl-C from their first moment."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield  # handlers can only be set by the main thread, and only those of Python can be set again
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
