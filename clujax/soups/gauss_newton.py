"""Coefficients of a block by Gauss–Newton steps: b·L derivatives of the outputs, and a b·L × b·L system."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from clujax.soups.descent import held_out_loss, rows_of
from clujax.soups.directions import Span
from clujax.soups.objective import Objective
from clujax.soups.soup import as_model


class GaussNewton(NamedTuple):
    """Damped Gauss–Newton steps over all held-out batches; the loss never rises.

    A step costs b·L forward derivatives of the model; damping is multiplied by 10 until the loss falls and divided by 10
    after it has.

    Attributes:
        steps: at most.
        damping: λ, relative to the mean of the system's diagonal.
        chunk: derivatives at a time.
        tries: of one step with growing damping; then the block is done.
    """

    steps: int = 5
    damping: float = 1e-3
    chunk: int = 32
    tries: int = 6

    def prepare(self, span: Span, loss_fn: Any, steps: int, dtypes: Sequence[Any]) -> Callable:
        """As `Descent.prepare`; the loss must be an `Objective`, whose outputs can be linearised."""
        if not isinstance(loss_fn, Objective):
            raise ValueError(f"GaussNewton needs the outputs of the model: give an Objective, not {loss_fn!r:.80}.")
        system = make_system(span, loss_fn, dtypes, self.chunk)
        loss_of, mix = held_out_loss(loss_fn, dtypes), jax.jit(span.mix)

        def run(center, directions, x, batches, key, constrain=None, told=None):
            damping, losses = self.damping, [loss_of(mix(center, directions, x), batches)]
            for step in range(self.steps):
                share = np.asarray([rows_of(batch) for batch in batches], float)
                share /= share.sum()
                parts = [system(center, directions, x, batch) for batch in batches]
                gradient, matrix = (sum(s * part[i] for s, part in zip(share, parts)) for i in (0, 1))
                for _ in range(self.tries):
                    moved = x + _solved(matrix, gradient, damping).reshape(x.shape).astype(x.dtype)
                    moved = moved if constrain is None else constrain(moved)
                    loss = loss_of(mix(center, directions, moved), batches)
                    if loss < losses[-1]:
                        x, damping = moved, damping / 10
                        losses.append(loss)
                        break
                    damping *= 10
                else:
                    break
                if told is not None:
                    told(step, x)
            return x, np.asarray(losses)

        run.step = system
        return run


def make_system(span: Span, objective: Objective, dtypes: Sequence[Any], chunk: int = 32) -> Callable:
    """The compiled function (center, directions, x, batch) -> (gradient [bL], JᵀHJ [bL, bL]) of the batch's loss.

    J are the derivatives of the outputs along every coefficient, H the loss's second derivative in the outputs.
    """

    def system(center, directions, x, batch):
        def outputs(flat):
            theta = as_model(span.mix(center, directions, flat.reshape(x.shape)), dtypes)
            return objective.outputs(theta, batch, jax.random.key(0))

        found, push = jax.linearize(outputs, x.ravel())
        slope = lambda out: jax.grad(objective.loss)(out, batch)
        curve = lambda v: jax.jvp(slope, (found,), (v,))[1]
        rows = jax.lax.map(push, jnp.eye(x.size, dtype=x.dtype), batch_size=chunk)
        bent = jax.lax.map(curve, rows, batch_size=chunk)
        flat = lambda values: values.reshape(x.size, -1)
        high = jax.lax.Precision.HIGHEST
        return (
            jnp.matmul(flat(rows), slope(found).ravel(), precision=high),
            jnp.matmul(flat(rows), flat(bent).T, precision=high),
        )

    return jax.jit(system)


@jax.jit
def _solved(matrix, gradient, damping):
    lift = damping * jnp.trace(matrix) / len(matrix) + jnp.finfo(matrix.dtype).tiny
    operator = lx.MatrixLinearOperator(matrix + lift * jnp.eye(len(matrix)), lx.positive_semidefinite_tag)
    return lx.linear_solve(operator, -gradient, lx.Cholesky(), throw=False).value
