"""What a plan says against what a step then takes: bytes and FLOPs of steps on a mesh of virtual CPU devices.

Command: python experiments/plan_versus_measured.py --out docs/results/pods_measured.md
Time:    about three minutes on two CPU cores

Bytes: a process lays the state out and runs steps; the growth of its resident memory, sampled each millisecond, is read
beside the plan's total of all devices. FLOPs: matrix products and convolutions of the step as JAX traces it, counted from
their shapes before any compiler sees them, over the number of devices; nothing of the plan's counting is shared.
"""

import argparse
import ctypes
import datetime
import gc
import json
import math
import os
import pathlib
import platform
import subprocess
import sys
import threading
import time

DEVICES = 8
CASES = {
    "MLP, FSDP": {
        "model": {"name": "mlp", "widths": [8192, 8192]},
        "mesh": [["fsdp", 8]],
        "rows": 4096,
        "shape": [28, 28, 1],
    },
    "ViT, data × FSDP × model": {
        "model": {"name": "vit", "image_size": 64, "patch": 8, "width": 512, "depth": 4, "num_heads": 8},
        "mesh": [["data", 2], ["fsdp", 2], ["model", 2]],
        "rows": 128,
        "shape": [64, 64, 3],
    },
    "ViT, the same, in 4 parts": {
        "model": {"name": "vit", "image_size": 64, "patch": 8, "width": 512, "depth": 4, "num_heads": 8},
        "mesh": [["data", 2], ["fsdp", 2], ["model", 2]],
        "accumulate": 4,
        "rows": 128,
        "shape": [64, 64, 3],
    },
    "ResNet-18, data": {
        "model": {"name": "resnet", "depth": 18, "width": 64},
        "mesh": [["data", 8]],
        "rows": 256,
        "shape": [32, 32, 3],
    },
}
VIT_RULES = (
    ("(query|key|value)/kernel", "partition", "fsdp", "model", None),
    ("out/kernel", "partition", "model", None, "fsdp"),
    ("Dense_0/kernel", "partition", "fsdp", "model"),
    ("Dense_1/kernel", "partition", "model", "fsdp"),
    (".*", "fsdp"),
)


def config_for(case):
    """The SFR-on config of CIFAR-10 with the case's network, mesh and batch."""
    from ml_collections import ConfigDict

    from clujax import configuration

    config = configuration.load("configs/pods/resnet18_cifar10.py")
    with config.unlocked():
        config.model = ConfigDict(case["model"])
        config.mesh = tuple((name, size) for name, size in case["mesh"])
        config.data.shape, config.data.classes, config.data.train_rows = tuple(case["shape"]), 10, 50_000
        config.accumulate = case.get("accumulate", 1)
        config.rules = VIT_RULES if case["model"]["name"] == "vit" else ()
        config.planned, config.compare = ("sfron",), ("retrain", "sfron")
        for recipe in (config.pretrain, config.methods.retrain, config.methods.sfron):
            recipe.batch_size = case["rows"]
    return config


def traced_flops(jaxpr):
    """FLOPs of matrix products and convolutions in a jaxpr, loops by their length."""
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "dot_general":
            (contracting, _), _ = params["dimension_numbers"]
            width = math.prod(equation.invars[0].aval.shape[i] for i in contracting)
            total += 2 * width * equation.outvars[0].aval.size
        elif name == "conv_general_dilated":
            total += 2 * convolution_products(equation)
        inner = [each for value in params.values() for each in (value if isinstance(value, tuple) else (value,))]
        for each in inner:
            each = getattr(each, "jaxpr", each)
            if hasattr(each, "eqns"):
                total += traced_flops(each) * (params.get("length", 1) if name == "scan" else 1)
    return total


def convolution_products(equation):
    """Products of a convolution whose taps fall on real entries, not on padding or the zeros of a dilation."""
    params, (image, kernel) = equation.params, [v.aval for v in equation.invars]
    numbers = params["dimension_numbers"]
    out = equation.outvars[0].aval
    taps = 1
    for i, (low, _) in enumerate(params["padding"]):
        extent, size = image.shape[numbers.lhs_spec[2 + i]], kernel.shape[numbers.rhs_spec[2 + i]]
        stride, spread = params["window_strides"][i], params["lhs_dilation"][i]
        hole = params["rhs_dilation"][i]
        places = (o * stride - low + t * hole for o in range(out.shape[numbers.out_spec[2 + i]]) for t in range(size))
        taps *= sum(0 <= place < (extent - 1) * spread + 1 and place % spread == 0 for place in places)
    channels = kernel.shape[numbers.rhs_spec[1]]
    return taps * channels * out.shape[numbers.out_spec[0]] * out.shape[numbers.out_spec[1]]


