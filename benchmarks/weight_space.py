"""What working in weight space costs: Flat-LoRA beside LoRA, and soups learned by blocks beside soups learned whole.

Run: python benchmarks/weight_space.py [--official DIR]

With `--official` the authors' MEHL_soup_layer.py in that directory runs on the same pool and batches as ours (needs PyTorch).
On an accelerator a transformer of BERT-base's size is timed too, at 16,384 tokens a step, and a soup of 72 ViT-B/32.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from timing import interleaved, table

from clujax import geometry, lora, models, soups
from clujax.soups.descent import BlockState, make_block_step
from clujax.soups.directions import block_directions, dense, unit
from clujax.soups.learned import LearnedState, make_learned_step, softmax

WIDTHS, ROWS = (1024, 1024), 256
POOLS = (8, 16, 32, 64)


def lora_steps():
    """A step on 1.8 million adapted weights: LoRA, the same with noise of zeros, and with three kinds of noise."""
    net = models.mlp(10, widths=WIDTHS)
    batch = {"x": jnp.ones((ROWS, 784)), "y": jnp.zeros(ROWS, jnp.int32)}
    params, _ = net.init(jax.random.key(0), batch["x"][:1])
    spec = lora.build_spec(params, [lora.LoraRule("kernel", 8)])
    adapters, base = lora.init(jax.random.key(1), params, spec)
    tx = optax.adamw(1e-3)
    logits = lambda p, x: net.apply(p, {}, x)[0]
    cross = optax.losses.softmax_cross_entropy_with_integer_labels
    loss = lambda p, batch, key: (cross(logits(p, batch["x"]), batch["y"]).mean(), {})
    zeros = lambda key, shape, dtype=jnp.float32: jnp.zeros(shape, dtype)
    kinds = {"normal": geometry.normal, "rademacher": geometry.rademacher, "uniform": geometry.uniform}
    steps = {"LoRA": lora.make_step(loss, spec, tx, donate=False)}
    for name, sampler in {"no random numbers": zeros, **kinds}.items():
        steps[f"Flat-LoRA, {name}"] = lora.make_step(loss, spec, tx, 0.1, sampler=sampler, donate=False)
    state = lora.init_state(adapters, tx, jax.random.key(2))
    run = {
        name: lambda s=step: jax.block_until_ready(s(state, base, batch)[0].adapters) for name, step in steps.items()
    }
    known, step = lora.sq_norms(base, spec), steps["Flat-LoRA, normal"]
    run["the same, norms of the base known"] = lambda: jax.block_until_ready(
        step(state, base, batch, known)[0].adapters
    )
    for name, sampler in kinds.items():
        draw = jax.jit(lambda key, sampler=sampler: [sampler(key, entry.shape, jnp.float32) for entry in spec])
        run[f"the numbers alone, {name}"] = lambda d=draw: jax.block_until_ready(d(jax.random.key(3)))
    found = interleaved(run, repeats=15)
    count = sum(np.prod(entry.shape) for entry in spec)
    rows = [(name, "LoRA", seconds, found["LoRA"], "") for name, seconds in found.items()]
    text = table(f"One step, {count:,} adapted weights, {ROWS} rows", rows)
    return text + f"\n{1e9 * found['the numbers alone, normal'] / count:.0f} ns a normal number.\n"


def lora_tokens(dtype):
    """A step of a transformer of BERT-base's size at 16,384 tokens: what noise adds to LoRA where a step is large."""
    net = models.text_encoder(
        2, vocabulary=1000, width=768, depth=12, num_heads=12, hidden=3072, longest=256, dtype=dtype
    )
    batch = {"x": jnp.ones((64, 256), jnp.int32), "y": jnp.zeros(64, jnp.int32)}
    params, _ = net.init(jax.random.key(0), batch["x"][:1])
    spec = lora.build_spec(params, [lora.LoraRule("block_.*kernel", 8)])
    adapters, base = lora.init(jax.random.key(1), params, spec)
    tx, cross = optax.adamw(1e-3), optax.losses.softmax_cross_entropy_with_integer_labels
    loss = lambda p, b, key: (cross(net.apply(p, {}, b["x"])[0].astype(jnp.float32), b["y"]).mean(), {})
    steps = {"LoRA": lora.make_step(loss, spec, tx, donate=False)}
    for name, sampler in {"normal": geometry.normal, "rademacher": geometry.rademacher}.items():
        steps[f"Flat-LoRA, {name}"] = lora.make_step(loss, spec, tx, 0.1, sampler=sampler, donate=False)
    state = lora.init_state(adapters, tx, jax.random.key(2))
    run, memory = {}, {}
    for name, step in steps.items():
        compiled = step.jitted.lower(state, base, batch).compile()
        memory[name] = compiled.memory_analysis().temp_size_in_bytes / 2**20
        run[name] = lambda c=compiled: jax.block_until_ready(c(state, base, batch)[0].adapters)
    found = interleaved(run, repeats=15)
    count = sum(np.prod(entry.shape) for entry in spec)
    rows = [(f"{n} ({memory[n]:.0f} MiB)", "LoRA", s, found["LoRA"], "1.10") for n, s in found.items()]
    return table(f"One step, {count:,} adapted weights, 16,384 tokens, {jnp.dtype(dtype).name}", rows)


