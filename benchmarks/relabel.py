"""Time and memory of relabelling through a head: the normal form beside the published N × N formula, same numbers.

Command: python benchmarks/relabel.py
"""

import argparse
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
from timing import interleaved, table

from clujax.unlearning import heads


def published_form(remain, start, trained, ridge):
    """Π_ε(V_p − V_0) + V_0 + V_p with Π_ε = Zᵀ(ZZᵀ + ε)⁻¹Z: an N × N system, in float64."""
    gram = remain @ remain.T
    gram[np.diag_indices_from(gram)] += ridge
    return remain.T @ np.linalg.solve(gram, remain @ (trained - start)) + start + trained


def peak(function) -> float:
    """MiB of numpy arrays alive at once while the function runs."""
    tracemalloc.start()
    function()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / 2**20


def main() -> None:
    """Print both, and how far their numbers are apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--width", type=int, default=512, help="features before the appended one")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = options.rows, options.width + 1
    remain = np.concatenate([rng.normal(size=(shape[0], shape[1] - 1)), np.ones((shape[0], 1))], 1)
    start, trained = (rng.normal(size=(shape[1], options.classes)) for _ in range(2))
    labels = rng.integers(0, options.classes, options.rows)
    targets = heads.centred_targets(labels, options.classes)
    ridge = 1e-2 * np.square(remain).sum() / shape[1]
    narrow = [jnp.asarray(part, jnp.float32) for part in (remain, start)]

    @jax.jit
    def refit(features, targets, start):
        gram = heads.gram_update(heads.gram_init(shape[1], options.classes), features, targets)
        return heads.refit_head(gram, start, heads.absolute_ridge(gram, 1e-2))

    def published_exact():
        with jax.enable_x64(True):
            gram = heads.gram_update(heads.gram_init(shape[1], 1, np.float64), remain, np.zeros((shape[0], 1)))
            return np.asarray(heads.published_head(gram, start, trained, ridge))

    normal = lambda: refit(narrow[0], targets, narrow[1]).block_until_ready()
    theirs = lambda: published_form(remain, start, trained, ridge)
    apart = np.abs(published_exact() - theirs()).max()
    found = interleaved(
        {"refit": normal, "published, h × h": published_exact, "published, N × N": theirs}, options.repeats
    )
    rows = [
        ("refitted head, float32", "published formula, N × N", found["refit"], found["published, N × N"], "≤ 0.5 s"),
        ("published formula, h × h", "the same, N × N", found["published, h × h"], found["published, N × N"], "≤ 0.01"),
    ]
    print(table(f"relabelling: {options.rows} rows, {shape[1]} features, {options.classes} classes", rows))
    print(f"largest difference of the two published forms: {apart:.1e}")
    held = (shape[1] ** 2 + shape[1] * options.classes) * 4 / 2**20
    print(f"sufficient statistics {held:.1f} MiB; N × N formula peaks at {peak(theirs):.0f} MiB of arrays")


if __name__ == "__main__":
    main()
