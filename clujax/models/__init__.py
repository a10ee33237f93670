"""Networks as records of pure functions: `Classifier(init, apply, features, head)`, from linen, nnx or any function.

Equinox users: `params, static = eqx.partition(model, eqx.is_inexact_array)` and
`from_apply(lambda params, x: jax.vmap(eqx.combine(params, static))(x))`.
"""

from clujax.models.classifier import Classifier, from_apply, from_linen, frozen, with_inputs
from clujax.models.cnn import cnn
from clujax.models.microbatched import microbatched
from clujax.models.minilm import minilm
from clujax.models.mlp import mlp
from clujax.models.nnx import from_nnx
from clujax.models.resnet import resnet
from clujax.models.text_encoder import embed, text_encoder
from clujax.models.vit import vit

__all__ = [
    "Classifier",
    "cnn",
    "embed",
    "from_apply",
    "from_linen",
    "from_nnx",
    "frozen",
    "microbatched",
    "minilm",
    "mlp",
    "resnet",
    "text_encoder",
    "vit",
    "with_inputs",
]
