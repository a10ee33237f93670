"""What an SFR-on cycle, its Fisher pass and a Hessian product cost, beside plain training in the same process.

Command: python benchmarks/unlearning_cycle.py [--model mlp|resnet] [--official PATH] [--out FILE.md]
With --official, a checkout of the authors' repository (PyTorch installed): their loop beside ours, same network, batch,
data and number of iterations.
"""

import argparse
import copy
import functools
import importlib
import pathlib
import sys
import tempfile
import types
import unittest.mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import Runner, interleaved, table

from clujax.adaptation.losses import cross_entropy, descend
from clujax.data import resident
from clujax.geometry import diagonal_estimator, hvp
from clujax.models import mlp, resnet
from clujax.training import init_state, make_train_step
from clujax.unlearning import Request, sfron

REPAIR = 5
BATCH = 128
MODELS = {"mlp": (lambda: mlp(10), (28, 28, 1)), "resnet": (lambda: resnet(10, width=16), (32, 32, 3))}


def make_request(name: str, rows: int) -> Request:
    """Random rows: the cost does not depend on what they show."""
    build, shape = MODELS[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, *shape)).astype(np.float32)
    y = rng.integers(0, 10, rows).astype(np.int32)
    classifier = build()
    params, stats = classifier.init(jax.random.key(0), jnp.asarray(x[:1]))
    cut = rows // 10
    return Request(classifier, params, stats, {"x": x[:cut], "y": y[:cut]}, {"x": x[cut:], "y": y[cut:]}, 10)


def cycle_rows(request: Request) -> list:
    """A cycle beside as many plain optimizer steps; the compilations of each."""
    plan = sfron(steps=10**6, repair=REPAIR, batch_size=BATCH, whole_cycles=False).prepare(request, jax.random.key(1))

    def cycle(state, count):
        for s in range(count * REPAIR, (count + 1) * REPAIR):
            for name, batch in plan.work(s):
                state, _ = plan.steps[name](state, batch)
        return state

    tx = optax.chain(
        optax.add_decayed_weights(5e-4),
        optax.trace(0.9),
        optax.scale_by_learning_rate(optax.cosine_decay_schedule(0.01, 10**6)),
    )
    step = make_train_step(descend(request), tx)
    batch_at = resident(request.remain, BATCH, jax.random.key(2))

    def plain(state, count):
        for s in range(count * (1 + REPAIR), (count + 1) * (1 + REPAIR)):
            state, _ = step(state, batch_at(s))
        return state

    start = lambda tx: init_state(request.params, request.stats, tx, jax.random.key(3))
    runners = {"cycle": Runner(start(plan.tx), cycle), "plain": Runner(start(tx), plain)}
    found = interleaved(runners, repeats=101)
    compiled = {name: partial.func.jitted._cache_size() for name, partial in plan.steps.items()}
    print(f"programs compiled over {runners['cycle'].count} cycles: {compiled}; plain: {step.jitted._cache_size()}")
    return [(f"SFR-on cycle, T = {REPAIR}", f"{1 + REPAIR} SGD steps", found["cycle"], found["plain"], "≤ 1.05")]


def geometry_rows(request: Request) -> list:
    """A Fisher pass beside a training epoch; a Hessian product beside a gradient."""
    rows = 20 * BATCH
    x, y = (jnp.asarray(request.remain[name][:rows]) for name in ("x", "y"))
    batches = [{"x": x[i : i + BATCH], "y": y[i : i + BATCH]} for i in range(0, rows, BATCH)]
    classifier, params, stats = request.classifier, request.params, request.stats

    def losses(params, batch):
        return cross_entropy(classifier.apply(params, stats, batch["x"], train=False)[0], batch["y"])

    step = make_train_step(descend(request), optax.sgd(0.01, 0.9))

    def epoch(state, count):
        for batch in batches:
            state, _ = step(state, batch)
        return state

    estimate = diagonal_estimator(losses)
    gradient = jax.jit(jax.grad(lambda p: jnp.mean(losses(p, batches[0]))))
    product = jax.jit(lambda p, v: hvp(lambda q: jnp.mean(losses(q, batches[0])), p, v))
    found = interleaved(
        {
            "fisher": lambda: jax.block_until_ready(estimate(params, batches)),
            "epoch": Runner(init_state(params, stats, optax.sgd(0.01, 0.9), jax.random.key(0)), epoch),
            "gradient": lambda: jax.block_until_ready(gradient(params)),
            "hvp": lambda: jax.block_until_ready(product(params, params)),
        }
    )
    return [
        ("Fisher diagonal (batch)", "training epoch", found["fisher"], found["epoch"], "≤ 1.1"),
        ("Hessian product", "gradient", found["hvp"], found["gradient"], "≤ 3"),
    ]


