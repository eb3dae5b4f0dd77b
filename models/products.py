"""Products of matrices of many agents at once, by whichever library takes less time."""

from __future__ import annotations

import numpy as np
import torch

FEW_ROWS = 8
"""Below which products of several agents take less time at once, of copies, than one by one."""


def product(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> np.ndarray:
    """a b, of P matrices each: (P, m, k), (P, k, n) → out (P, m, n)."""
    if b.shape[-1] == 1:  # where the call takes longer than the product
        return np.matmul(a, b, out=out)
    torch.bmm(torch.from_numpy(a), torch.from_numpy(b), out=torch.from_numpy(out))
    return out


def sum_of_products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Σ_t a_t b_tᵀ, of P matrices each: (T, P, m, B), (T, P, n, B) → (P, m, n)."""
    agents, rows = a.shape[1], a.shape[3]
    if rows == 1:  # as they lie in memory
        return np.matmul(a[..., 0].transpose(1, 2, 0), b[..., 0].transpose(1, 0, 2))
    if agents > 1 and rows < FEW_ROWS:
        return np.matmul(_columns(a), _columns(b).swapaxes(-1, -2))
    found = np.empty((agents, a.shape[2], b.shape[2]))  # without copies
    for p, out in enumerate(torch.from_numpy(found)):
        torch.addbmm(out, torch.from_numpy(a[:, p]), torch.from_numpy(b[:, p]).mT, beta=0, out=out)
    return found


def _columns(array: np.ndarray) -> np.ndarray:
    """The columns of all steps and rows side by side: (T, P, size, B) → (P, size, T · B)."""
    return array.transpose(1, 2, 0, 3).reshape(*array.shape[1:3], -1)
