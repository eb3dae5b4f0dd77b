"""Pieces of work on a cluster, through Dask: the extra ``eplstm[cluster]``."""

from __future__ import annotations

import contextlib
import importlib
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from .calls import ONE_THREAD, Call, Outcome, call_pickled, check_importable, check_number, failed, pickled

WORKERS_DIED = "its workers died, one after the other; out of memory?"


@dataclass(frozen=True)
class Slurm:
    """Workers as SLURM jobs, through ``dask_jobqueue``; a job that ends, as at its walltime, is asked for again.

    This process schedules, and keeps the results: it must go on until all is done, on a node that the jobs can
    reach (a login node within ``tmux``, or a job of its own). The nodes need the same environment, as with a home
    directory that is shared.

    Raises:
        ValueError: a number is out of range.
    """

    jobs: int
    """Jobs to ask for."""
    walltime: str
    """Of a job, ``HH:MM:SS``; several times as long as a piece takes: one that is cut off starts anew."""
    memory: str = "4GB"
    """Of a job, for all its cores. A worker takes 0.3 GB before it does anything."""
    cores: int = 1
    """Of a job: so many pieces run in it at a time, each in a process of its own."""
    queue: str | None = None
    """Partition; None: the cluster's default."""
    account: str | None = None
    prologue: tuple[str, ...] = ()
    """Shell lines before a worker starts, such as ``module load python``."""
    directives: tuple[str, ...] = ()
    """More ``#SBATCH`` options, such as ``--constraint=avx2``."""
    interface: str | None = None
    """Network interface, such as ``ib0``; None: Dask's choice."""
    python: str | None = None
    """Python on the nodes; None: the path of the one here."""
    logs: str | None = None
    """Folder for the jobs' output; None: SLURM's own files in the current folder."""

    def __post_init__(self) -> None:
        check_number("Slurm: jobs", self.jobs, 1)
        check_number("Slurm: cores", self.cores, 1)

    def cluster(self) -> Any:
        """The ``dask_jobqueue.SLURMCluster``, whose jobs are not yet asked for; close it after use.

        Raises:
            ImportError: Dask is not installed.
        """
        jobqueue = _import("dask_jobqueue")
        exports = [f"export {name}={value}" for name, value in ONE_THREAD.items()]
        return jobqueue.SLURMCluster(
            queue=self.queue,
            account=self.account,
            cores=self.cores,
            processes=self.cores,
            memory=self.memory,
            walltime=self.walltime,
            job_script_prologue=[*exports, *self.prologue],
            job_extra_directives=list(self.directives),
            interface=self.interface,
            python=self.python,
            log_directory=self.logs,
            job_name="eplstm",
        )

    def job_script(self) -> str:
        """What is handed to ``sbatch``, to look at before."""
        with self.cluster() as cluster:
            return cluster.job_script()


@dataclass(frozen=True)
class Cluster:
    """Workers of Dask, anywhere. Results come back here: the workers need no access to the store.

    Raises:
        ValueError: a number is out of range.
    """

    on: Any
    """A ``distributed.Client``; an address or a cluster of Dask, to which a client is opened; or ``Slurm``. A
    client or a cluster that is given stays open."""
    retries: int = 1
    """How often a piece is tried again that Dask could not compute for no fault of the piece. Dask itself moves
    the pieces of a worker that dies, but gives up one that was at 4 of them (its ``allowed-failures``); unless
    this is 0, such a piece is tried again at the end, alone."""

    def __post_init__(self) -> None:
        check_number("Cluster: retries", self.retries, 0)

    def check(self, function: Callable[..., Any]) -> None:
        """It must be importable on the workers, as functions of a script or notebook are not."""
        check_importable(function, main=False)
        _import("distributed")

    def outcomes(self, calls: Sequence[Call]) -> Generator[tuple[str, Outcome], None, None]:
        """As they come."""
        data, impossible = pickled(calls)
        yield from impossible.items()
        with _client(self.on) as client:
            suspects = {}
            for name, outcome in _outcomes(client, data, self.retries):
                if outcome.reason == WORKERS_DIED and self.retries:
                    suspects[name] = data[name]
                else:
                    yield name, outcome
            # Dask suspects all that waited at a worker when it died; alone, only what kills workers fails again.
            for name, call in suspects.items():
                yield from _outcomes(client, {name: call}, self.retries)


def _outcomes(client: Any, data: Mapping[str, bytes], retries: int) -> Generator[tuple[str, Outcome], None, None]:
    """The outcomes of pickled calls, as they come."""
    distributed = _import("distributed")
    run, names = uuid.uuid4().hex[:8], {}  # keys of its own: Dask must not take the results of an earlier run
    try:
        for name, call in data.items():
            key = f"piece-{run}-{name}"
            names[client.submit(_call_on_worker, call, key=key, retries=retries, pure=False)] = name
        for future in distributed.as_completed(list(names)):
            try:
                outcome = future.result()
            except distributed.KilledWorker as error:
                outcome = replace(failed(error), reason=WORKERS_DIED)
            except CancelledError as error:
                raise ConnectionError(
                    "The connection to Dask's scheduler was lost. What was finished is in the store, if there is "
                    "one: the same call goes on from there."
                ) from error
            except Exception as error:  # of Dask: those of the piece are outcomes
                outcome = failed(error)
            yield names.pop(future), outcome
            future.release()
    finally:
        if client.status != "closed":  # as it is when the scheduler was lost
            client.cancel(list(names))


def _call_on_worker(data: bytes) -> Outcome:
    torch.set_num_threads(1)
    return call_pickled(data)


@contextmanager
def _client(on: Any) -> Iterator[Any]:
    """A client of Dask, as ``Cluster.on`` says; what is opened for it is closed again."""
    distributed = _import("distributed")
    with contextlib.ExitStack() as opened:
        if isinstance(on, distributed.Client):
            yield on
            return
        if isinstance(on, Slurm):
            jobs, on = on.jobs, opened.enter_context(on.cluster())
            on.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # unlike scale(), replaces jobs that have ended
        yield opened.enter_context(distributed.Client(on))


def _import(module: str) -> Any:
    """A module of the extra, or what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"A cluster needs {module}, which cannot be imported ({error}): pip install 'eplstm[cluster]'"
        ) from error