def lora_memory():
    """Temporaries of a gradient through a scanned stack over plain LoRA, in kernels of one layer."""
    width, rank = 512, 8
    spec = lora.build_spec({"kernel": jnp.zeros((width, width))}, [lora.LoraRule("kernel", rank)])
    scale, shape = spec["kernel"].scale, jax.ShapeDtypeStruct
    key = jax.eval_shape(lambda: jax.random.key(0))

    def plain(adapters, base, x, key):
        def layer(h, at):
            kernel, pair = at[0]["kernel"], at[1]["kernel"]
            return jnp.tanh(h @ kernel + scale * (h @ pair["a"]) @ pair["b"]), None

        return jnp.mean(jax.lax.scan(layer, x, (base, adapters))[0] ** 2)

    def ours(adapters, base, x, key):
        return jnp.mean(
            lora.scan_layers(lambda p, h: jnp.tanh(h @ p["kernel"]), x, base, adapters, spec, key, 0.1) ** 2
        )

    def copied(adapters, base, x, key):
        layers = jnp.arange(base["kernel"].shape[0])
        at = lambda b, a, i: lora.perturbed(b, a, spec, jax.random.fold_in(key, i), 0.1)
        noisy = jax.vmap(at)(base, adapters, layers)
        return jnp.mean(jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, noisy["kernel"])[0] ** 2)

    def temp(f, depth):
        pair = {"a": shape((depth, width, rank), jnp.float32), "b": shape((depth, rank, width), jnp.float32)}
        base = {"kernel": shape((depth, width, width), jnp.float32)}
        compiled = jax.jit(jax.grad(f)).lower({"kernel": pair}, base, shape((64, width), jnp.float32), key).compile()
        return compiled.memory_analysis().temp_size_in_bytes / (4 * width**2)

    lines = ["**Temporaries of a gradient, in kernels of one layer**", "", "| depth | LoRA | scan_layers | noisy copy |",
             "|---|---|---|---|"]  # fmt: skip
    for depth in (8, 16, 32):
        lines.append(f"| {depth} | " + " | ".join(f"{temp(f, depth):.1f}" for f in (plain, ours, copied)) + " |")
    text = "\n".join(lines) + "\n"
    print(text)
    return text


