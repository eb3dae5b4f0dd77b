"""Where pieces run: in this process, in processes of this machine (joblib), on a cluster (Dask).

What comes of a piece is the same bytes from everywhere: each travels pickled, runs on one thread, and its result
becomes bytes where it ran. joblib's processes take a quarter of a millisecond a piece and 2 s to start, Dask's on
the same machine 4 ms and 6 s. On a cluster it is Dask itself: through joblib, one would wait for ever for a piece
whose worker died.
"""

from __future__ import annotations

import functools
import importlib
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import cloudpickle
import joblib
import torch
from threadpoolctl import threadpool_limits

from .identity import code_of, differing_modules
from .plain_data import to_bytes

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Of workers: several processes with several threads each would only get in each other's way."""


@dataclass(frozen=True)
class Failure:
    """Why a piece gave no result."""

    reason: str
    """In a line."""
    traceback: str

    @staticmethod
    def of(error: BaseException) -> Failure:
        """That of a piece that raised an error."""
        text = " ".join(str(error).split())
        reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
        return Failure(reason, "".join(traceback.format_exception(error)))

    @staticmethod
    def died(error: BaseException) -> Failure:
        """That of a piece whose process ended."""
        return Failure(DIED, str(error))


DIED = "its process ended, also when the piece ran alone; out of memory?"
Outcome = bytes | Failure
"""What became of a piece: its result as ``plain_data.to_bytes`` gives it, or a failure."""
Outcomes = Generator[tuple[str, Outcome], None, None]
Pieces = Iterable[tuple[str, Mapping[str, Any]]]
"""Name and arguments of each piece."""


def outcomes(function: Callable[..., Any], pieces: Pieces, where: Any) -> Outcomes:
    """The name and the outcome of each piece, as they come; closing it ends what still runs.

    Args:
        function: of the pieces.
        pieces: with different names.
        where: see ``pieces.run_pieces``.

    Raises:
        ValueError: it is no place.
        ImportError: Dask is needed and not there.
    """
    if isinstance(where, bool) or where is None or (isinstance(where, int) and where < 0):
        raise ValueError(
            "where must be a number of processes (0: one for each core), or a cluster of Dask or its address; got "
            f"{where!r}."
        )
    sent = ((name, _sent(function, arguments)) for name, arguments in pieces)
    if not isinstance(where, int):
        return _on_cluster(_of_extra("distributed"), sent, where, code_of(function))
    processes = where or joblib.cpu_count()
    return _here(sent) if processes == 1 else _on_cores(sent, processes)


