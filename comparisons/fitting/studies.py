"""Fits and recovery studies as independent pieces of work, which run here, on all cores or on a cluster.

Wilson & Collins (2019): before data are collected, simulate people of known parameters, fit them as real ones will
be fitted, and see what comes back. A piece takes plain arguments and gives plain arrays (``pieces.py``); what it
gives depends on its arguments alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..work.pieces import Piece, seed_of
from .agent import TrainedAgent
from .designs import Design
from .estimation import fit_map
from .held_out import CrossValidation, cross_validate, pointwise_draws, psis_loo
from .model_selection import evidence_matrix
from .recovery_measures import Truth
from .results import Fit
from .table.data import Participant
from .variant import Observation, Variant

TOGETHER = 8
"""Participants in a piece: enough to share the cost of calls, few enough to lose little when a run is killed."""
LOO_DRAWS = 250
"""Draws of a posterior by which trials are left out."""
EVIDENCE = ("aic", "bic", "log_evidence")
"""What models are compared by."""


# ---- people ------------------------------------------------------------------------------------------


def fit_people(
    agent: TrainedAgent,
    variant: Variant,
    participants: Sequence[Participant],
    observation: Observation | None,
    restarts: int,
    seed: int,
) -> dict[str, Any]:
    """MAP estimates of some participants, as plain data (``Fit.to_plain``)."""
    objective = variant.objective(agent, participants, observation)
    return fit_map(objective, model=variant.name, restarts=restarts, seed=seed).to_plain()


def cross_validate_people(
    agent: TrainedAgent,
    variant: Variant,
    participants: Sequence[Participant],
    observation: Observation | None,
    restarts: int,
    seed: int,
) -> pd.DataFrame:
    """Each block of some participants predicted from their others: ``CrossValidation.folds``."""
    return cross_validate(
        lambda people: variant.objective(agent, people, observation),
        participants,
        lambda objective: fit_map(objective, model=variant.name, restarts=restarts, seed=seed, draws=0),
        model=variant.name,
    ).folds


def people_pieces(
    agent: TrainedAgent,
    variants: Sequence[Variant],
    participants: Sequence[Participant],
    observation: Observation | None = None,
    restarts: int = 4,
    seed: int = 0,
) -> list[Piece]:
    """Pieces of ``fit_people`` or ``cross_validate_people``: one variant and some participants each.

    Nothing depends on who is in a piece with whom.
    """
    groups = [participants[start : start + TOGETHER] for start in range(0, len(participants), TOGETHER)]
    return [
        Piece(
            f"{variant.name}: {group[0].id}" + (f" to {group[-1].id}" if len(group) > 1 else ""),
            {
                "agent": agent,
                "variant": variant,
                "participants": tuple(group),
                "observation": observation,
                "restarts": restarts,
                "seed": seed,
            },
        )
        for variant in variants
        for group in groups
    ]


def joined(variants: Sequence[Variant], results: Mapping[str, Any]) -> dict[str, Fit]:
    """One ``Fit`` for each variant, of what pieces of ``fit_people`` gave."""
    fits = [Fit.from_plain(plain) for plain in results.values()]
    by_variant = {v.name: [fit for fit in fits if fit.model == v.name] for v in variants}
    return {name: Fit.join(parts) for name, parts in by_variant.items() if parts}


def held_out(variants: Sequence[Variant], results: Mapping[str, Any]) -> dict[str, CrossValidation]:
    """One ``CrossValidation`` for each variant, of what pieces of ``cross_validate_people`` gave."""
    found = {}
    for variant in variants:
        own = [folds for name, folds in results.items() if name.startswith(f"{variant.name}: ")]
        if own:
            found[variant.name] = CrossValidation(variant.name, "blocks", pd.concat(own, ignore_index=True))
    return found


def loo_people(
    agent: TrainedAgent,
    variant: Variant,
    participants: Sequence[Participant],
    observation: Observation | None,
    fitted: Mapping[str, Any],
) -> pd.DataFrame:
    """Each trial of some participants predicted from all others: ``Loo.table``, from the draws of their fit."""
    fit = Fit.from_plain(dict(fitted))
    kept = [p for p in participants if p.id in fit.ids]
    if not kept or fit.samples is None:
        return pd.DataFrame({"model": [], "participant": [], "elpd": []})
    objective = variant.objective(agent, kept, observation)
    draws = pointwise_draws(objective, fit.samples[:: max(1, len(fit.samples) // LOO_DRAWS)])
    return psis_loo(draws, fit.ids, model=variant.name).table()


def loo_pieces(
    agent: TrainedAgent,
    variants: Sequence[Variant],
    participants: Sequence[Participant],
    observation: Observation | None,
    fits: Mapping[str, Any],
) -> list[Piece]:
    """Pieces of ``loo_people``, for what pieces of ``fit_people`` gave."""
    kept = ("agent", "variant", "participants", "observation")
    return [
        Piece(piece.name, {name: piece.arguments[name] for name in kept} | {"fitted": fits[piece.name]})
        for piece in people_pieces(agent, variants, participants, observation)
        if piece.name in fits
    ]


def left_out_trials(variants: Sequence[Variant], results: Mapping[str, pd.DataFrame]) -> dict[str, pd.Series]:
    """Expected log predictive densities by participant, of each variant, of pieces of ``loo_people``."""
    every = pd.concat([table for table in results.values() if len(table)], ignore_index=True)
    return {v.name: every[every["model"] == v.name].set_index("participant")["elpd"] for v in variants}


# ---- recovery of parameters --------------------------------------------------------------------------


def recover_parameters(
    agent: TrainedAgent,
    variant: Variant,
    design: Design,
    people: int,
    restarts: int,
    seed: int,
    observation: Observation | None = None,
) -> dict[str, Any]:
    """One group of people whose parameters are drawn from the prior, simulated and fitted.

    Returns:
        ``true``: natural values by participant, with ``parameters`` as columns; ``fit`` as plain data.
    """
    z = variant.space.draw(people, np.random.default_rng((seed, 1)))
    shown = variant.simulate(agent, design, z, seed, observation=observation)
    objective = variant.objective(agent, shown, observation)
    fit = fit_map(objective, model=variant.name, restarts=restarts, seed=seed)
    return {"true": variant.space.natural_array(z), "ids": [p.id for p in shown], "fit": fit.to_plain()}


def recovered(plain: Mapping[str, Any]) -> tuple[Truth, Fit]:
    """Truth and fit of a piece of ``recover_parameters``, for ``recovery_across`` and ``calibrate``."""
    fit = Fit.from_plain(plain["fit"])
    return pd.DataFrame(plain["true"], index=plain["ids"], columns=list(fit.space.names)), fit


def parameter_pieces(
    agent: TrainedAgent,
    variant: Variant,
    designs: Sequence[Design],
    people: int,
    groups: int,
    restarts: int = 4,
    seed: int = 0,
    observation: Observation | None = None,
) -> list[Piece]:
    """Pieces of ``recover_parameters``: so many groups in each design, named by its number of trials."""
    pieces = []
    for design in designs:
        for group in range(groups):
            name = f"{design.trials} trials, {people} people, group {group + 1}"
            arguments = {
                "agent": agent,
                "variant": variant,
                "design": design,
                "people": people,
                "restarts": restarts,
                "seed": seed_of(seed, name),
                "observation": observation,
            }
            pieces.append(Piece(name, arguments))
    return pieces


def of_design(design: Design, results: Mapping[str, Any]) -> list[tuple[Truth, Fit]]:
    """What was recovered in a design, group by group."""
    return [recovered(plain) for name, plain in results.items() if name.startswith(f"{design.trials} trials, ")]


# ---- recovery of models ------------------------------------------------------------------------------


def recover_model(
    agent: TrainedAgent,
    truth: Variant,
    candidates: Sequence[Variant],
    design: Design,
    people: int,
    restarts: int,
    seed: int,
    observation: Observation | None = None,
) -> dict[str, Any]:
    """One group of people of one variant, fitted with all: ``evidence_matrix`` (P, M) by each of ``EVIDENCE``.

    A person whom some variant cannot fit is left out.
    """
    z = truth.space.draw(people, np.random.default_rng((seed, 1)))
    shown = truth.simulate(agent, design, z, seed, observation=observation)
    fits = [
        fit_map(v.objective(agent, shown, observation), model=v.name, restarts=restarts, seed=seed)
        for v in candidates
    ]
    common = [p.id for p in shown if all(p.id in fit.ids for fit in fits)]
    found = {name: evidence_matrix(fits, name, common).to_numpy() for name in EVIDENCE}
    return {"truth": truth.name, "models": [v.name for v in candidates], **found}


def model_pieces(
    agent: TrainedAgent,
    candidates: Sequence[Variant],
    design: Design,
    people: int,
    groups: int,
    restarts: int = 4,
    seed: int = 0,
    observation: Observation | None = None,
) -> list[Piece]:
    """Pieces of ``recover_model``: so many groups of each variant."""
    pieces = []
    for truth in candidates:
        for group in range(groups):
            name = f"{truth.name}, {design.trials} trials, {people} people, group {group + 1}"
            arguments = {
                "agent": agent,
                "truth": truth,
                "candidates": tuple(candidates),
                "design": design,
                "people": people,
                "restarts": restarts,
                "seed": seed_of(seed, name),
                "observation": observation,
            }
            pieces.append(Piece(name, arguments))
    return pieces


def best_models(results: Mapping[str, Any], criterion: str = "log_evidence") -> tuple[list[str], list[str]]:
    """Of each person of pieces of ``recover_model``: their variant, and the one that explains them best."""
    simulated, best = [], []
    for plain in results.values():
        values = plain[criterion][np.isfinite(plain[criterion]).all(1)]
        simulated += [plain["truth"]] * len(values)
        best += [plain["models"][m] for m in values.argmax(1)]
    return simulated, best


def best_of_groups(results: Mapping[str, Any], criterion: str = "log_evidence") -> tuple[list[str], list[str]]:
    """The same of each group: the best is the one with the largest sum over people."""
    simulated, best = [], []
    for plain in results.values():
        values = plain[criterion][np.isfinite(plain[criterion]).all(1)]
        simulated.append(plain["truth"])
        best.append(plain["models"][int(values.sum(0).argmax())])
    return simulated, best
