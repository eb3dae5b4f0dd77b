"""Blocks whose likelihood is computed together: the network's read-outs, and how likely is what was observed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ...models.choices import last_choices, log_probabilities, one_hot
from ...models.person import PARAMETERS, returning
from .network import Batch, acts_in_network
from .observation import Observation, by_trial, log_mixture
from .rounds import rows_at_once
from .table.data import ObservedBlock

Values = Mapping[str, Tensor | float]
"""Natural values of parameters: numbers, or one for each restart and block, (R, B)."""


def equal_share(count: int, most: int) -> int:
    """Size of the parts if count is divided into as few equal parts as can be, of no more than ``most``."""
    return -(-count // -(-count // most)) if count else 1


def unit_numbers(scored: np.ndarray, episode: np.ndarray) -> np.ndarray:
    """Which unit each trial of a block belongs to, (n,) int, numbered by first trials; -1 where it is not scored.

    Trials that return to one ``episode`` (n,) are one unit; -1: to none.
    """
    unit, of_episode, count = np.full(len(scored), -1), {}, 0
    for n in np.flatnonzero(scored).tolist():
        key = int(episode[n])
        unit[n] = of_episode.get(key, count) if key >= 0 else count
        of_episode[key] = unit[n]
        count = max(count, unit[n] + 1)
    return unit


class Chunk:
    """Blocks of equally long trials, whatever their participants.

    Args:
        batch: of their trials.
        blocks: what was shown and chosen.
        owners: (B,) the participant of each, counted from 0.
        observation: what is observed.
        loses_episodes: whether there is an encoding probability below 1.
    """

    def __init__(
        self,
        batch: Batch,
        blocks: Sequence[ObservedBlock],
        owners: Sequence[int],
        observation: Observation,
        loses_episodes: bool,
    ) -> None:
        self._batch, self.owners = batch, torch.tensor(owners)
        self._observation, self._loses_episodes = observation, loses_episodes
        self._constant: dict[bool, Tensor] = {}
        episodes = [returning(b.trials) if loses_episodes else np.full(len(b.trials), -1) for b in blocks]
        units = [
            unit_numbers(observation.scored(block.choices), episode)
            for block, episode in zip(blocks, episodes, strict=True)
        ]
        self._n_units = [int(unit.max()) + 1 for unit in units]
        self._choices = self._arranged([block.choices for block in blocks], -1)
        last = self._arranged([last_choices(block.choices) for block in blocks], -1).numpy()
        self._repeats = torch.from_numpy(one_hot(last, batch.config.n_actions)).movedim(-1, 1)[:, :, None]
        """(T, A, 1, n, B): 1 for the choice made last."""
        self._there = torch.from_numpy(self._batch.arrangement.order >= 0)
        unit, nobody = self._arranged(units, -1), max(self._n_units)
        self._unit = torch.where(unit < 0, nobody, unit)
        self._returns = self._arranged([episode >= 0 for episode in episodes], False)
        counts = torch.zeros(nobody + 1, len(blocks), dtype=torch.int64)
        self._mixed = counts.scatter_add(0, self._unit, self._returns.long()) > 0
        """(units + 1, B): units whose episode may have been lost; the last takes all trials in no unit."""

    def _arranged(self, arrays: list[np.ndarray], filler: float) -> Tensor:
        """(n, T) of each block → (T, n, B), and (n,) → (n, B), in the order in which trials are run."""
        whole = self._batch.arrangement.arranged(arrays, filler)
        return torch.from_numpy(np.ascontiguousarray(np.moveaxis(whole, 2, 0) if whole.ndim == 3 else whole))

    def restarts(self, count: int) -> list[slice]:
        """So many restarts in parts, each as large as cache and memory allow."""
        arranged = self._batch.arrangement
        size = self._batch.config.hidden_size
        rows = rows_at_once(size, arranged.n_trials, arranged.length, len(arranged.events))
        step = equal_share(count, max(1, rows // len(self.owners)))
        return [slice(start, start + step) for start in range(0, count, step)]

    def _readout(self, values: Values, restarts: int, reads: bool = True) -> Tensor:
        """(T, A, R, n, B), or (T, A, 1, n, B) where it depends on no free parameter; ``reads``: the memory."""
        if any(isinstance(value, Tensor) and acts_in_network(name, reads) for name, value in values.items()):
            return self._batch.readout(values, restarts, reads)
        if reads not in self._constant:
            with torch.no_grad():
                self._constant[reads] = self._batch.readout(values, 1, reads)
        return self._constant[reads]

    def units(self, values: Values, restarts: int) -> Tensor:
        """Log-likelihoods of the units of each block, with zeros behind: (R, units, B)."""
        unit = self._by_unit(self._trials(self._readout(values, restarts), values))
        if self._loses_episodes:
            of_lost = self._trials(self._readout(values, restarts, reads=False), values)
            lost = torch.where(self._returns, of_lost, 0.0)
            mixture = log_mixture(unit, self._by_unit(lost), by_trial(values["encoding_probability"]))
            unit = torch.where(self._mixed, mixture, unit)
        return unit.expand(restarts, -1, -1)

    def pointwise(self, values: Values) -> list[np.ndarray]:
        """Log-likelihoods of the units of each block, (units,)."""
        units = self.units(values, 1)[0].numpy()
        return [units[:count, b] for b, count in enumerate(self._n_units)]

    def _log_p(self, readout: Tensor, values: Values) -> Tensor:
        """log p_t: (T, A, R, n, B)."""
        own = {name: by_trial(value) for name, value in values.items() if name in PARAMETERS}
        return log_probabilities(readout, self._repeats, own, axis=1)

    def _trials(self, readout: Tensor, values: Values) -> Tensor:
        """Log-likelihood of each trial: (R, n, B)."""
        log_p = self._log_p(readout, values)
        return self._observation.log_likelihood(log_p, self._choices, self._there, values)

    def _by_unit(self, trials: Tensor) -> Tensor:
        index = self._unit.expand(len(trials), -1, -1)
        return trials.new_zeros(len(trials), *self._mixed.shape).scatter_add(1, index, trials)

    def policies(self, values: Values, lost: list[np.ndarray] | None) -> list[np.ndarray]:
        """p_t of each block, (n, T, A); on trials (n,) that are lost, nothing is retrieved."""
        readout = self._batch.readout(values, 1, full=True)
        if lost is not None:
            without = self._batch.readout(values, 1, reads=False, full=True)
            readout = torch.where(self._arranged(lost, False), without, readout)
        policy = self._log_p(readout, values).exp()[:, :, 0].permute(3, 2, 0, 1).numpy()
        return [own[self._batch.arrangement.places(b)] for b, own in enumerate(policy)]
