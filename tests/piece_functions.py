"""What the pieces of ``test_pieces.py`` call: a module of its own, so that other processes can import it."""

import functools
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from eplstm.comparisons.work.pieces import Piece, run_pieces, seed_of

STUDY_SEED = 2018


def drawn(seed, wait=0.0):
    """A small estimate: numbers from the seed, through sums that depend on how many threads make them."""
    time.sleep(wait)
    x = np.random.default_rng(seed).standard_normal(200_000)
    return {"z": x[:3], "sum": torch.from_numpy(x).exp().sum().item(), "threads": torch.get_num_threads()}


def pieces(n, **arguments):
    return [Piece(f"p{k}", {"seed": seed_of(STUDY_SEED, f"p{k}"), **arguments}) for k in range(n)]


def behaving(seed, how, marker):
    """Draws, fails, ends its process, or ends it once."""
    if how == "fails":
        raise ValueError(f"seed {seed}\nis bad")
    if how == "kills" or (how == "kills once" and not marker.exists()):
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return drawn(seed)


def failing_until(marker, value):
    if not marker.exists():
        raise ValueError("not yet")
    return value


def interrupting_until(marker, value):
    """Ctrl-C at the third piece."""
    if value == 2 and not marker.exists():
        raise KeyboardInterrupt
    return value


def appending(values):
    values.append(1)
    return len(values)


def leaving():
    sys.exit("done with it")


class Touching:
    """What makes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


@dataclass
class Estimate:
    z: np.ndarray
    names: tuple[str, ...]


def estimate(size):
    return Estimate(np.arange(float(size)), ("bias",) * size)


if __name__ == "__main__":  # a study to be killed: python piece_functions.py STORE PROCESSES
    sys.path.insert(0, str(Path(__file__).parent))
    import piece_functions  # not those of __main__: the function's name is part of the work

    work, tell = piece_functions.pieces(8, wait=0.25), functools.partial(print, flush=True)
    run_pieces(piece_functions.drawn, work, store=sys.argv[1], where=int(sys.argv[2]), progress=tell)
