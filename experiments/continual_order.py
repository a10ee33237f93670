"""Does the order of learning and forgetting matter? The same rows, asked for together, learned first, forgotten first.

Command: python experiments/continual_order.py --workdir runs/continual_order
Time:    about ten minutes on two CPU cores; one seed
Result:  docs/results/continual_order.md
"""

import argparse
import pathlib

import numpy as np
from ml_collections import ConfigDict

from clujax import configuration
from clujax.continual import experiment
from clujax.continual.results import LABELS

CONFIG = pathlib.Path(__file__).parents[1] / "configs" / "continual" / "fashion_mnist.py"
COMPARE = ("oracle", "oracle_again", "replay", "der_plus", "joint_relabel", "er_salun", "ug_clu", "ug_clu_relabel")
CONTENT = {"random": "U10%{0,1,2,3}", "category": "U{0,2}"}
SHOWN = ("FA", "RA", "TA", "Relapse", "KL_kept", "AvgD")


def get_config() -> ConfigDict:
    """Two contents in three orders; all end with the same rows learned and the same rows forgotten."""
    config = configuration.load(CONFIG, [f"--compare={','.join(COMPARE)}", "--seeds=0,"])
    gentle = config.streams.category.override.to_dict()
    with config.unlocked():
        config.streams = ConfigDict()
        for name, forget in CONTENT.items():
            orders = {"together": (f"L3+{forget}",), "learn_first": ("L3", forget), "forget_first": (forget, "L3")}
            for order, words in orders.items():
                stream = {
                    "label": f"{name}, {order.replace('_', ' ')}",
                    "words": ("L1", "L2", *words),
                    "task_aware": False,
                }
                config.streams[f"{name}_{order}"] = stream | ({"override": gentle} if name == "category" else {})
        config.carry_out = tuple(config.streams)
    return config


def last(workdir: pathlib.Path, number: int) -> dict[str, dict[str, float]]:
    """The state after the last request by method: accuracy on what is forgotten by then is FA or, if earlier, Relapse."""
    with np.load(workdir / f"evidence_{number}.npz") as arrays:
        models, absent = arrays["stream_models"].tolist(), np.full((len(arrays["stream_models"]), 1), np.nan)
        curves = {key: arrays.get(f"stream_{key}", absent) for key in SHOWN}
    found = {name: {key: float(curves[key][i, -1]) for key in SHOWN} for i, name in enumerate(models)}
    for values in found.values():
        values["gone"] = values["FA"] if np.isfinite(values["FA"]) else values["Relapse"]
    return found


def markdown(config: ConfigDict, workdir: pathlib.Path) -> str:
    """Rows: methods and orders. Columns: accuracies after the last request and their distance to the oracle's."""
    lines = [
        "| content, order | method | forgotten % | kept % | test % | KL, kept | Avg. D |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for number, name in enumerate(config.carry_out):
        found = last(workdir, number)
        for method in COMPARE:
            values = found[method]
            cells = [f"{values[key]:.1f}" for key in ("gone", "RA", "TA")] + [
                f"{values['KL_kept']:.2f}",
                f"{values['AvgD']:.1f}",
            ]
            label = LABELS.get(method, "UG-CLU, random label")
            lines.append(f"| {config.streams[name].label} | {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/continual_order"))
    parser.add_argument("--write", type=pathlib.Path, default=pathlib.Path("docs/results/continual_order.md"))
    arguments = parser.parse_args()
    config = get_config()
    experiment.run(config, arguments.workdir)
    table = markdown(config, arguments.workdir)
    arguments.write.write_text(table)
    print(table)


if __name__ == "__main__":
    main()
