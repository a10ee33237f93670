"""One digest for a whole tree of arrays."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


def tree_digest(tree: PyTree) -> str:
    """SHA-256 of every leaf's path, dtype, shape and bytes (little-endian), as 64 hexadecimal digits.

    Two trees have one digest when their leaves agree to the bit under the same dotted paths, whatever containers hold them
    and however the arrays lie on devices (all shards must be reachable from this process). Typed keys count by their data.

    Example:
        >>> import jax.numpy as jnp
        >>> tree_digest({"w": jnp.ones(3)}) == tree_digest({"w": np.ones(3, np.float32)})
        True
    """
    digest = hashlib.sha256()
    named = [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    ]
    for name, leaf in sorted(named, key=lambda pair: pair[0]):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        # The header fixes how many bytes follow, so that no two trees give one stream of bytes.
        digest.update(json.dumps([name, array.dtype.name, array.shape]).encode() + b"\n")
        digest.update(array.tobytes())
    return digest.hexdigest()
