"""The scikit-learn face: `LabRbfRegressor`, `LabRbfRegressorCV` and `LabRbfClassifier` (needs scikit-learn >= 1.6)."""

import contextlib
import itertools
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from clujax.regression.bandwidths import sse
from clujax.regression.choice import choose, leave_one_out_ridge
from clujax.regression.fit import LabRbfModel, fit_lab_rbf, predict
from clujax.regression.selection import row_groups
from clujax.regression.settings import epochs, fit_options

__all__ = ["LabRbfClassifier", "LabRbfRegressor", "LabRbfRegressorCV"]


class _LabRbf(BaseEstimator):
    """What the estimators share: options from parameters, the fit, attributes in the user's units."""

    def _options(self, rows: int, distinct: int, **more: Any):
        n_max = min(350, max(1, rows // 2)) if self.n_max is None else self.n_max
        fields = {
            "ridge": self.ridge,
            "bandwidth": self.bandwidth,
            "n_init": self.n_init,
            "batch_size": self.batch_size,
        }
        fields |= {"kernel": self.kernel, "bandwidth_mode": self.bandwidth_mode, "solver": self.solver}
        fields |= {
            "learning_rate": self.learning_rate,
            "optimizer": self.optimizer,
            "fit_intercept": self.fit_intercept,
        }
        fields |= {"exclude_support_from_batches": self.exclude_support_from_batches, "dtype": np.dtype(self.dtype)}
        fields |= {"selection": self.selection, "start": self.start}
        return fit_options(**(fields | {"n_max": min(n_max, distinct) if n_max > 0 else n_max} | more))

    def _key(self):
        return jax.random.key(int(check_random_state(self.random_state).randint(2**31 - 1)))

    def _precision(self):
        # The switch is local to the call: the caller's own arrays keep their width.
        return jax.enable_x64(True) if np.dtype(self.dtype) == np.float64 else contextlib.nullcontext()

    def _keep(self, model: LabRbfModel, state: Any, x: np.ndarray) -> None:
        scale = np.asarray(model.y_scaling.half, np.float64)
        self.model_, self.history_, self.support_ = model, state.history, state.support
        self.n_support_ = len(state.support)
        self.support_vectors_ = x[state.support]
        self.theta_ = np.asarray(model.theta, np.float64) / np.asarray(model.x_scaling.half, np.float64)
        self.dual_coef_ = np.asarray(model.coef, np.float64) * scale
        self.intercept_ = np.asarray(model.intercept, np.float64) * scale + model.y_scaling.middle

    def _predict(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        with self._precision():
            return predict(self.model_, X, block_size=self.block_size).astype(np.float64)


class LabRbfRegressor(MultiOutputMixin, RegressorMixin, _LabRbf):
    """Kernel regression on a small support whose every point has its own bandwidths (arXiv 2406.01435).

    f(t) = intercept_ + Σ_j dual_coef_[j] k(‖theta_[j] ⊙ (t − support_vectors_[j])‖²), clipped to the range of y.

    Args:
        kernel: "laplacian" (exp(−d)), "gaussian" (exp(−d²)) or a function of the squared scaled distance.
        ridge: λ ≥ 0; 0 interpolates the support.
        n_max: most support points; by default min(350, half the rows).
        n_init: support points at the start; by default a third of `n_max`.
        bandwidth: Σ_m θ_m² at the start, for inputs scaled to [−1, 1].
        grow_steps: optimizer steps of each growth round.
        final_steps: optimizer steps after the last growth.
        batch_size: rows of a step.
        learning_rate: of Adam.
        optimizer: an optax transformation instead of Adam with a clip.
        loss: "mse", "rmse", "mae", "rsse", "sse" or a function (prediction, target).
        bandwidth_mode: "local", "local_positive", "local_scalar", "ard" or "scalar".
        selection: growth by "residual", "random", "published" or a function.
        start: "stratified", "random" or a function.
        solver: "lu", "gmres", "normal_cg" or a function.
        fit_intercept: subtract the mean of the support's targets first.
        tol_mse: stop growing once the training mean squared error is at most this.
        exclude_support_from_batches: draw batches from the other rows only.
        block_size: rows at a time in `predict`.
        dtype: "float32" or "float64" (switched on for the calls only).
        random_state: decides batches and random choices.
    """

    def __init__(
        self, *, kernel="laplacian", ridge=1e-3, n_max=None, n_init=None, bandwidth=30.0, grow_steps=500, final_steps=5000,
        batch_size=128, learning_rate=1e-2, optimizer=None, loss="mse", bandwidth_mode="local", selection="residual",
        start="stratified", solver="lu", fit_intercept=True, tol_mse=None, exclude_support_from_batches=False,
        block_size=4096, dtype="float32", random_state=None,
    ):  # fmt: skip
        self.kernel = kernel
        self.ridge = ridge
        self.n_max = n_max
        self.n_init = n_init
        self.bandwidth = bandwidth
        self.grow_steps = grow_steps
        self.final_steps = final_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.optimizer = optimizer
        self.loss = loss
        self.bandwidth_mode = bandwidth_mode
        self.selection = selection
        self.start = start
        self.solver = solver
        self.fit_intercept = fit_intercept
        self.tol_mse = tol_mse
        self.exclude_support_from_batches = exclude_support_from_batches
        self.block_size = block_size
        self.dtype = dtype
        self.random_state = random_state

    def fit(self, X, y):
        """Fit on rows X [n, m] and targets y [n] or [n, c]."""
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        options = self._chosen(X, y, self._regression(X))
        with self._precision():
            model, state = fit_lab_rbf(self._key(), X, y, options)
        self._keep(model, state, X)
        return self

    def predict(self, X) -> np.ndarray:
        """Predictions [n], or [n, c] where y was."""
        return self._predict(X)

    def _regression(self, X):
        return self._options(
            len(X), len(np.unique(row_groups(X))), loss=self.loss, tol_mse=self.tol_mse, grow_steps=self.grow_steps,
            final_steps=self.final_steps,
        )  # fmt: skip

    def _chosen(self, X, y, options):
        return options


class LabRbfRegressorCV(LabRbfRegressor):
    """`LabRbfRegressor` that first chooses kernel, ridge and the start of the bandwidths, then fits on all rows.

    Args:
        kernels, ridges, bandwidths: candidates; all combinations are tried.
        choose_by: "hold-out" (a fit of each candidate on the rest of the rows), or "leave-one-out": one fit of each kernel
            and bandwidth at the first ridge, then the ridge by the closed form over its support points.
        share: of the rows that are held out.
        trial_grow_steps: steps of a growth round in the trials.
        trial_final_steps: likewise of the last round.
        **parameters: as `LabRbfRegressor`; `kernel`, `ridge` and `bandwidth` are not used.
    """

    def __init__(
        self, *, kernels=("laplacian", "gaussian"), ridges=(1e-3, 1e-2, 1e-1), bandwidths=(30.0,), choose_by="hold-out",
        share=0.2, trial_grow_steps=200, trial_final_steps=1000,
        kernel="laplacian", ridge=1e-3, n_max=None, n_init=None, bandwidth=30.0, grow_steps=500, final_steps=5000,
        batch_size=128, learning_rate=1e-2, optimizer=None, loss="mse", bandwidth_mode="local", selection="residual",
        start="stratified", solver="lu", fit_intercept=True, tol_mse=None, exclude_support_from_batches=False,
        block_size=4096, dtype="float32", random_state=None,
    ):  # fmt: skip
        super().__init__(
            kernel=kernel, ridge=ridge, n_max=n_max, n_init=n_init, bandwidth=bandwidth, grow_steps=grow_steps,
            final_steps=final_steps, batch_size=batch_size, learning_rate=learning_rate, optimizer=optimizer, loss=loss,
            bandwidth_mode=bandwidth_mode, selection=selection, start=start, solver=solver, fit_intercept=fit_intercept,
            tol_mse=tol_mse, exclude_support_from_batches=exclude_support_from_batches, block_size=block_size,
            dtype=dtype, random_state=random_state,
        )  # fmt: skip
        self.kernels = kernels
        self.ridges = ridges
        self.bandwidths = bandwidths
        self.choose_by = choose_by
        self.share = share
        self.trial_grow_steps = trial_grow_steps
        self.trial_final_steps = trial_final_steps

    def _chosen(self, X, y, options):
        if self.choose_by not in ("hold-out", "leave-one-out"):
            raise ValueError(f"choose_by is {self.choose_by!r}; expected 'hold-out' or 'leave-one-out'")
        if len(X) < 3:
            return options
        steps = {"grow_steps": self.trial_grow_steps, "final_steps": self.trial_final_steps}
        loo = self.choose_by == "leave-one-out"
        ridges = self.ridges[:1] if loo else self.ridges
        settings = list(itertools.product(self.kernels, ridges, self.bandwidths))
        candidates = [self._with(options, *each) for each in settings]
        with self._precision():
            found = choose(self._key(), X, y, candidates, share=self.share, **steps)
            best = settings[candidates.index(found.options)]
            if loo:
                trial, _ = fit_lab_rbf(self._key(), X, y, found.options._replace(**steps))
                ridge, errors = leave_one_out_ridge(trial, self.ridges)
                self.leave_one_out_errors_ = dict(zip(self.ridges, errors))
                best = (best[0], ridge, best[2])
        self.kernel_, self.ridge_, self.bandwidth_ = best
        self.errors_ = dict(zip(settings, found.errors))
        return self._with(options, *best)

    def _with(self, options, kernel, ridge, bandwidth):
        profile = fit_options(kernel=kernel).objective.profile
        return options._replace(objective=options.objective._replace(profile=profile), ridge=ridge, bandwidth=bandwidth)


class LabRbfClassifier(ClassifierMixin, _LabRbf):
    """Least squares on one-hot targets with the same kernel, grown by misclassified rows of each class.

    Args:
        kernel: as in `LabRbfRegressor`.
        ridge: λ ≥ 0.
        n_max: most support points; by default min(350, half the rows).
        n_init: support points at the start; by default a third of `n_max`.
        bandwidth: Σ_m θ_m² at the start, for inputs scaled to [−1, 1].
        grow_epochs: passes over the rows in each growth round.
        final_epochs: passes after the last growth.
        batch_size: rows of a step.
        learning_rate: of Adam while growing.
        final_learning_rate: of Adam after the last growth.
        optimizer: an optax transformation instead of both.
        least_growth: least number of points to add in a round.
        bandwidth_mode, selection, start, solver, fit_intercept: as in `LabRbfRegressor`.
        exclude_support_from_batches, block_size, dtype, random_state: likewise.
    """

    def __init__(
        self, *, kernel="gaussian", ridge=0.1, n_max=None, n_init=None, bandwidth=3.0, grow_epochs=10.0, final_epochs=30.0,
        batch_size=128, learning_rate=1e-2, final_learning_rate=1e-3, optimizer=None, least_growth=20,
        bandwidth_mode="local", selection="misclassified", start="per_class", solver="lu", fit_intercept=True,
        exclude_support_from_batches=False, block_size=4096, dtype="float32", random_state=None,
    ):  # fmt: skip
        self.kernel = kernel
        self.ridge = ridge
        self.n_max = n_max
        self.n_init = n_init
        self.bandwidth = bandwidth
        self.grow_epochs = grow_epochs
        self.final_epochs = final_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.final_learning_rate = final_learning_rate
        self.optimizer = optimizer
        self.least_growth = least_growth
        self.bandwidth_mode = bandwidth_mode
        self.selection = selection
        self.start = start
        self.solver = solver
        self.fit_intercept = fit_intercept
        self.exclude_support_from_batches = exclude_support_from_batches
        self.block_size = block_size
        self.dtype = dtype
        self.random_state = random_state

    def fit(self, X, y):
        """Fit on rows X [n, m] and labels y [n] of any kind."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, label = np.unique(y, return_inverse=True)
        options = self._options(
            len(X), len(np.unique(row_groups(X))), loss=sse, scale_y=False, clip=False, least_growth=self.least_growth,
            final_learning_rate=self.final_learning_rate, grow_steps=epochs(self.grow_epochs, len(X), self.batch_size),
            final_steps=epochs(self.final_epochs, len(X), self.batch_size),
        )  # fmt: skip
        with self._precision():
            model, state = fit_lab_rbf(self._key(), X, np.eye(len(self.classes_))[label], options)
        self._keep(model, state, X)
        return self

    def decision_function(self, X) -> np.ndarray:
        """Outputs [n, c]; with two classes their difference [n]."""
        check_is_fitted(self)
        outputs = self._predict(X)
        return outputs[:, 1] - outputs[:, 0] if len(self.classes_) == 2 else outputs

    def predict(self, X) -> np.ndarray:
        """Labels [n]."""
        check_is_fitted(self)
        return self.classes_[self._predict(X).argmax(-1)]