def soups_steps(net, image, rows, count, sizes):
    """A step of the coefficients, one model each of K: all at once by a graph, blocks by inner products.

    Args:
        net: of the models.
        image: shape of one input.
        rows: of a batch.
        count: K.
        sizes: of blocks, the last one compared with Learned-Soup+.
    """
    batch = {"x": jnp.ones((rows, *image)), "y": jnp.zeros(rows, jnp.int32)}
    one = jax.jit(lambda k: net.init(k, batch["x"][:1])[0])
    # Filled one after the other: at once the start of 72 large models needs their memory twice.
    stacked = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape)), jax.eval_shape(one, jax.random.key(0)))
    put = jax.jit(lambda into, p, k: jax.tree.map(lambda a, b: a.at[k].set(b), into, p), donate_argnums=0)
    for k in range(count):
        stacked = put(stacked, one(jax.random.key(k)), k)
    pool = soups.StackedPool(stacked)
    objective = soups.cross_entropy(lambda p, b, key: net.apply(p, {}, b["x"])[0])
    groups, tx = soups.make_groups(pool.struct), optax.adam(0.01)
    dtypes = tuple(leaf.dtype for leaf in jax.tree.leaves(pool.struct))
    center = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf.mean(0), tree))(stacked)
    run, memory = {}, {}

    def add(name, step, *arguments):
        held = jax.jit(step) if not hasattr(step, "lower") else step
        compiled = held.lower(*arguments).compile()
        bytes_of = compiled.memory_analysis()
        memory[name] = (bytes_of.argument_size_in_bytes + bytes_of.temp_size_in_bytes) / 2**20
        run[name] = lambda: jax.block_until_ready(compiled(*arguments)[1])

    loss = lambda params, batch: objective(params, batch)[0]
    add("one model's gradient", jax.jit(lambda p, b: (0, jax.grad(loss)(p, b))), center, batch)
    raw, beta = softmax.start(count, len(groups.names)), jnp.ones(())
    learned = make_learned_step(objective, tx, groups, dtypes, softmax, True)
    origin = jax.tree.map(jnp.zeros_like, center)
    state = LearnedState(raw, beta, tx.init((raw, beta)), jax.random.key(0))
    add("Learned-Soup+", learned, state, origin, stacked, batch)
    for size in sizes:
        step = make_block_step(dense(groups), objective, tx, dtypes)
        chosen = (pool.load(k) for k in range(size))
        directions, scale = block_directions(center, chosen, size, groups, unit)
        x = jnp.zeros_like(scale)
        add(f"MEHL-Soup+, b = {size}", step, BlockState(x, tx.init(x), jax.random.key(0)), center, directions, batch)
    found = interleaved(run, repeats=15)
    base = found["one model's gradient"]
    size = sum(leaf.size for leaf in jax.tree.leaves(pool.struct))
    text = table(f"One step of the coefficients, K = {count}, {size:,} weights a model",
                 [(f"{name} ({memory[name]:.0f} MiB)", "gradient", s, base, "") for name, s in found.items()])  # fmt: skip
    block = f"MEHL-Soup+, b = {sizes[-1]}"
    ratio, whole = memory["Learned-Soup+"] / memory[block], found["Learned-Soup+"] / found[block]
    # An epoch over all models is K/b blocks of steps.
    epoch = whole / (count / sizes[-1])
    said = f"\nLearned-Soup+ over {block}: memory {ratio:.1f}, step {whole:.1f}, all K models {epoch:.1f} ×.\n"
    print(said)
    return text + said


def soups_host_memory():
    """Peak memory of a process that learns a soup of K models on disk, block by block."""
    lines = ["**Peak resident memory with K models on disk, b = 4, MiB**", "",
             "| K | the allocator as it is | one arena for all threads (MALLOC_ARENA_MAX=1) |", "|---|---|---|"]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        own([folder, "--write", str(max(POOLS))])
        for count in POOLS:
            peaks = [
                int(own([folder, "--learn", str(count)], **more)) / 1024 for more in ({}, {"MALLOC_ARENA_MAX": "1"})
            ]
            lines.append(f"| {count} | " + " | ".join(f"{peak:.0f}" for peak in peaks) + " |")
    text = "\n".join(lines) + "\n"
    print(text)
    return text


def own(arguments, **environment):
    """The last word that a process of its own says: peak memory is that of a process's whole life."""
    command = [sys.executable, __file__, "--models", *arguments]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | environment)
    return shown.stdout.split()[-1]


def write_models(folder, count):
    """Write K models one at a time."""
    net = models.mlp(10, widths=WIDTHS)
    for k in range(count):
        with ocp.StandardCheckpointer() as writer:
            writer.save(folder / f"m{k}", {"params": net.init(jax.random.key(k), jnp.ones((1, 784)))[0]})
    print(count)


