"""Run the authors' MEHL_soup_layer.py as it is, on a pool of perceptrons and batches that are given.

The script reads its models as files and takes network and data from a module `utils` beside it: here that module is made, and
on a machine without CUDA its devices and its communication become those of the CPU.
"""

import contextlib
import importlib
import io
import os
import runpy
import sys
import tempfile
import time
import types
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np


class Found(NamedTuple):
    """The script's soup, in the tree of the pool's models; seconds of the whole script; where it ran."""

    params: Any
    seconds: float
    device: str


def run(script, pool, x, y, *, batch, block, epochs, rate) -> Found:
    """Give the script the models of `pool` (dense layers, kernel and bias, the head last) and x, y as held-out data."""
    import torch
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

    leaves = [jax.tree_util.tree_leaves_with_path(model) for model in pool]
    names = [jax.tree_util.keystr(path) for path, _ in leaves[0]]
    layers = list(dict.fromkeys(name.rpartition("[")[0] for name in names))
    layers.sort(key=lambda name: ("head" in name, name))
    order = [names.index(f"{layer}['{part}']") for layer in layers for part in ("kernel", "bias")]

    def network(_):
        parts = []
        for layer in layers:
            rows, columns = leaves[0][names.index(f"{layer}['kernel']")][1].shape
            parts += [torch.nn.Linear(rows, columns), torch.nn.ReLU()]
        return torch.nn.Sequential(*parts[:-1])

    def datasets(_):
        rows = TensorDataset(torch.tensor(x), torch.tensor(y, dtype=torch.long))
        loader = lambda: DataLoader(rows, batch, sampler=DistributedSampler(rows, shuffle=False))
        return loader(), loader(), loader()

    def seeded(seed):
        np.random.seed(seed)  # noqa: NPY002  (as the script draws)
        torch.manual_seed(seed)

    utils = types.ModuleType("utils")
    utils.get_model, utils.get_datasets, utils.get_datasets_split_ddp, utils.set_seed = (
        network,
        datasets,
        datasets,
        seeded,
    )
    modules = {"utils": utils}
    for name in ("pandas", "torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.models"):
        try:  # the script imports them and uses nothing of them
            __import__(name)
        except ImportError:
            modules[name] = types.ModuleType(name)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        keys = list(network(None).state_dict())
        for k, model in enumerate(leaves):
            arrays = [np.asarray(model[i][1]) for i in order]
            state = {key: torch.tensor(a.T if a.ndim == 2 else a).contiguous() for key, a in zip(keys, arrays)}
            torch.save(state, f"{folder}/{k}.pt")
        told = {
            "model-location": folder, "params_end": len(pool), "arch": "mlp", "batch-size": batch, "lr": rate,
            "epochs": epochs, "optimizer": "adamw", "model_batch": block, "models_epochs": 1, "local-rank": 0,
        }  # fmt: skip
        words = [str(word) for name, value in told.items() for word in (f"--{name}", value)]
        stack.enter_context(mock.patch.object(sys, "argv", [str(script), "--cosine-lr", *words]))
        stack.enter_context(mock.patch.dict(sys.modules, modules))
        address = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29876"}
        stack.enter_context(mock.patch.dict(os.environ, address))
        if not torch.cuda.is_available():
            _on_cpu(torch, stack)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            begin = time.perf_counter()
            after = runpy.run_path(str(script), run_name="__main__")
            seconds = time.perf_counter() - begin
        torch.distributed.destroy_process_group()
    state = after["model"].module.state_dict()
    arrays = {i: np.asarray(state[key].cpu()) for key, i in zip(keys, order)}
    flat = [arrays[i].T if arrays[i].ndim == 2 else arrays[i] for i in range(len(names))]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "the CPU"
    return Found(jax.tree.unflatten(jax.tree.structure(pool[0]), flat), seconds, device)


def _on_cpu(torch, stack) -> None:
    begin, parallel = torch.distributed.init_process_group, torch.nn.parallel.DistributedDataParallel
    patch = lambda place, name, new: stack.enter_context(mock.patch.object(place, name, new))
    patch(torch.cuda, "set_device", lambda *_: None)
    patch(torch.distributed, "init_process_group", lambda backend: begin("gloo"))
    patch(torch.nn.parallel, "DistributedDataParallel", lambda model, **_: parallel(model))
    importlib.import_module("torch._dynamo")  # which optimizers import late
    # `torch.device` is a type that PyTorch asks for itself: only the script sees another one.
    seen = types.ModuleType("torch")
    seen.__dict__.update(torch.__dict__)
    seen.device = lambda *_: torch.device("cpu")
    stack.enter_context(mock.patch.dict(sys.modules, {"torch": seen}))
