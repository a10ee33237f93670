"""The CIFAR-10 table of SFR-on: every network of `configs/unlearning/cifar10.py`, in pieces of bounded time.

Command: python experiments/sfron_cifar10.py --data cifar10.npz [--small] [--minutes 10] [--workdir runs/cifar10]
Time:    the full table takes a few hours on one data-centre GPU; `--minutes` stops after that long with all progress kept,
         and the same command goes on from there. `--small` is the CPU-sized variant, about ten minutes on two cores.
Writes:  docs/results/sfron_cifar10.md (or sfron_cifar10_cpu.md) with the paper's rows beside ours, when all is done
"""

import argparse
import os
import pathlib
import shutil
import threading

from clujax import configuration, reports
from clujax.unlearning import experiment

RESULTS = pathlib.Path("docs/results")

# Huang et al. 2024, CIFAR-10, 10 % random rows: FA, RA, TA, MIA, Avg. D, KL.
PAPER = {
    "Retrain": (95.62, 100.00, 95.34, 74.84, 0.0, 0.10),
    "Finetune": (99.90, 99.99, 94.94, 88.25, 4.52, 0.26),
    "Gradient ascent": (93.91, 93.76, 87.00, 77.19, 4.66, 0.36),
    "Random label": (95.99, 99.98, 93.85, 31.44, 11.32, 0.34),
    "SalUn": (100.00, 99.99, 94.89, 67.54, 3.03, 0.27),
    "Bad teacher": (98.88, 99.99, 94.63, 61.77, 4.26, 0.24),
    "SCRUB": (99.44, 99.88, 94.13, 87.43, 4.43, 0.25),
    "R-on": (96.84, 99.92, 94.18, 80.38, 2.00, 0.23),
    "FR-on": (96.16, 99.98, 94.24, 70.64, 1.47, 0.20),
    "SFR-on": (96.58, 99.88, 94.19, 72.26, 1.20, 0.15),
}


def paper_table() -> str:
    """The published rows as Markdown."""
    lines = ["| paper | FA | RA | TA | MIA | Avg. D | KL |", "|---|---|---|---|---|---|---|"]
    lines += [f"| {name} | " + " | ".join(f"{value:g}" for value in row) + " |" for name, row in PAPER.items()]
    return "\n".join(lines)


def main() -> None:
    """Run, and write the table when every network is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="an .npz with x_train, y_train, x_test, y_test")
    parser.add_argument("--small", action="store_true", help="the CPU-sized variant")
    parser.add_argument("--minutes", type=float, help="stop after so long; the same command goes on")
    parser.add_argument("--workdir", type=pathlib.Path)
    options, overrides = parser.parse_known_args()
    name = "cifar10_cpu" if options.small else "cifar10"
    workdir = options.workdir or pathlib.Path("runs") / name
    if options.minutes:
        # Checkpoints are whole at any moment, so stopping the process is safe; status 75 asks to be called again.
        timer = threading.Timer(60 * options.minutes, lambda: os._exit(75))
        timer.daemon = True
        timer.start()
    config = configuration.load(f"configs/unlearning/{name}.py", [f"--data.path={options.data}", *overrides])
    experiment.run(config, workdir)
    run = reports.read(workdir)
    reports.build(run)
    for picture in ("gaps", "membership"):
        shutil.copy(workdir / "figures" / f"0_{picture}.png", RESULTS / f"sfron_{name}_{picture}.png")
    when = f"{run.result['created'][:10]}, {run.result['device']}, jax {run.result['versions']['jax']}"
    command = f"Command: `python experiments/sfron_cifar10.py --data cifar10.npz{' --small' if options.small else ''}`."
    parts = [
        f"# {run.result['title']}",
        f"{command} {when}.",
        reports.markdown([run]),
        f"![gaps](sfron_{name}_gaps.png)",
    ]
    parts += [
        f"![membership](sfron_{name}_membership.png)",
        "## Published, for the full data and ResNet-18",
        paper_table(),
    ]
    (RESULTS / f"sfron_{name}.md").write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
