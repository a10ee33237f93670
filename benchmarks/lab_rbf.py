"""Steps of LAB-RBF against support size beside the authors' code, a whole fit, and large tables with their memory.

Command: python benchmarks/lab_rbf.py steps [--official DIR --torch PYTHON]     CPU time of one optimizer step, one thread
         python benchmarks/lab_rbf.py fit --data parkinson.npz [--official DIR --torch PYTHON]     compilation included
         python benchmarks/lab_rbf.py rows [--rows 100000,1000000]     fit and prediction, with peak memory
         python benchmarks/lab_rbf.py devices     two devices give the model of one
Time:    about five minutes in all without the authors' code

DIR is a checkout of the authors' repository and PYTHON an interpreter that imports torch. A whole fit of theirs is told from
twenty steps at each support size of the schedule (CPU time, one thread), since all of it takes many minutes.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # idle BLAS threads would spin, and be counted

SHAPES = ((120, 6, 128), (350, 20, 128), (350, 20, 1024), (1000, 20, 128))
SIZES = (118, 129, 141, 155, 170, 187, 205, 225, 247, 271, 298, 327, 350)
OFFICIAL = """
import json, sys, time
import numpy as np, torch
sys.path.insert(0, sys.argv[1])
from clsLABRBF import LABRBF
torch.set_num_threads(1)
def step_time(n, m, b, steps):
    rng = np.random.default_rng(0)
    draw = lambda *shape: torch.tensor(rng.uniform(-1, 1, shape), dtype=torch.float32)
    x, y, xb, yb = draw(m, n), draw(n), draw(m, b), draw(b)
    model = LABRBF(x, y, (30 / m) ** 0.5 * torch.ones(m, n))
    tx = torch.optim.Adam(model.parameters(), lr=1e-2)
    times = []
    for _ in range(steps + 2):
        begin = time.process_time()
        model.train(); loss = model.mse_loss(model(xb), yb); tx.zero_grad(); loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0); tx.step()
        times.append(time.process_time() - begin)
    return float(np.median(times[2:]))
