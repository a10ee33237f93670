"""Pure mathematics of a loss landscape: products with its curvature, Fisher information, masks, gradient parts.

Everything is a function of arrays and parameter trees; nothing here knows of networks, data or optimizers.
"""

from clujax.geometry.decompose import Parts, decompose, remain_gauss_newton, remain_newton, report
from clujax.geometry.divergence import entropy, hellinger, js, kl
from clujax.geometry.fisher import batch_diagonal, diagonal, diagonal_estimator
from clujax.geometry.fourier import FourierFeatures, featurize, fourier_features, median_distance
from clujax.geometry.landscape import one_by_one, random_direction, sharpness, slice_1d, slice_2d
from clujax.geometry.layouts import Layout, infer_layout, layouts
from clujax.geometry.paths import named, path_name, replaced
from clujax.geometry.perturb import (
    elementwise,
    expected_value_and_grad,
    filter_std,
    filter_wise,
    fisher_scaled,
    fisher_update,
    isotropic,
    leaf_key,
    normal,
    only_when,
    perturb,
    rademacher,
    step_key,
    together,
    uniform,
    vector_norm,
)
from clujax.geometry.products import categorical, fvp, gaussian, gnvp, hvp, inverse_hvp, inverse_product
from clujax.geometry.request_parts import RequestParts, Shares, displacement, request_parts
from clujax.geometry.saliency import check_mask, density, ratio_mask, top_fraction_mask
from clujax.geometry.weights import combine, cosine, distance, inner, lerp, norm

__all__ = [
    "FourierFeatures",
    "Layout",
    "Parts",
    "RequestParts",
    "Shares",
    "batch_diagonal",
    "categorical",
    "check_mask",
    "combine",
    "cosine",
    "decompose",
    "density",
    "diagonal",
    "diagonal_estimator",
    "displacement",
    "distance",
    "elementwise",
    "entropy",
    "expected_value_and_grad",
    "featurize",
    "filter_std",
    "filter_wise",
    "fisher_scaled",
    "fisher_update",
    "fourier_features",
    "fvp",
    "gaussian",
    "gnvp",
    "hellinger",
    "hvp",
    "infer_layout",
    "inner",
    "inverse_hvp",
    "inverse_product",
    "isotropic",
    "js",
    "kl",
    "layouts",
    "leaf_key",
    "lerp",
    "median_distance",
    "named",
    "norm",
    "normal",
    "one_by_one",
    "only_when",
    "path_name",
    "perturb",
    "rademacher",
    "random_direction",
    "ratio_mask",
    "remain_gauss_newton",
    "remain_newton",
    "replaced",
    "report",
    "request_parts",
    "sharpness",
    "slice_1d",
    "slice_2d",
    "step_key",
    "together",
    "top_fraction_mask",
    "uniform",
    "vector_norm",
]
