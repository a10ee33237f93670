"""SFR-on on Fashion-MNIST: the table of every method, the range of stable ascent weights, forgetting a class.

Command: python experiments/sfron_fashion_mnist.py --workdir runs/sfron_fashion_mnist [--data PATH]
Time:    about 15 minutes on two CPU cores; resumable
Writes:  docs/results/sfron_fashion_mnist.md and its figures, docs/results/sfron_ascent.png among them
"""

import argparse
import pathlib
import shutil

import matplotlib.pyplot as plt
import numpy as np
from ml_collections import ConfigDict

from clujax import configuration, reports
from clujax.unlearning import experiment

CONFIG = "configs/unlearning/fashion_mnist.py"
ASCENTS = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
RESULTS = pathlib.Path("docs/results")


def arms(config: ConfigDict, methods: dict[str, dict]) -> ConfigDict:
    """The config with retraining twice and these methods only."""
    with config.unlocked():
        kept = {name: config.methods[name].to_dict() for name in ("retrain", "retrain_again")}
        config.methods = ConfigDict(kept | methods)
        config.compare = (*kept, *methods)
        config.evidence.method = "sfron" if "sfron" in methods else next(iter(methods))
    return config


def ascent_sweep(config: ConfigDict) -> ConfigDict:
    """Ascent weights with and without the mask, a forget step every second iteration."""
    methods = {}
    for ascent in ASCENTS:
        for name, threshold in (("mask", 1.0), ("no mask", None)):
            methods[f"{name}, α {ascent:g}"] = {
                "method": "sfron",
                "repair": 2,
                "ascent": ascent,
                "threshold": threshold,
            }
    return arms(config, methods)


def class_request(config: ConfigDict) -> ConfigDict:
    """The whole class 0, 200 iterations."""
    methods = {
        name: config.methods[name].to_dict() for name in ("finetune", "gradient_ascent", "random_label", "salun")
    }
    methods["sfron"] = config.methods.sfron.to_dict() | {"steps": 200}
    arms(config, methods)
    with config.unlocked():
        config.carry_out = ("class",)
        config.requests = ConfigDict(
            {"class": {"label": "the whole class T-shirt", "scenario": "class", "classes": (0,)}}
        )
        config.title = "Forgetting a class of Fashion-MNIST, MLP"
    return config


def draw_sweep(run: reports.Run, path: pathlib.Path) -> None:
    """Avg. D against the ascent weight, with and without the mask."""
    rows = {row["key"]: row for row in run.result["requests"][0]["methods"]}
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for name, style in (("mask", "o-"), ("no mask", "s--")):
        cells = [rows[f"{name}, α {ascent:g}"] for ascent in ASCENTS]
        mean = np.array([cell["values"]["AvgD"] for cell in cells])
        spread = np.array([cell["std"]["AvgD"] for cell in cells])
        axes.errorbar(ASCENTS, mean, spread, fmt=style, capsize=3, label=name)
    axes.axhline(rows["retrain_again"]["values"]["AvgD"], color="grey", lw=1, label="two retrained networks")
    axes.set(xscale="log", yscale="log", xlabel="ascent weight α", ylabel="Avg. D to retraining (%)")
    axes.set_title(f"A forget step every 2 iterations, mean ± std over {len(run.result['seeds'])} seeds", fontsize=10)
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Run the three parts, then write their tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", default="runs/sfron_fashion_mnist", type=pathlib.Path)
    parser.add_argument("--data", help="folder of the idx files, when the data set is not found by itself")
    options = parser.parse_args()
    overrides = [f"--data.path={options.data}"] if options.data else []
    parts = {"table": lambda config: config, "ascent": ascent_sweep, "class": class_request}
    sections = [
        "# SFR-on on Fashion-MNIST",
        "",
        "Command: `python experiments/sfron_fashion_mnist.py`.",
        "",
    ]
    for name, change in parts.items():
        config = change(configuration.load(CONFIG, overrides))
        experiment.run(config, options.workdir / name)
        run = reports.read(options.workdir / name)
        reports.build(run)
        when = f"{run.result['created'][:10]}, {run.result['device']}, jax {run.result['versions']['jax']}"
        sections += [f"## {run.result['title']} ({name})", "", f"{when}.", "", reports.markdown([run]), ""]
        figures = options.workdir / name / "figures"
        for picture in ("0_gaps", "0_membership", "0_trajectory") if name != "ascent" else ():
            target = RESULTS / f"sfron_fashion_{name}_{picture[2:]}.png"
            shutil.copy(figures / f"{picture}.png", target)
            sections += [f"![{picture[2:]}]({target.name})", ""]
        if name == "ascent":
            draw_sweep(run, RESULTS / "sfron_ascent.png")
            sections += ["![Avg. D against the ascent weight](sfron_ascent.png)", ""]
    (RESULTS / "sfron_fashion_mnist.md").write_text("\n".join(sections))


if __name__ == "__main__":
    main()
