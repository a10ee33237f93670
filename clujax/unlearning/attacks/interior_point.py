"""The dual of a support-vector machine on a factored kernel, by a primal–dual interior-point method."""

import numpy as np
from jaxtyping import Float


def kernel_dual(
    factor: Float[np.ndarray, "n r"],
    sign: Float[np.ndarray, " n"],
    bound: Float[np.ndarray, " n"],
    *,
    tolerance: float = 1e-9,
    iterations: int = 100,
) -> tuple[Float[np.ndarray, " n"], float]:
    """Minimise ½ ‖Σ a_i s_i g_i‖² − Σ a_i over 0 ≤ a ≤ bound, s·a = 0, for K = G Gᵀ; the dual a and the bias.

    Mehrotra's predictor and corrector on the optimality conditions, with w = Gᵀ(s a) kept as an unknown of its own: a
    step solves r + 1 equations and never subtracts two large inverses.

    Args:
      factor: G, rows g_i.
      sign: +1 or −1.
      bound: C, for each row.
      tolerance: of the duality gap, relative to Σ a; the residuals are held to ten times as much.

    Returns:
      The dual, and the bias: the multiplier of s·a = 0, which at the optimum is the mean of s − f over the rows strictly
      inside their bounds. Where no row is, the bias is not unique and the middle of its interval is taken, as libsvm does.

    Raises:
      FloatingPointError: no convergence within the iterations.

    Source: Mehrotra 1992; for machines, Fine and Scheinberg 2001. Cost: n r² an iteration.
    """
    count, rank = factor.shape
    design = np.concatenate([factor * sign[:, None], sign[:, None]], 1)
    own = np.append(np.ones(rank), 0.0)
    a, low, high = bound / 2, np.ones(count), np.ones(count)
    # The room to the bound is an unknown too: bound − a would round to 0 first.
    room, w = bound - a, np.zeros(rank + 1)  # the bias last in w
    for _ in range(iterations):
        gap = a @ low + room @ high
        rest = design @ w - 1 - low + high
        balance = own * w - design.T @ a
        size = max(1.0, np.sum(a))
        left = max(np.abs(rest).max(), np.abs(balance).max() / size)
        # Rounding can hold the residuals up when the gap has long closed.
        if gap <= tolerance * size and (left <= 10 * tolerance or (gap <= 1e-4 * tolerance * size and left <= 1e-5)):
            return a, _bias(a, bound, sign, sign - factor @ w[:-1], w[-1])
        scale = 1 / (low / a + high / room)
        triangle = _triangle(design, scale, own)

        def direction(low_target, high_target, at=(a, room, low, high, rest, balance, scale, triangle)):
            a, room, low, high, rest, balance, scale, triangle = at
            right = rest - low_target / a + high_target / room
            dw = np.linalg.solve(triangle.T, np.linalg.solve(triangle, -balance - design.T @ (scale * right)))
            da = -scale * (right + design @ dw)
            return dw, da, (low_target - low * da) / a, (high_target + high * da) / room

        _, da, dlow, dhigh = direction(-a * low, -room * high)
        primal, dual = min(_reach(a, da), _reach(room, -da)), min(_reach(low, dlow), _reach(high, dhigh))
        ahead = (a + primal * da) @ (low + dual * dlow) + (room - primal * da) @ (high + dual * dhigh)
        centre = (ahead / gap) ** 3 * gap / (2 * count)
        dw, da, dlow, dhigh = direction(centre - a * low - da * dlow, centre - room * high + da * dhigh)
        step = 0.995 * min(_reach(a, da), _reach(room, -da), _reach(low, dlow), _reach(high, dhigh))
        a, room, w = a + step * da, room - step * da, w + step * dw
        low, high = low + step * dlow, high + step * dhigh
    raise FloatingPointError(
        f"no convergence in {iterations} iterations on {count} rows: relative gap {gap / size:.2e}."
    )


def _triangle(design, scale, own):
    """Cholesky factor of diag(own) + designᵀ diag(scale) design."""
    weighted = design * np.sqrt(scale)[:, None]
    system = weighted.T @ weighted
    system[np.diag_indices(len(own))] += own
    # Rows strictly inside their bounds get scales without limit near the optimum: rounding, relative to the largest entry.
    system[np.diag_indices(len(own))] += 1e-15 * np.max(np.diag(system))
    return np.linalg.cholesky(system)


def _reach(value, change):
    """How far along a change a positive value stays positive, at most 1."""
    down = change < 0
    return min(1.0, np.min(-value[down] / change[down])) if down.any() else 1.0


def _bias(a, bound, sign, wanted, multiplier):
    """The multiplier where a row is strictly inside its bounds, else the middle of what the rows allow."""
    lower, upper = a <= 1e-4 * bound, a >= (1 - 1e-4) * bound
    if not np.all(lower | upper):
        return float(multiplier)
    at_least = np.where(lower, sign > 0, sign < 0)
    return float((np.max(wanted[at_least]) + np.min(wanted[~at_least])) / 2)
