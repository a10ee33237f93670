"""Pure mathematics of a loss landscape: products with its curvature, Fisher information, masks, gradient parts.

Everything is a function of arrays and parameter trees; nothing here knows of networks, data or optimizers.
"""

from clujax.geometry.decompose import Parts, decompose, remain_gauss_newton, remain_newton, report
from clujax.geometry.divergence import entropy, hellinger, js, kl
from clujax.geometry.fisher import batch_diagonal, diagonal, diagonal_estimator
from clujax.geometry.fourier import FourierFeatures, featurize, fourier_features, median_distance
from clujax.geometry.products import categorical, fvp, gaussian, gnvp, hvp, inverse_hvp, inverse_product
from clujax.geometry.request_parts import RequestParts, Shares, displacement, request_parts
from clujax.geometry.saliency import check_mask, density, ratio_mask, top_fraction_mask
from clujax.geometry.weights import combine, cosine, distance, inner, lerp, norm

__all__ = [
    "FourierFeatures",
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
    "entropy",
    "featurize",
    "fourier_features",
    "fvp",
    "gaussian",
    "gnvp",
    "hellinger",
    "hvp",
    "inner",
    "inverse_hvp",
    "inverse_product",
    "js",
    "kl",
    "lerp",
    "median_distance",
    "norm",
    "ratio_mask",
    "remain_gauss_newton",
    "remain_newton",
    "report",
    "request_parts",
    "top_fraction_mask",
]
