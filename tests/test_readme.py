"""The README's code runs as it stands and forgets."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

README = pathlib.Path(__file__).parent.parent / "README.md"


@pytest.fixture(scope="module")
def names():
    """What the README takes as given: a network, parameters and batches."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(10, 16))
    y = rng.integers(0, 10, 72 * 16)
    x = centres[y] + rng.normal(size=(len(y), 16))
    rows = [
        {"x": jnp.asarray(x[i : i + 16], jnp.float32), "y": jnp.asarray(y[i : i + 16])} for i in range(0, len(y), 16)
    ]

    def apply_fn(params, inputs):
        return inputs @ params["w"]

    joined = {name: jnp.concatenate([part[name] for part in rows]) for name in ("x", "y")}
    params = {"w": jnp.asarray(3 * centres.T, jnp.float32)}
    return {"apply_fn": apply_fn, "params": params, "forget_batches": rows[:8], "remain_batches": rows[8:]} | {
        "xf": joined["x"][:128],
        "yf": joined["y"][:128],
        "xr": joined["x"][128:],
        "yr": joined["y"][128:],
    }


@pytest.mark.parametrize("number", [0, 1])
def test_python_blocks_run(names, number):
    block = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)[number]
    space = {"jax": jax, **names}
    exec(compile(block, f"README block {number}", "exec"), space)
    params = space["params"] if number == 0 else space["outcome"].params
    assert bool(jnp.all(jnp.isfinite(params["w"])))
    assert float(jnp.max(jnp.abs(params["w"] - names["params"]["w"]))) > 1e-3
