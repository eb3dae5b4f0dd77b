"""Fits and recovery studies as independent pieces of work, which run here, on all cores or on a cluster.

Wilson & Collins (2019): before data are collected, simulate people of known parameters, fit them as real ones will
be fitted, and see what comes back. A piece takes plain arguments and gives plain arrays (``pieces.py``); what it
gives depends on its arguments alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ..work.pieces import Piece, seed_of
from .agent import TrainedAgent
from .designs import Design
from .estimation import fit_map
from .held_out import cross_validate, pointwise_draws, psis_loo, total_scores
from .model_selection import CRITERIA, evidence_matrix
from .observation import Observation
from .recovery_measures import Truth
from .results import Fit
from .table.data import Participant
from .variant import Variant

TOGETHER = 8
"""Participants in a piece: enough to share the cost of calls, few enough to lose little when a run is killed."""
LOO_DRAWS = 250
"""Draws of a posterior by which trials are left out."""


@dataclass(frozen=True)
class Setting:
    """What all pieces of a study share."""

    agent: TrainedAgent
    observation: Observation | None = None
    restarts: int = 4
    seed: int = 0

    def fit(self, variant: Variant, participants: Sequence[Participant]) -> Fit:
        """MAP estimates, with draws."""
        objective = variant.objective(self.agent, participants, self.observation)
        return fit_map(objective, model=variant.name, restarts=self.restarts, seed=self.seed)

    def simulate(self, variant: Variant, design: Design, people: int) -> tuple[np.ndarray, list[Participant]]:
        """People whose parameters are drawn from the prior: z (people, k), and what they choose."""
        z = variant.space.draw(people, np.random.default_rng((self.seed, 1)))
        return z, variant.simulate(self.agent, design, z, self.seed, observation=self.observation)

    def groups(self, name: str, groups: int, **arguments: Any) -> list[Piece]:
        """A piece for each of so many groups, each with a seed of its own."""
        names = [f"{name}, group {group + 1}" for group in range(groups)]
        return [Piece(n, {"setting": replace(self, seed=seed_of(self.seed, n)), **arguments}) for n in names]


# ---- people ------------------------------------------------------------------------------------------


def fit_people(setting: Setting, variant: Variant, participants: Sequence[Participant]) -> dict[str, Any]:
    """MAP estimates of some participants, as plain data (``Fit.to_plain``)."""
    return setting.fit(variant, participants).to_plain()


def cross_validate_people(setting: Setting, variant: Variant, participants: Sequence[Participant]) -> pd.DataFrame:
    """Each block of some participants predicted from their others (``cross_validate``)."""
    return cross_validate(
        lambda people: variant.objective(setting.agent, people, setting.observation),
        participants,
        lambda objective: fit_map(objective, restarts=setting.restarts, seed=setting.seed, draws=0),
    )


def people_pieces(
    setting: Setting, variants: Sequence[Variant], participants: Sequence[Participant]
) -> list[Piece]:
    """Pieces of ``fit_people`` or ``cross_validate_people``: one variant and some participants each.

    Nothing depends on who is in a piece with whom.
    """
    groups = [tuple(participants[start : start + TOGETHER]) for start in range(0, len(participants), TOGETHER)]
    return [
        Piece(
            f"{variant.name}: {group[0].id}" + (f" to {group[-1].id}" if len(group) > 1 else ""),
            {"setting": setting, "variant": variant, "participants": group},
        )
        for variant in variants
        for group in groups
    ]


def joined(variants: Sequence[Variant], results: Mapping[str, Any]) -> dict[str, Fit]:
    """One ``Fit`` for each variant, of what pieces of ``fit_people`` gave."""
    fits = [Fit.from_plain(plain) for plain in results.values()]
    by_variant = {v.name: [fit for fit in fits if fit.model == v.name] for v in variants}
    return {name: Fit.join(parts) for name, parts in by_variant.items() if parts}


def held_out(variants: Sequence[Variant], results: Mapping[str, pd.DataFrame]) -> dict[str, pd.Series]:
    """Log scores by participant, of each variant, of what pieces of ``cross_validate_people`` gave."""
    found = {}
    for variant in variants:
        own = [folds for name, folds in results.items() if name.startswith(f"{variant.name}: ")]
        if own:
            found[variant.name] = total_scores(pd.concat(own, ignore_index=True))
    return found


def loo_people(
    setting: Setting, variant: Variant, participants: Sequence[Participant], fitted: Mapping[str, Any]
) -> pd.DataFrame:
    """Each trial of some participants predicted from all others: ``Loo.table``, from the draws of their fit."""
    fit = Fit.from_plain(dict(fitted))
    kept = [p for p in participants if p.id in fit.ids]
    if not kept or fit.samples is None:
        return pd.DataFrame({"model": [], "participant": [], "elpd": []})
    objective = variant.objective(setting.agent, kept, setting.observation)
    draws = pointwise_draws(objective, fit.samples[:: max(1, len(fit.samples) // LOO_DRAWS)])
    return psis_loo(draws, fit.ids).table().assign(model=variant.name)


def loo_pieces(pieces: Sequence[Piece], fits: Mapping[str, Any]) -> list[Piece]:
    """Pieces of ``loo_people``, for pieces of ``fit_people`` and what they gave."""
    return [Piece(p.name, {**p.arguments, "fitted": fits[p.name]}) for p in pieces if p.name in fits]


def left_out_trials(variants: Sequence[Variant], results: Mapping[str, pd.DataFrame]) -> dict[str, pd.Series]:
    """Expected log predictive densities by participant, of each variant, of pieces of ``loo_people``."""
    every = pd.concat([table for table in results.values() if len(table)], ignore_index=True)
    return {v.name: every[every["model"] == v.name].set_index("participant")["elpd"] for v in variants}


# ---- recovery of parameters --------------------------------------------------------------------------


def recover_parameters(setting: Setting, variant: Variant, design: Design, people: int) -> dict[str, Any]:
    """One group of people whose parameters are drawn from the prior, simulated and fitted.

    Returns:
        ``true``: natural values by participant, with ``parameters`` as columns; ``fit`` as plain data.
    """
    z, shown = setting.simulate(variant, design, people)
    plain = setting.fit(variant, shown).to_plain()
    return {"true": variant.space.natural_array(z), "ids": [p.id for p in shown], "fit": plain}


def parameter_pieces(
    setting: Setting, variant: Variant, designs: Sequence[Design], people: int, groups: int
) -> list[Piece]:
    """Pieces of ``recover_parameters``: so many groups in each design, named by its number of trials."""
    return [
        piece
        for design in designs
        for piece in setting.groups(
            f"{design.trials} trials, {people} people", groups, variant=variant, design=design, people=people
        )
    ]


def of_design(design: Design, results: Mapping[str, Any]) -> list[tuple[Truth, Fit]]:
    """Truth and fit of what was recovered in a design, group by group."""
    found = []
    for name, plain in results.items():
        if name.startswith(f"{design.trials} trials, "):
            fit = Fit.from_plain(plain["fit"])
            found.append((pd.DataFrame(plain["true"], index=plain["ids"], columns=list(fit.space.names)), fit))
    return found


# ---- recovery of models ------------------------------------------------------------------------------


def recover_model(
    setting: Setting, truth: Variant, candidates: Sequence[Variant], design: Design, people: int
) -> dict[str, Any]:
    """One group of people of one variant, fitted with all: ``evidence_matrix`` (P, M) by each of ``CRITERIA``.

    A person whom some variant cannot fit is left out.
    """
    _, shown = setting.simulate(truth, design, people)
    fits = [setting.fit(variant, shown) for variant in candidates]
    common = [p.id for p in shown if all(p.id in fit.ids for fit in fits)]
    found = {name: evidence_matrix(fits, name, common).to_numpy() for name in CRITERIA}
    return {"truth": truth.name, "models": [v.name for v in candidates], **found}


def model_pieces(
    setting: Setting, candidates: Sequence[Variant], design: Design, people: int, groups: int
) -> list[Piece]:
    """Pieces of ``recover_model``: so many groups of each variant."""
    shared = {"candidates": tuple(candidates), "design": design, "people": people}
    return [
        piece
        for truth in candidates
        for piece in setting.groups(
            f"{truth.name}, {design.trials} trials, {people} people", groups, truth=truth, **shared
        )
    ]


def best_models(
    results: Mapping[str, Any], criterion: str = "log_evidence", by_group: bool = False
) -> tuple[list[str], list[str]]:
    """Of each person of pieces of ``recover_model``: their variant, and the one that explains them best.

    ``by_group``: of each group, whose best variant is the one with the largest sum over people.
    """
    simulated, best = [], []
    for plain in results.values():
        values = plain[criterion][np.isfinite(plain[criterion]).all(1)]
        values = values.sum(0, keepdims=True) if by_group else values
        simulated += [plain["truth"]] * len(values)
        best += [plain["models"][m] for m in values.argmax(1)]
    return simulated, best
