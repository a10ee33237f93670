"""How much memory a stream needs: every method of a short list at several capacities, three seeds.

Command: python experiments/continual_memory.py --workdir runs/continual_memory
Time:    about half an hour on two CPU cores
Result:  docs/results/continual_memory.md and its figure
"""

import argparse
import pathlib

import matplotlib.pyplot as plt
import numpy as np

from clujax import configuration
from clujax.continual import experiment
from clujax.continual.results import LABELS

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "continual" / "fashion_mnist.py"
CAPACITIES = (200, 500, 1000, 2000, 5000)
COMPARE = ("oracle", "oracle_again", "replay", "der_plus", "joint", "ug_clu_no_mask", "ug_clu")
SHOWN = {
    "FA": "forgotten by the request, %",
    "RA": "kept, %",
    "TA": "test, %",
    "KL_forget": "KL, forgotten, nat",
    "AvgD": "Avg. D, points",
}
COLOURS = {
    "oracle": "black",
    "replay": "#E69F00",
    "der_plus": "#009E73",
    "joint": "#CC79A7",
    "ug_clu_no_mask": "#56B4E9",
    "ug_clu": "#0072B2",
}


def sweep(workdir: pathlib.Path) -> dict[int, dict]:
    """One run a capacity; runs that are finished are read."""
    found = {}
    for capacity in CAPACITIES:
        overrides = [f"--memory.capacity={capacity}", "--carry_out=random,", f"--compare={','.join(COMPARE)}"]
        config = configuration.load(CONFIG, overrides)
        found[capacity] = experiment.run(config, workdir / str(capacity))["requests"][0]
    return found


def values(record: dict, method: str, key: str) -> tuple[float, float]:
    """Mean and spread over seeds."""
    row = next(each for each in record["methods"] if each["key"] == method)
    return row["values"].get(key, np.nan), (row["std"] or {}).get(key, 0.0)


def markdown(found: dict[int, dict]) -> str:
    """A row for each method and capacity."""
    lines = [
        "| method | rows in memory | " + " | ".join(f"{key}" for key in SHOWN) + " |",
        "|---|---:|" + "---:|" * len(SHOWN),
    ]
    for method in COMPARE:
        for capacity, record in found.items():
            if method.startswith("oracle") and capacity != CAPACITIES[0]:
                continue  # it reads no memory
            cells = [f"{mean:.2f}±{spread:.2f}" for mean, spread in (values(record, method, key) for key in SHOWN)]
            size = "–" if method.startswith("oracle") else f"{capacity:,}"
            lines.append(f"| {LABELS.get(method, 'UG-CLU, no mask')} | {size} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(found: dict[int, dict], path: pathlib.Path) -> None:
    """A panel for each number over the capacity."""
    figure, axes = plt.subplots(1, len(SHOWN), figsize=(3.1 * len(SHOWN), 3.4), constrained_layout=True)
    for axis, (key, label) in zip(axes, SHOWN.items()):
        for method, colour in COLOURS.items():
            means, spreads = np.transpose([values(record, method, key) for record in found.values()])
            if method == "oracle":
                axis.axhline(means.mean(), color=colour, lw=2, label="Oracle")
                continue
            name = LABELS.get(method, "UG-CLU, no mask")
            axis.errorbar(CAPACITIES, means, spreads, color=colour, marker="o", ms=4, capsize=2, label=name)
        axis.set(xscale="log", xlabel="rows in memory", title=label)
        if key == "KL_forget":
            axis.set_yscale("symlog", linthresh=0.1)
        if key in ("KL_forget", "AvgD"):
            axis.set_ylim(bottom=0)
        axis.set_xticks(CAPACITIES, [f"{each:,}" for each in CAPACITIES], fontsize=7)
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(COLOURS), frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/continual_memory"))
    parser.add_argument(
        "--write", type=pathlib.Path, default=pathlib.Path("docs/results"), help="folder of table and figure"
    )
    arguments = parser.parse_args()
    found = sweep(arguments.workdir)
    (arguments.write / "continual_memory.md").write_text(markdown(found))
    draw(found, arguments.write / "continual_memory.png")
    print(markdown(found))


if __name__ == "__main__":
    main()