def zero(leaf):
    """An array of zeros, or a key."""
    import jax
    import jax.numpy as jnp

    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key(0)
    return jnp.zeros(leaf.shape, leaf.dtype)


def child(name):
    """Plan and measure one case in this process; print the findings as JSON."""
    import jax
    import jax.numpy as jnp
    import psutil

    from clujax import training
    from clujax.planning.analysis import analyse
    from clujax.planning.topology import parse
    from clujax.training.sharding import batch_shardings, shardings
    from clujax.unlearning.outline import build_rules, outlines

    case = CASES[name]
    config = config_for(case)
    mesh = training.make_mesh(config.mesh)
    outline = next(each for each in outlines(config, mesh) if each.name == "sfron/remain")
    lowered = training.lower(outline)
    plan = analyse(outline, mesh, parse(f"cpu:{DEVICES}"), lowered)
    step, extra = outline.step.func, tuple(outline.step.keywords.items())
    flops = traced_flops(step.jitted.trace(outline.state, outline.batch, {}, extra).jaxpr.jaxpr) / DEVICES

    places = shardings(outline.state, mesh, build_rules(config))
    zeros = lambda tree: jax.tree.map(zero, tree)
    born = jax.jit(lambda: zeros(outline.state), out_shardings=places).lower().compile()
    fed = jax.jit(lambda: zeros(outline.batch), out_shardings=batch_shardings(outline.batch, mesh)).lower().compile()
    compiled = lowered.compile()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    process = psutil.Process()
    before, peak, done = process.memory_info().rss, 0, threading.Event()

    def watch():
        nonlocal peak
        while not done.is_set():
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    state, batch = jax.block_until_ready((born(), fed()))
    arrays = [
        jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in jax.tree.leaves((state, batch))
    ]
    held = sum(shard.data.nbytes for array in arrays for shard in array.addressable_shards)
    for _ in range(3):
        state, metrics = compiled(state, batch, {})
        jax.block_until_ready(metrics)
    done.set()
    watcher.join()
    found = {
        "state_plan": DEVICES
        * (plan.memory.total - plan.memory.temporaries - plan.memory.outputs - plan.memory.program),
        "state": held,
        "bytes_plan": DEVICES * plan.memory.total,
        "bytes": peak - before,
        "flops_plan": plan.flops,
        "flops": flops,
    }
    print(json.dumps(found))


def main():
    """Each case in a process of its own, then the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--case", choices=list(CASES))
    arguments = parser.parse_args()
    if arguments.case:
        return child(arguments.case)
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}",
    }
    lines = []
    for name in CASES:
        command = [sys.executable, __file__, "--case", name, "--out", str(arguments.out)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        print(name, found, flush=True)
        cells = [name]
        for quantity, unit in (("state", 2**20), ("bytes", 2**20), ("flops", 1e9)):
            said, measured = found[f"{quantity}_plan"], found[quantity]
            cells += [f"{said / unit:,.1f}", f"{measured / unit:,.1f}", f"{100 * (said / measured - 1):+.1f} %"]
        lines.append("| " + " | ".join(cells) + " |")
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    columns = ["step", "state and batch, plan (MiB)", "held", "off", "all, plan (MiB)", "resident", "off"]
    columns += ["FLOPs a device, plan (G)", "traced", "off"]
    head = "| " + " | ".join(columns) + " |"
    arguments.out.write_text(
        f"Command: `python experiments/plan_versus_measured.py --out {arguments.out}`; commit {commit}; "
        f"{DEVICES} virtual devices on {os.cpu_count()} CPU cores ({platform.machine()}); {datetime.date.today()}.\n\n"
        + "\n".join([head, "|---" * 10 + "|", *lines])
        + "\n"
    )
    return None


if __name__ == "__main__":
    main()
