"""Full Bayes: draws from the posterior of all people and their group, by Hamiltonian Monte Carlo (NUTS).

    z_p ~ N(X_p β, diag(σ²))      in units of the usual prior, u = (z − mean) / sd:
    β ~ N(0, 1)                   each mean of the group, and each effect of one standard deviation of a covariate
    σ ~ half-normal(1)            each spread: 95 % below twice the standard deviation of the usual prior

The likelihood is the exact one, with its gradient; the sampler is Pyro's NUTS (Hoffman & Gelman, 2014), whose step
size and metric are adapted in the warm-up as Stan does it. What is sampled is not u but ξ,

    u_p = μ_p + σ ∘ (B_p⁻¹ σ ∘ (H_p (û_p − μ_p) + g_p) + L_p⁻ᵀ ξ_p),   B_p = L_p L_pᵀ = 1 + σ H_p σ,   μ_p = X_p β,

with û_p the mode under the usual prior (``fit_map``), and g_p, H_p the gradient and curvature of the person's
log-likelihood there. Were it normal, ξ would be standard normal whatever the group: between the centred form and
the non-centred, which this is for people without data (H_p = g_p = 0). β and log σ are sampled in units of what
they would be known to if all z_p were. The posterior is the same, whatever û, g, H and these units; the sampler
needs fewer steps if they are good.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .estimation import Progress, check_least, fit_map
from .group import design_matrix
from .objective import Objective
from .parameters import log_normal
from .results import Fit, group_table

MOST_R_HAT = 1.01
"""Rank-normalised split r-hat, and ..."""
LEAST_ESS = 100
"""... effective draws per chain, in bulk and tails, that estimates should rest on (Vehtari et al., 2021)."""


def fit_bayes(
    objective: Objective,
    *,
    model: str = "",
    covariates: pd.DataFrame | None = None,
    chains: int = 4,
    draws: int = 500,
    warmup: int = 500,
    seed: int = 0,
    hierarchical: bool = True,
    progress: Progress | None = None,
) -> Fit:
    """Draws from the posterior. Each takes some 10 to 20 evaluations of the likelihood and its gradient.

    Chains start near the modes that ``fit_map`` has found: a posterior with other hills far from there is not
    noticed, as by any sampler that climbs.

    Args:
        objective: the log-likelihoods.
        model: name of the variant, for tables.
        covariates: what the group's means depend on, as in ``fit_empirical_bayes``.
        chains: at least 2, one after the other, from different starts.
        draws: that are kept of each chain.
        warmup: iterations before, in which the sampler is adapted.
        seed: of starts and draws; results depend on it, and on who is fitted together.
        hierarchical: whether people share a group, whose means and spreads are estimated; otherwise each has the
            usual prior.
        progress: called with the number of iterations done, warm-up included, and of all.

    Returns:
        With ``samples``; z are means of the draws. ``group`` has posterior means, standard deviations (``se``) and
        95 % intervals of means and effects, and of ``group_sd``. ``converged``: r-hat ≤ 1.01, at least 100
        effective draws per chain, in the bulk and in the tails, for all parameters of the participant and of the
        group, and no divergences. Participants who cannot be fitted are in ``failures``.

    Raises:
        ImportError: pyro-ppl and arviz are not installed.
        ValueError: a number or a covariate makes no sense, or nobody can be fitted.
    """
    _tools()
    check_least("fit_bayes", chains=(chains, 2), draws=(draws, 4), warmup=(warmup, 1))
    if covariates is not None and not hierarchical:
        raise ValueError("fit_bayes: covariates describe the group; they need hierarchical=True.")
    names, design = design_matrix(objective.ids, covariates)
    first = fit_map(objective, model=model, seed=seed, draws=0)
    if not len(first):
        raise ValueError(f"fit_bayes: no participant can be fitted: {first.failures}.")
    rows = [objective.ids.index(id) for id in first.ids]
    some = objective if len(rows) == len(objective.ids) else objective.only(rows)
    posterior = _Posterior.of(some, first, design[rows], hierarchical)
    total = chains * (warmup + draws)
    each = []
    for c in range(chains):
        before = c * (warmup + draws)
        share = None if progress is None else lambda n, before=before: progress(before + n, total)
        each.append(_chain(posterior, draws, warmup, np.random.default_rng((seed, c)), share))
    kept = {name: torch.stack([own[name] for own, _ in each]) for name in each[0][0]}
    return _fit(posterior, first, names, kept, sum(divergences for _, divergences in each))


def _tools() -> tuple[Any, Any]:
    """Pyro and ArviZ."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # both speak of their own future when they are imported
            import arviz
            import pyro
            import pyro.infer
    except ImportError as error:
        raise ImportError("fit_bayes needs pyro-ppl and arviz: pip install 'eplstm[bayes]'.") from error
    return pyro, arviz


