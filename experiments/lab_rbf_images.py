"""Classification of Fashion-MNIST by a few hundred images: test accuracy against support size and training rows.

Command: python experiments/lab_rbf_images.py [--sizes 100,200,400] [--rows 18000,60000] [--workdir runs/lab_rbf]
Time:    about ten CPU-minutes; every cell is kept, so a killed run goes on
Result:  docs/results/lab_rbf.md, beside the accuracies read off the authors' figures

The authors' schedule: n_max // 30 images of each class to begin with, one epoch a growth round, three at the end. Ridge and
the start of the bandwidths are chosen on a fifth of the first 6,000 training images, at 100 support points.
"""

import argparse

import jax
import numpy as np
from lab_rbf import Cells

from clujax import data
from clujax.geometry.kernels import gaussian
from clujax.regression import FitOptions, Objective, adam, fit_lab_rbf, predict
from clujax.regression.bandwidths import sse
from clujax.regression.choice import choose, error_rate
from clujax.regression.report import classification_metrics
from clujax.regression.selection import misclassified, per_class
from clujax.regression.settings import epochs

AUTHORS = {(100, 18000): 85.9, (200, 18000): 87.0, (400, 18000): 87.4, (100, 30000): 86.5, (200, 30000): 87.7,
           (400, 30000): 88.3, (100, 60000): 87.2, (200, 60000): 88.5, (400, 60000): 89.3}  # fmt: skip
BATCH = 256


def options_for(size, rows, ridge, bandwidth):
    return FitOptions(
        Objective(gaussian, sse), ridge=ridge, n_max=size, n_init=10 * max(1, size // 30), bandwidth=bandwidth,
        grow_steps=epochs(1, rows, BATCH), final_steps=epochs(3, rows, BATCH), batch_size=BATCH, grow_tx=adam(1e-2),
        final_tx=adam(1e-3), start=per_class, grow=misclassified, least_growth=20, scale_y=False, clip=False,
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="100,200,400")
    parser.add_argument("--rows", default="18000,60000")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--workdir", default="runs/lab_rbf")
    arguments = parser.parse_args()
    cells, found = Cells(arguments.workdir), data.load("fashion_mnist")
    flat = lambda part: np.asarray(part["x"], np.float32).reshape(len(part["y"]), -1)
    x, new, eye = flat(found.train), flat(found.test), np.eye(10)
    y, truth = eye[found.train["y"]], eye[found.test["y"]]

    def chosen():
        first = np.random.default_rng(99).permutation(len(x))[:6000]
        grid = [(ridge, bandwidth) for ridge in (1e-4, 1e-2) for bandwidth in (1.0, 3.6, 10.0)]
        options = [options_for(100, 6000, *each) for each in grid]
        errors = choose(jax.random.key(7), x[first], y[first], options, error=error_rate).errors
        return {"settings": grid[int(np.argmin(errors))], "errors": dict(zip(map(str, grid), errors))}

    ridge, bandwidth = cells(("fashion", 0, "settings"), chosen)["settings"]
    for rows in map(int, arguments.rows.split(",")):
        for size in map(int, arguments.sizes.split(",")):
            for seed in range(arguments.seeds):

                def measure(seed=seed, rows=rows, size=size):
                    take = np.random.default_rng(seed).permutation(len(x))[:rows]
                    model, state = fit_lab_rbf(
                        jax.random.key(seed), x[take], y[take], options_for(size, rows, ridge, bandwidth)
                    )
                    scores = classification_metrics(predict(model, new), truth)
                    return scores | {"support": len(state.support), "sizes": [each["n"] for each in state.history],
                                     "authors": AUTHORS.get((size, rows))}  # fmt: skip

                cells(("fashion", seed, f"n {size} rows {rows}"), measure)


if __name__ == "__main__":
    main()