print(json.dumps([step_time(*shape) for shape in json.loads(sys.argv[2])]))
"""


def official(arguments, shapes, steps=20):
    """Seconds of CPU of the authors' step at each shape, by their own class in its own process."""
    if not arguments.official:
        return [None] * len(shapes)
    command = [arguments.torch, "-c", OFFICIAL, str(pathlib.Path(arguments.official).resolve())]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ""}
    done = subprocess.run([*command, json.dumps([[*shape, steps] for shape in shapes])], env=environment, capture_output=True,
                          text=True)  # fmt: skip
    if done.returncode:
        sys.exit(f"the authors' code ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def our_step(n, m, b, profile, steps=60):
    import jax
    import numpy as np

    from clujax.regression import Objective, adam, index_stream, train_bandwidths

    rng = np.random.default_rng(0)
    x, y = (rng.uniform(-1, 1, shape).astype(np.float32) for shape in ((4096, m), (4096,)))
    theta, tx = np.full((n, m), np.sqrt(30 / m), np.float32), adam(1e-2)
    stream = index_stream(jax.random.key(0), 4096, steps, b)
    call = lambda: jax.block_until_ready(
        train_bandwidths(theta, tx.init(theta), stream, x, y, x[:n], y[:n], np.ones(n, np.float32), 1e-3,
                         objective=Objective(profile), tx=tx)
    )  # fmt: skip
    begin = time.process_time()
    call()
    compiling, times = time.process_time() - begin, []
    for _ in range(5):
        begin = time.process_time()
        call()
        times.append((time.process_time() - begin) / steps)
    return float(np.median(times)), compiling


def steps(arguments):
    from clujax.geometry.kernels import gaussian, laplacian

    print(
        "| n, m, batch | authors (Laplace), ms | Laplace, ms | Gauss, ms | ratio, Laplace | first call, s |\n|---"
        + "|---" * 5
        + "|"
    )
    for shape, theirs in zip(SHAPES, official(arguments, SHAPES)):
        (ours, compiling), (gauss, _) = our_step(*shape, laplacian), our_step(*shape, gaussian)
        beside = f"{1e3 * theirs:.1f} | {1e3 * ours:.2f} | {1e3 * gauss:.2f} | {theirs / ours:.1f}" if theirs else (
            f"– | {1e3 * ours:.2f} | {1e3 * gauss:.2f} | –")  # fmt: skip
        print(f"| {', '.join(map(str, shape))} | {beside} | {compiling:.1f} |", flush=True)


def fit(arguments):
    import jax
    import numpy as np

    from clujax.regression import FitOptions, fit_lab_rbf, predict, regression_metrics
    from clujax.regression.tables import load_table

    jax.config.update("jax_enable_compilation_cache", False)
    table = load_table("parkinson", path=arguments.data)
    order = np.random.default_rng(0).permutation(len(table.y))
    train, test = np.split(order, [-(-4 * len(order) // 5)])
    wall, cpu = time.perf_counter(), time.process_time()
    model, state = fit_lab_rbf(jax.random.key(0), table.x[train], table.y[train], FitOptions())
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    score = regression_metrics(predict(model, table.x[test]), table.y[test])
    print(f"ours: {cpu:.0f} s of CPU, {wall:.0f} s of wall time, compilation included; R² {score['r2']:.5f}, "
          f"{len(state.support)} support points", flush=True)  # fmt: skip
    if arguments.official:
        each = official(arguments, [(n, 20, 128) for n in SIZES])
        whole = 500 * sum(each) + 5000 * each[-1]
        print(f"authors: {whole:.0f} s of CPU, from 20 steps at each of {len(SIZES)} sizes; ratio {whole / cpu:.1f}")


def rows(arguments):
    print(
        "| rows | fit, s | CPU, s | peak memory, GiB | of it before the fit | R² | µs to predict a row |\n|---"
        + "|---" * 6
        + "|"
    )
    for count in map(int, arguments.rows.split(",")):
        subprocess.run([sys.executable, __file__, "one", "--rows", str(count)], check=True)


def one(arguments):
    """One size in its own process, so that its peak memory is its own."""
    import jax
    import numpy as np

    from clujax.regression import FitOptions, fit_lab_rbf, predict, regression_metrics

    count, m = int(arguments.rows), 20
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (count + 20000, m)).astype(np.float32)
    y = np.sin(3 * x[:, 0]) * x[:, 1] + np.exp(-20 * (x[:, 2] ** 2 + x[:, 3] ** 2)) + 0.05 * rng.normal(size=len(x))
    given = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    wall, cpu = time.perf_counter(), time.process_time()
    options = FitOptions(n_max=256, grow_steps=200, final_steps=1000, batch_size=256, bandwidth=3.0, ridge=1e-2)
    model, _ = fit_lab_rbf(jax.random.key(0), x[:count], y[:count], options)
    fitted, fitted_cpu = time.perf_counter() - wall, time.process_time() - cpu
    begin = time.perf_counter()
    score = regression_metrics(predict(model, x[count:]), y[count:])
    begin = (time.perf_counter() - begin) / 20000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    cells = (
        f"{count:,} × {m}",
        f"{fitted:.0f}",
        f"{fitted_cpu:.0f}",
        f"{peak:.2f}",
        f"{given:.2f}",
        f"{score['r2']:.4f}",
    )
    print("| " + " | ".join((*cells, f"{1e6 * begin:.1f}")) + " |", flush=True)


def devices(arguments):
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
    import jax
    import numpy as np

    from clujax.regression import FitOptions, fit_lab_rbf, predict

    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (5000, 8))
    y = np.sin(3 * x[:, 0]) * x[:, 1] + x[:, 2] ** 2
    mesh = jax.make_mesh((2,), ("data",))
    for dtype in (np.float32, np.float64):
        options = FitOptions(n_max=128, grow_steps=50, final_steps=100, dtype=dtype)
        with jax.enable_x64(dtype == np.float64):
            (one, first), (two, second) = (fit_lab_rbf(jax.random.key(0), x, y, options, mesh=m) for m in (None, mesh))
            gap = np.abs(predict(one, x) - predict(two, x, mesh=mesh)).max()
            alone = np.abs(predict(one, x) - predict(one, x, mesh=mesh)).max()
        same = np.array_equal(first.support, second.support)
        print(f"{jax.device_count()} devices, {dtype.__name__}: the same support points: {same}; largest difference of "
              f"predictions {gap:.1e} (of one model predicted on one and on two: {alone:.1e})", flush=True)  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("steps", "fit", "rows", "one", "devices"))
    parser.add_argument("--official")
    parser.add_argument("--torch", default=sys.executable)
    parser.add_argument("--data")
    parser.add_argument("--rows", default="100000,1000000")
    arguments = parser.parse_args()
    {"steps": steps, "fit": fit, "rows": rows, "one": one, "devices": devices}[arguments.what](arguments)


if __name__ == "__main__":
    main()
