"""Measures of a fitted model: errors in original units, and what the sparsity theory lets one compute."""

import numpy as np

from clujax.regression.fit import LabRbfModel, predict, support_gram
from clujax.regression.solve import reciprocal_condition


def regression_metrics(prediction: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """R², RMSE and MAE over all entries; R² of a constant target is 1 when met exactly, else 0 (as scikit-learn).

    Example:
        >>> regression_metrics(np.array([1.0, 2.0]), np.array([1.0, 4.0]))["mae"]
        1.0
    """
    error = np.asarray(prediction, np.float64) - y
    total, left = np.square(y - np.mean(y, 0)).sum(), np.square(error).sum()
    r2 = 1 - left / total if total > 0 else float(left == 0)
    return {"r2": float(r2), "rmse": float(np.sqrt(np.mean(error**2))), "mae": float(np.mean(np.abs(error)))}


def classification_metrics(prediction: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Accuracy in per cent of outputs [n, c] against one-hot y.

    Example:
        >>> classification_metrics(np.array([[0.9, 0.2], [0.6, 0.4]]), np.eye(2))["accuracy"]
        50.0
    """
    return {"accuracy": float(100 * np.mean(prediction.argmax(-1) == y.argmax(-1)))}


def relevance(model: LabRbfModel) -> np.ndarray:
    """Relevance [m] of each feature: |θ| averaged over support points with weights |α|; features scaled to [−1, 1]."""
    weight = np.abs(np.asarray(model.coef, np.float64)).reshape(len(model.coef), -1).sum(1)
    return weight @ np.abs(np.asarray(model.theta, np.float64)) / max(weight.sum(), 1e-300)


def sparsity_report(
    model: LabRbfModel, x: np.ndarray, y: np.ndarray, ridge: float, q: tuple[float, ...] = (0.5,), tol: float = 1e-8
) -> dict[str, float]:
    """Computable side of the ℓ0 theory; coefficients in scaled units, `train_mse` (the B reached) in those of y.

    Returns:
        n_support, r0 (coefficients above `tol`), r0_share of the |Θ|·n coefficients of a full sum space, r_q, l1 (bounds
        the norm of f in the sum space), l2, train_mse, support_error (max |f(x_i) − y_i|, scaled), ridge_alpha (what that
        must be: λ max|α_i|), rcond.
    """
    coef = np.asarray(model.coef, np.float64)
    size = np.abs(coef).reshape(len(coef), -1)
    gram = support_gram(model)
    fitted = gram @ np.asarray(model.coef) + np.asarray(model.intercept)
    distinct = len(np.unique(np.abs(np.asarray(model.theta)), axis=0))
    r0 = int((size > tol).sum())
    return {
        "n_support": len(coef),
        "r0": r0,
        "r0_share": r0 / (distinct * size.size),
        **{f"r_{each:g}": float((size**each).sum()) for each in q},
        "l1": float(size.sum()),
        "l2": float(np.sqrt((size**2).sum())),
        "train_mse": float(np.mean(np.square(predict(model, x) - y))),
        "support_error": float(np.abs(fitted - np.asarray(model.support_y)).max()),
        "ridge_alpha": float(ridge * size.max()),
        "rcond": reciprocal_condition(gram + np.asarray(ridge * np.eye(len(gram)), gram.dtype)),
    }