@dataclass(frozen=True, eq=False)
class _Posterior:
    """The density that is sampled: P people, k parameters, q columns of the design; in units of the prior."""

    objective: Objective
    center: Tensor
    """(k,): means of the usual priors, where u = 0."""
    scale: Tensor
    """(k,): their standard deviations."""
    design: Tensor
    """(P, q): ones, and covariates with a standard deviation of 1."""
    spread: np.ndarray
    """(q,): the covariates' own standard deviations; 1 for the ones."""
    mode: Tensor
    """û, (P, k): under the usual prior, so that g = û, the prior's own pull, is the gradient there."""
    curvature: Tensor
    """H, (P, k, k): of the negative log-likelihood at û, without negative eigenvalues."""
    middle: Tensor
    """(q + 1, k): of β and log σ as they are sampled; from the modes."""
    unit: Tensor
    """(q + 1, k): in which they are sampled."""
    hierarchical: bool

    @classmethod
    def of(cls, objective: Objective, first: Fit, design: np.ndarray, hierarchical: bool) -> _Posterior:
        """With modes and curvatures from MAP estimates under the usual priors."""
        center, scale = objective.space.prior_mean, objective.space.prior_sd
        known = np.asarray(np.isfinite(first.covariance).all((1, 2)))
        prior = np.eye(len(scale))
        covariance = np.where(known[:, None, None], first.covariance / np.outer(scale, scale), prior)
        values, vectors = np.linalg.eigh(np.linalg.inv(covariance) - prior)
        curvature = (vectors * np.maximum(values, 0)[:, None]) @ vectors.transpose(0, 2, 1)
        spread = np.where(design.std(0) > 0, design.std(0), 1.0)
        design, mode = design / spread, (first.z - center) / scale
        beta = np.linalg.lstsq(design, mode, rcond=None)[0]
        sigma = np.maximum((mode - design @ beta).std(0), 0.1)
        middle = np.concatenate([beta, np.log(sigma)[None]])
        unit = np.concatenate([np.tile(sigma, (len(beta), 1)), np.full((1, len(sigma)), 0.5**0.5)])
        return cls(
            objective,
            center=torch.from_numpy(center),
            scale=torch.from_numpy(scale),
            design=torch.from_numpy(design),
            spread=spread,
            mode=torch.from_numpy(mode),
            curvature=torch.from_numpy(curvature),
            middle=torch.from_numpy(middle),
            unit=torch.from_numpy(unit / np.sqrt(len(first))),
            hierarchical=hierarchical,
        )

    def group(self, point: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """β (q, k) and σ (k,), in units of the prior."""
        q, k = self.design.shape[1], len(self.scale)
        if not self.hierarchical:
            return torch.zeros(q, k, dtype=torch.float64), torch.ones(k, dtype=torch.float64)
        values = self.middle + self.unit * point["group"].reshape(q + 1, k)
        return values[:q], values[q].exp()

    def people(self, point: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """u (P, k), (u − μ) / σ (P, k), and Σ log diag L_p (P,)."""
        beta, sigma = self.group(point)
        mean = self.design @ beta
        xi = point["people"].reshape(self.mode.shape)
        one = torch.eye(len(sigma), dtype=torch.float64)
        root = torch.linalg.cholesky(one + sigma[:, None] * self.curvature * sigma)
        pull = sigma * (torch.einsum("pij,pj->pi", self.curvature, self.mode - mean) + self.mode)
        from_mean = torch.cholesky_solve(pull[..., None], root) + torch.linalg.solve_triangular(
            root.transpose(1, 2), xi[..., None], upper=True
        )
        standard = from_mean[..., 0]
        return mean + sigma * standard, standard, root.diagonal(dim1=1, dim2=2).log().sum(1)

    def potential(self, point: dict[str, Tensor]) -> Tensor:
        """−log density of (ξ, β, log σ), up to a constant."""
        u, standard, log_root = self.people(point)
        value = self.objective.log_likelihood((self.center + self.scale * u)[None]).sum()
        value = value - 0.5 * (standard**2).sum() - log_root.sum()
        if self.hierarchical:
            beta, sigma = self.group(point)
            value = value + (-0.5 * beta**2).sum() + (sigma.log() - 0.5 * sigma**2).sum()
        return -value

    def start(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Drawn wider than the posterior is likely to be."""
        start = {"people": 2 * rng.standard_normal(self.mode.numel())}
        if self.hierarchical:
            start["group"] = 2 * rng.standard_normal(self.middle.numel())
        return {name: torch.from_numpy(values) for name, values in start.items()}


def _chain(
    posterior: _Posterior,
    draws: int,
    warmup: int,
    rng: np.random.Generator,
    progress: Callable[[int], object] | None,
) -> tuple[dict[str, Tensor], int]:
    """What is kept of a chain: u (draws, P, k), β (draws, q, k), σ (draws, k); and how many draws diverged."""
    pyro, _ = _tools()
    kernel = pyro.infer.NUTS(
        potential_fn=posterior.potential,
        full_mass=[("group",)] if posterior.hierarchical else False,
    )
    kept: dict[str, list[Tensor]] = {"u": [], "beta": [], "sigma": []}
    # Pyro draws from torch's own generator: it is lent to the chain, and comes back as it was.
    with torch.random.fork_rng(devices=[]), pyro.validation_enabled(False):
        torch.manual_seed(int(rng.integers(2**62)))
        point = _usable_start(posterior, rng)
        kernel.initial_params = point
        kernel.setup(warmup)
        for n in range(warmup + draws):
            point = kernel.sample(point)
            if n >= warmup:
                with torch.no_grad():
                    beta, sigma = posterior.group(point)
                    kept["u"].append(posterior.people(point)[0])
                    kept["beta"].append(beta)
                    kept["sigma"].append(sigma)
            if progress is not None:
                progress(n + 1)
        divergences = len(kernel.diagnostics()["divergences"])
        kernel.cleanup()
    return {name: torch.stack(values) for name, values in kept.items()}, divergences


def _usable_start(posterior: _Posterior, rng: np.random.Generator) -> dict[str, Tensor]:
    """A start at which density and gradient are finite: nearer to the modes where a farther one has none."""
    start = posterior.start(rng)
    for _ in range(10):
        point = {name: values.clone().requires_grad_() for name, values in start.items()}
        value = posterior.potential(point)
        gradients = torch.autograd.grad(value, list(point.values()))
        if bool(torch.isfinite(value)) and all(bool(torch.isfinite(g).all()) for g in gradients):
            return start
        start["people"] = start["people"] / 2
    raise ValueError(
        "fit_bayes: the likelihood is not finite at any of 10 starts near the modes; see what fit_map says of "
        "them."
    )


def _fit(posterior: _Posterior, first: Fit, names: list[str], kept: dict[str, Tensor], divergences: int) -> Fit:
    """Draws (chains, draws, ...) as estimates."""
    space, center, scale = first.space, posterior.center.numpy(), posterior.scale.numpy()
    z = center + scale * kept["u"].numpy()
    worst = {name: (own.max if name == "r_hat" else own.min)(1) for name, own in _checks(z).items()}
    group = group_mean = group_sd = None
    if posterior.hierarchical:
        beta = kept["beta"].numpy() * scale / posterior.spread[:, None]
        beta[:, :, 0] += center
        sigma = kept["sigma"].numpy() * scale
        group = _group_table(space.names, names, beta, sigma)
        mean_beta = kept["beta"].mean((0, 1))
        group_mean, group_sd = center + scale * (posterior.design @ mean_beta).numpy(), sigma.mean((0, 1))
    samples = z.reshape(-1, *z.shape[2:])
    mean = samples.mean(0)
    from_mean = samples - mean
    with torch.no_grad():
        log_likelihood = posterior.objective.log_likelihood(torch.from_numpy(mean)[None])[0].numpy()
    messages = _messages(worst, group, divergences, len(z))
    return replace(
        first,
        estimator="bayes",
        z=mean,
        covariance=np.einsum("spi,spj->pij", from_mean, from_mean) / (len(samples) - 1),
        log_likelihood=log_likelihood,
        log_prior=log_normal(
            mean, center if group_mean is None else group_mean, scale if group_sd is None else group_sd
        ),
        converged=np.array([not text for text in messages], dtype=bool),
        message=tuple(messages),
        diagnostics=pd.DataFrame({"participant": first.ids, **worst, "divergences": divergences}),
        group_mean=group_mean,
        group_sd=group_sd,
        group=group,
        samples=samples,
    )


def _checks(values: np.ndarray) -> dict[str, np.ndarray]:
    """r-hat and effective draws of (chains, draws, ...): each (...)."""
    _, arviz = _tools()
    data = arviz.convert_to_dataset({"x": values})
    return {
        "r_hat": arviz.rhat(data)["x"].to_numpy(),
        "ess_bulk": arviz.ess(data, method="bulk")["x"].to_numpy(),
        "ess_tail": arviz.ess(data, method="tail")["x"].to_numpy(),
    }


def _group_table(names: tuple[str, ...], columns: list[str], beta: np.ndarray, sigma: np.ndarray) -> pd.DataFrame:
    """Means and effects (chains, draws, q, k) and spreads (chains, draws, k), in z."""
    (low, high), (sd_low, sd_high) = (np.percentile(values, [2.5, 97.5], axis=(0, 1)) for values in (beta, sigma))
    mean, of_beta, of_sigma = beta.mean((0, 1)), _checks(beta), _checks(sigma)
    means = {"estimate": mean, "se": beta.std((0, 1), ddof=1), "lower": low, "upper": high}
    table = group_table(
        names,
        columns,
        means,
        {"group_sd": sigma.mean((0, 1)), "group_sd_lower": sd_low, "group_sd_upper": sd_high},
    )
    worst = {
        name: (np.maximum if name == "r_hat" else np.minimum)(of_beta[name], of_sigma[name]) for name in of_beta
    }
    return table.assign(**{name: values.T.ravel() for name, values in worst.items()})


def _messages(
    checks: dict[str, np.ndarray], group: pd.DataFrame | None, divergences: int, chains: int
) -> list[str]:
    """For each participant what is not well, and what to do."""
    common = []
    if divergences:
        common.append(
            f"{divergences} draws diverged: parts of the posterior may not have been reached; fix a parameter or "
            "give tighter priors"
        )
    if group is not None:
        of_group = (float(group.r_hat.max()), float(group.ess_bulk.min()), float(group.ess_tail.min()))
        common += _mixing("the group's parameters", *of_group, chains)
    each = np.stack([checks[name] for name in ("r_hat", "ess_bulk", "ess_tail")], axis=1).tolist()
    return [
        "; ".join([*_mixing("their parameters", r_hat, bulk, tail, chains), *common]) for r_hat, bulk, tail in each
    ]


def _mixing(what: str, r_hat: float, bulk: float, tail: float, chains: int) -> list[str]:
    """What r-hat and effective draws say against an estimate."""
    wrong = []
    if not r_hat <= MOST_R_HAT:
        wrong.append(f"the chains do not agree on {what} (r-hat {r_hat:.3f}): raise warmup and draws")
    effective, least = np.floor(min(bulk, tail)), LEAST_ESS * chains
    if not effective >= least:
        wrong.append(f"{effective:.0f} effective draws of {what}, {least} are needed: raise draws")
    return wrong
