"""The dual of a support-vector machine on explicit features of its kernel, by a primal–dual interior-point method."""

import numpy as np
from jaxtyping import Float

from clujax.attacks.rbf_features import Features


def kernel_dual(
    features: Features,
    sign: Float[np.ndarray, " n"],
    bound: Float[np.ndarray, " n"],
    *,
    tolerance: float = 1e-9,
    iterations: int = 100,
) -> tuple[Float[np.ndarray, " n"], float]:
    """Minimise ½ ‖Σ a_i s_i φ_i‖² − Σ a_i over 0 ≤ a ≤ bound, s·a = 0, for K = Φ Φᵀ; the dual a and the bias.

    Mehrotra's predictor and corrector on the optimality conditions, with w = Φᵀ(s a) kept as an unknown of its own: a
    step solves r + 1 equations and never subtracts two large inverses.

    Args:
      features: Φ, rows φ_i.
      sign: +1 or −1, both there.
      bound: C, for each row.
      tolerance: of the duality gap, relative to Σ a; the residuals are held to ten times as much.

    Returns:
      The dual, and the bias: the multiplier of s·a = 0, which at the optimum is the mean of s − f over the rows strictly
      inside their bounds. Where no row is, the bias is not unique and the middle of its interval is taken, as libsvm does.

    Raises:
      FloatingPointError: no convergence within the iterations.

    Source: Mehrotra 1992; for machines, Fine and Scheinberg 2001.
    """
    a, low, high = bound / 2, np.ones_like(bound), np.ones_like(bound)
    # The room to the bound is an unknown too: bound − a would round to 0 first.
    room, w, bias = bound - a, np.zeros(features.size), 0.0
    for _ in range(iterations):
        gap = np.sum(a * low + room * high)
        size = max(1.0, np.sum(a))
        rest = sign * (features.apply(w) + bias) - 1 - low + high
        balance = w - features.transpose(sign * a)
        left = max(np.abs(rest).max(), np.abs(balance).max() / size, abs(np.sum(a * sign)) / size)
        # Rounding can hold the residuals up when the gap has long closed.
        if gap <= tolerance * size and (left <= 10 * tolerance or (gap <= 1e-4 * tolerance * size and left <= 1e-5)):
            return a, _bias(a, bound, sign, sign - features.apply(w), bias)
        scale = 1 / (low / a + high / room)
        solve = features.normal(scale)
        ones = features.transpose(scale)
        of_ones = solve(ones)
        # 1ᵀ (scale⁻¹ + K)⁻¹ 1, what the bias alone would cost.
        stiffness = max(np.sum(scale) - ones @ of_ones, 1e-15 * np.sum(scale))

        def direction(
            low_target, high_target, at=(a, room, low, high, rest, balance, scale, solve, of_ones, stiffness)
        ):
            a, room, low, high, rest, balance, scale, solve, of_ones, stiffness = at
            right = sign * scale * (rest - low_target / a + high_target / room)
            along = solve(-balance - features.transpose(right))
            dbias = np.sum(a * sign - right - scale * features.apply(along)) / stiffness
            dw = along - dbias * of_ones
            da = -sign * (right + scale * (features.apply(dw) + dbias))
            return da, dw, dbias, (low_target - low * da) / a, (high_target + high * da) / room

        da, _, _, dlow, dhigh = direction(-a * low, -room * high)
        primal, dual = min(_reach(a, da), _reach(room, -da)), min(_reach(low, dlow), _reach(high, dhigh))
        ahead = np.sum((a + primal * da) * (low + dual * dlow) + (room - primal * da) * (high + dual * dhigh))
        centre = (ahead / gap) ** 3 * gap / (2 * len(a))
        da, dw, dbias, dlow, dhigh = direction(centre - a * low - da * dlow, centre - room * high + da * dhigh)
        step = 0.995 * min(_reach(a, da), _reach(room, -da), _reach(low, dlow), _reach(high, dhigh))
        a, room, w, bias = a + step * da, room - step * da, w + step * dw, bias + step * dbias
        low, high = low + step * dlow, high + step * dhigh
    raise FloatingPointError(
        f"no convergence in {iterations} iterations on {len(a)} rows: relative gap {gap / size:.2e}."
    )


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