def official_rows(request: Request, name: str, path: pathlib.Path, steps: int, repeats: int = 5) -> list:
    """The authors' unlearning loop on PyTorch beside ours, all steps of one run, batches in memory for both.

    Twice: as shipped, and without the copy of all weights that it makes in every iteration for an average it does not take.
    """
    import torch

    sys.path.insert(0, str(path / "Classification"))
    if not torch.cuda.is_available():
        # The authors' loop moves every batch to the GPU; on a CPU-only machine it stays where it is.
        torch.Tensor.cuda = lambda self, *args, **kwargs: self
    if not hasattr(torch.nn.utils, "clip_grad_norm"):
        torch.nn.utils.clip_grad_norm = torch.nn.utils.clip_grad_norm_
    for absent in (
        "torchvision",
        "torchvision.models",
        "torchvision.transforms",
        "torchvision.datasets",
        "timm",
        "tqdm",
    ):
        # Their package imports these for data and models that are not used here.
        try:
            importlib.import_module(absent)
        except ImportError:
            sys.modules[absent] = unittest.mock.MagicMock()
    from unlearn.sfron import SFRon

    shape = request.remain["x"].shape[1:]
    if name == "mlp":
        network = torch.nn.Sequential(
            torch.nn.Flatten(),
            torch.nn.Linear(int(np.prod(shape)), 256),
            torch.nn.ReLU(),
            torch.nn.Linear(256, 128),
            torch.nn.ReLU(),
            torch.nn.Linear(128, 10),
        )
    else:
        from models.resnet import BasicBlock, ResNet

        network = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=10)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def loader(rows):
        x = torch.tensor(np.moveaxis(rows["x"], -1, 1).copy(), device=device)
        y = torch.tensor(rows["y"].astype(np.int64), device=device)
        # Whole batches only, as ours are.
        return [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, len(y) - BATCH + 1, BATCH)]

    loaders = {"forget_train": loader(request.forget), "retain_train": loader(request.remain)}
    loaders |= {"forget_valid": None, "retain_valid": None}

    def theirs(threads, copies):
        torch.set_num_threads(threads)
        with tempfile.TemporaryDirectory() as folder:
            arguments = types.SimpleNamespace(num_classes=10, seed=0)
            method = SFRon(copy.deepcopy(network).to(device), torch.nn.CrossEntropyLoss(), folder, arguments)
            method.n_iters, method.eval, method.mask, method.forget_freq = steps, False, False, REPAIR
            method.ema_enabled = copies
            method.prepare_unlearn(loaders)
            method.weight_saliency_mask = {
                key: torch.ones_like(value) for key, value in method.model.named_parameters()
            }
            method.mask = True
            method.get_unlearned_model()
            if device == "cuda":
                torch.cuda.synchronize()

    plan = sfron(steps=steps, repair=REPAIR, ascent=25.0, threshold=0.0, batch_size=BATCH).prepare(
        request, jax.random.key(1)
    )

    def ours():
        state = init_state(plan.params, plan.stats, plan.tx, jax.random.key(3))
        for s in range(plan.num_steps):
            for part, batch in plan.work(s):
                state, _ = plan.steps[part](state, batch)
        jax.block_until_ready(state.params)

    # OpenMP threads wait for one another by spinning: where anything else runs, one thread can be ten times faster than
    # all of them. Their time is that of the faster team.
    teams = sorted({1, torch.get_num_threads()})
    runs = {
        (threads, copies): functools.partial(theirs, threads, copies) for threads in teams for copies in (True, False)
    }
    found = interleaved({"ours": ours} | runs, repeats=repeats)
    rows = []
    for copies, what in ((True, "authors' loop"), (False, "authors' loop without its copies of the weights")):
        threads = min(teams, key=lambda team: found[team, copies])
        beside = f"{what} (torch {torch.__version__}, the faster of {teams} threads: {threads})"
        rows.append((f"clujax, {steps} iterations", beside, found["ours"], found[threads, copies], "≤ 1"))
    return rows


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(MODELS), default="mlp")
    parser.add_argument("--official", type=pathlib.Path, help="a checkout of the authors' repository")
    parser.add_argument("--steps", type=int, default=100, help="iterations of the comparison with --official")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side of that comparison")
    parser.add_argument("--out", type=pathlib.Path, help="also write the table as Markdown")
    options = parser.parse_args()
    request = make_request(options.model, 4000)
    rows = cycle_rows(request) + geometry_rows(request)
    if options.official:
        if options.model == "resnet":
            request = make_request_of_width_64()
        rows += official_rows(request, options.model, options.official, options.steps, options.repeats)
    device = jax.devices()[0]
    written = table(f"{options.model}, batch {BATCH}, {device.device_kind} × {jax.device_count()}", rows)
    if options.out:
        options.out.write_text(written)


def make_request_of_width_64() -> Request:
    """The authors' ResNet-18 has 64 channels in its first stage."""
    MODELS["resnet"] = (lambda: resnet(10), (32, 32, 3))
    return make_request("resnet", 10 * BATCH)  # the fewest rows of which a tenth fills a batch


if __name__ == "__main__":
    main()