def _sent(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Outcome:
    """A piece, pickled; or a failure, if it cannot be."""
    try:
        return cloudpickle.dumps((function, dict(arguments)))
    except Exception as error:
        return Failure.of(error)


def _compute(sent: Outcome) -> Outcome:
    """Compute a pickled piece; an error is an outcome, and an interruption is not."""
    if isinstance(sent, Failure):
        return sent
    try:
        function, arguments = pickle.loads(sent)
        return to_bytes(function(**arguments))
    except (Exception, SystemExit) as error:
        return Failure.of(error)


Sent = Iterable[tuple[str, Outcome]]


def _here(pieces: Sent) -> Outcomes:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as everywhere else: how sums are split among threads shows in the last digits
    try:
        with threadpool_limits(1):
            for name, sent in pieces:
                yield name, _compute(sent)
    finally:
        torch.set_num_threads(threads)


# ---- processes of this machine -----------------------------------------------------------------------


def _on_cores(pieces: Sent, processes: int) -> Outcomes:
    """In joblib's processes. One that dies breaks them all: what was with them runs again, each piece alone."""
    waiting, with_them = iter(pieces), dict[str, Outcome]()
    while True:
        try:
            with closing(_parallel(processes, _handed(waiting, with_them))) as arriving:
                for name, outcome in arriving:
                    del with_them[name]
                    yield name, outcome
            return
        except BrokenProcessPool:
            suspects = dict(with_them)
            with_them.clear()
        for name, sent in suspects.items():
            yield name, _alone(name, sent, processes)


def _alone(name: str, sent: Outcome, processes: int) -> Outcome:
    """The outcome of a piece that may have ended its process; it is tried twice."""
    outcome: Outcome = Failure(DIED, "")
    for _ in range(2):
        try:
            ((name, outcome),) = _parallel(processes, _handed(iter([(name, sent)]), {}))
            break
        except BrokenProcessPool as error:
            outcome = Failure.died(error)
    return outcome


def _parallel(processes: int, handed: Iterator[Any]) -> Any:
    # One at a time, so that each is kept as soon as it is there; in groups, 10,000 would take 2 s less.
    with joblib.parallel_config("loky", n_jobs=processes, inner_max_num_threads=1):
        return joblib.Parallel(return_as="generator_unordered", batch_size=1)(handed)  # type: ignore[arg-type]


def _handed(waiting: Iterator[tuple[str, Outcome]], with_them: dict[str, Outcome]) -> Iterator[Any]:
    """Pieces for joblib, in the moment in which it takes them."""
    for name, sent in waiting:
        with_them[name] = sent
        yield joblib.delayed(_in_process)(name, sent, os.getpid())


def _in_process(name: str, sent: Outcome, parent: int) -> tuple[str, Outcome]:
    _settle(parent)
    return name, _compute(sent)


@functools.cache
def _settle(parent: int) -> None:
    """Once in each process: Ctrl-C reaches all, and that which started it ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    signal.raise_signal(signal.SIGTERM)  # ends the process, whatever its other threads do


# ---- a cluster ---------------------------------------------------------------------------------------


def slurm_cluster(jobs: int, walltime: str, memory: str = "4GB", cores: int = 1, **more: Any) -> Any:
    """Workers of Dask as SLURM jobs, as a context; a job that ends, as at its walltime, is asked for again.

    This process schedules, and keeps the results: it must go on until all is done, on a node that the jobs can
    reach (a login node within ``tmux``, or a job of its own). The nodes need the same environment, as with a home
    directory that is shared.

    Args:
        jobs: to ask for.
        walltime: of a job, ``HH:MM:SS``; several times as long as a piece: one that is cut off starts anew.
        memory: of a job, for all its cores. A worker takes 0.3 GB before it does anything.
        cores: of a job: so many pieces run in it at a time, each in a process of its own.
        **more: of ``dask_jobqueue.SLURMCluster``, such as ``queue``, ``account``, ``python``, ``interface``,
            ``job_script_prologue``, ``job_extra_directives``.

    Raises:
        ValueError: the number of jobs or cores is out of range.
        ImportError: Dask is not installed.
    """
    if jobs < 1 or cores < 1:
        raise ValueError(f"slurm_cluster: jobs and cores must be at least 1; got {jobs} and {cores}.")
    prologue = [*(f"export {name}=1" for name in ONE_THREAD), *more.pop("job_script_prologue", ())]
    cluster = _of_extra("dask_jobqueue").SLURMCluster(
        cores=cores,
        processes=cores,
        memory=memory,
        walltime=walltime,
        job_script_prologue=prologue,
        job_name="eplstm",
        **more,
    )
    cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # unlike scale(), replaces jobs that have ended
    return cluster


def _on_cluster(distributed: Any, pieces: Sent, where: Any, code: Mapping[str, str]) -> Outcomes:
    """On workers of Dask, which moves the pieces of one that dies, up to 4 times."""
    with ExitStack() as opened:
        if not isinstance(where, distributed.Client):
            where = opened.enter_context(distributed.Client(where))
        every, suspects = dict(pieces), []
        for name, outcome in _submitted(distributed, where, every, code):
            if isinstance(outcome, Failure) and outcome.reason == DIED:
                suspects.append(name)
            else:
                yield name, outcome
        # Dask suspects all that waited at a worker when it died; alone, only what kills workers fails again.
        for name in suspects:
            yield from _submitted(distributed, where, {name: every[name]}, code)


def _submitted(distributed: Any, client: Any, pieces: Mapping[str, Outcome], code: Mapping[str, str]) -> Outcomes:
    names = {client.submit(_on_worker, sent, code, retries=1, pure=False): name for name, sent in pieces.items()}
    try:
        for future in distributed.as_completed(list(names)):
            try:
                outcome = future.result()
            except distributed.KilledWorker as error:
                outcome = Failure.died(error)
            except CancelledError as error:
                raise ConnectionError(
                    "The connection to Dask's scheduler was lost. What was finished is in the store, if there is "
                    "one: the same call goes on from there."
                ) from error
            except Exception as error:  # of Dask: those of the piece are outcomes
                outcome = Failure.of(error)
            yield names.pop(future), outcome
            future.release()
    finally:
        if client.status != "closed":  # as it is when the scheduler was lost
            client.cancel(list(names))


def _on_worker(sent: Outcome, code: Mapping[str, str]) -> Outcome:
    torch.set_num_threads(1)
    if differing := differing_modules(code):
        return Failure.of(RuntimeError(f"the worker has other code: {', '.join(differing)}"))
    return _compute(sent)


def _of_extra(module: str) -> Any:
    """A module of the extra, or what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"A cluster needs {module}, which cannot be imported ({error}): pip install 'eplstm[cluster]'"
        ) from error
