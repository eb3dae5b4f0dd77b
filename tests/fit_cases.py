"""Fits and objectives whose answers are known, for the tests of fitting."""

import numpy as np
import torch
from eplstm.comparisons.fitting.results import Fit


def a_fit(space, z, sd=0.5, **changes):
    """A fit whose posteriors are normal with this standard deviation; keywords change its fields.

    Args:
        space: a ``ParameterSpace``.
        z: (P, k).
        sd: of each parameter.
    """
    z = np.asarray(z, float)
    people, k = z.shape
    fields = {
        "model": "m",
        "estimator": "map",
        "space": space,
        "ids": tuple(f"p{p}" for p in range(people)),
        "z": z,
        "covariance": np.tile(sd**2 * np.eye(k), (people, 1, 1)),
        "log_likelihood": np.zeros(people),
        "log_prior": np.zeros(people),
        "n_choices": np.full(people, 100),
        "converged": np.ones(people, bool),
        "message": ("",) * people,
    }
    return Fit(**{**fields, **changes})


class Measured:
    """An objective: people each measured once, with a known error: y_p ~ N(z_p, S_p); y, error (P, k)."""

    def __init__(self, space, y, error, ids=None):
        self.y, self.error, self.space = y, error, space
        self.ids = tuple(f"p{p}" for p in range(len(y))) if ids is None else ids
        self.n_choices = np.full(len(y), 10)

    def log_likelihood(self, z):
        y, error = torch.from_numpy(self.y), torch.from_numpy(self.error)
        return (-0.5 * ((z - y) / error) ** 2 - torch.log(error) - 0.5 * np.log(2 * np.pi)).sum(-1)

    def only(self, rows):
        return type(self)(self.space, self.y[rows], self.error[rows], tuple(self.ids[row] for row in rows))