def learn_models(folder, count):
    """Learn a soup of K models on disk, say this process's peak memory in KiB."""
    net = models.mlp(10, widths=WIDTHS)
    batch = {"x": jnp.ones((64, 784)), "y": jnp.zeros(64, jnp.int32)}
    objective = soups.cross_entropy(lambda p, b, key: net.apply(p, {}, b["x"])[0])
    pool = soups.OrbaxPool([folder / f"m{k}" for k in range(count)])
    soups.mehl(pool, objective, [batch], key=jax.random.key(0), block_size=4, inner=soups.Descent(epochs=1))
    # Not getrusage: its maximum outlives exec, and would be the parent's.
    status = pathlib.Path("/proc/self/status").read_text()
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def beside_official(script):
    """Our MEHL-Soup+ and the authors' script on one pool: how far apart the soups are, seconds, memory on the device."""
    import official_soup

    net, count, size = models.mlp(10, widths=WIDTHS), 8, 4
    keys = jax.random.split(jax.random.key(0), count + 3)
    start, _ = net.init(keys[0], jnp.ones((1, 784)))
    near = lambda key: jax.tree.map(
        lambda p: p + 0.01 * jax.random.normal(jax.random.fold_in(key, p.size), p.shape), start
    )
    pool = [jax.device_get(near(key)) for key in keys[1 : count + 1]]
    x = np.asarray(jax.random.uniform(keys[-1], (2 * ROWS, 784)))
    y = np.asarray(jax.random.randint(keys[-2], (2 * ROWS,), 0, 10), np.int32)
    theirs = official_soup.run(script, pool, x, y, batch=ROWS, block=size, epochs=5, rate=0.01)
    order = np.arange(count)
    np.random.RandomState(1).shuffle(order)
    objective = soups.cross_entropy(lambda p, b, key: net.apply(p, {}, b["x"])[0])
    batches = [{"x": x[i : i + ROWS], "y": y[i : i + ROWS]} for i in range(0, len(y), ROWS)]
    seconds = []
    for _ in range(2):  # the second time is compiled
        clock = time.perf_counter()
        ours = soups.mehl(soups.MemoryPool(pool), objective, batches, key=keys[0], block_size=size,
                          inner=soups.Descent(learning_rate=0.01), order=soups.given(order.tolist()))  # fmt: skip
        jax.block_until_ready(ours.params)
        seconds.append(time.perf_counter() - clock)
    far = lambda other: float(geometry.norm(jax.tree.map(jnp.subtract, ours.params, other)))
    apart, moved = far(theirs.params), far(soups.uniform(soups.MemoryPool(pool)).params)
    print(f"K = {count}, b = {size}, {2 * 5 * (count // size)} steps on {jax.devices()[0].device_kind}: soups are "
          f"{apart:.2e} apart, {moved:.2e} from the mean model; theirs {theirs.seconds:.2f} s on "
          f"{theirs.device}, ours {seconds[1]:.2f} s ({seconds[0]:.2f} s with compilation)")  # fmt: skip


def main():
    """Everything, or what a process of its own does of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=pathlib.Path, help=argparse.SUPPRESS)
    parser.add_argument("--write", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--learn", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--official", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.models:
        do = write_models if arguments.write else learn_models
        do(arguments.models, arguments.write or arguments.learn)
        return
    if arguments.official:
        beside_official(arguments.official / "MEHL_soup_layer.py")
        return
    if jax.default_backend() != "cpu":
        for dtype in (jnp.float32, jnp.bfloat16):
            lora_tokens(dtype)
        # The pool of the paper: 72 models of CLIP's ViT-B/32, whose blocks of 18 took 19 GB.
        vit = models.vit(1000, image_size=224, patch=32, width=768, depth=12, num_heads=12)
        soups_steps(vit, (224, 224, 3), 128, 72, (18,))
    lora_steps()
    lora_memory()
    soups_steps(models.mlp(10, widths=WIDTHS), (784,), ROWS, 16, (16, 4))
    soups_host_memory()


if __name__ == "__main__":
    main()
