"""The unlearning benchmark on an MLP and on a BatchNorm CNN: every method, two requests, three seeds, as pages.

Command: python experiments/unlearning_benchmark.py [--data PATH] [--only mlp]
Time:    about an hour and a half on two CPU cores; resumable after each method
Writes:  docs/results/unlearning_mlp.md, unlearning_cnn.md and their figures
Data:    apt-get install dataset-fashion-mnist, or --data PATH
"""

import argparse
import json
import pathlib
import shutil

from clujax import configuration, reports
from clujax.unlearning import experiment

CONFIGS = {"mlp": "configs/unlearning/benchmark.py", "cnn": "configs/unlearning/benchmark_cnn.py"}
WORKDIRS = {"mlp": "runs/benchmark", "cnn": "runs/benchmark_cnn"}
FIGURES = ("heatmap", "tradeoff", "scores", "cost")
RESULTS = pathlib.Path("docs/results")


def choices(workdir: pathlib.Path, key: str) -> str:
    """What was chosen on validation rows, with the gaps of all candidates, as a Markdown table."""
    lines = ["| method | chosen | gap on validation rows of each candidate |", "|---|---|---|"]
    for file in sorted((workdir / "stages").glob(f"{key}_*_choice.json")):
        record = json.loads(file.read_text())
        name = file.name.removeprefix(f"{key}_").removesuffix("_choice.json")
        gaps = ", ".join(
            f"{label}: {gap:.1f}" if isinstance(gap, float) else f"{label}: diverged"
            for label, gap in record["gaps"].items()
        )
        lines.append(f"| {name} | {record['best']} | {gaps} |")
    return "\n".join(lines)


def main() -> None:
    """Run or read each config, then write its page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the idx files, when the data set is not found by itself")
    parser.add_argument("--only", choices=tuple(CONFIGS))
    options = parser.parse_args()
    for name in [options.only] if options.only else CONFIGS:
        workdir = pathlib.Path(WORKDIRS[name])
        overrides = [f"--data.path={options.data}"] if options.data else []
        experiment.run(configuration.load(CONFIGS[name], overrides), workdir)
        run = reports.read(workdir)
        reports.build(run)
        made = run.result
        sections = [
            f"# {made['title']}",
            "",
            f"Command: `clujax run {CONFIGS[name]} --workdir {WORKDIRS[name]}` ({made['created'][:10]}, {made['device']},"
            f" jax {made['versions']['jax']}, {made['wall_seconds'] / 60:.0f} minutes in the last call).",
            "",
            reports.markdown([run]),
        ]
        for i, request in enumerate(made["requests"]):
            sections += ["", f"## {request['name']}", ""]
            for figure in FIGURES:
                source = workdir / "figures" / f"{i}_{figure}.png"
                if source.exists():
                    target = RESULTS / f"unlearning_{name}_{request['key']}_{figure}.png"
                    shutil.copy(source, target)
                    sections += [f"![{figure}]({target.name})", ""]
            sections += ["Chosen on 1,000 validation rows, on the first seed:", "", choices(workdir, request["key"])]
        sections += ["", "## Every metric", "", reports.markdown([run], full=True)]
        (RESULTS / f"unlearning_{name}.md").write_text("\n".join(sections) + "\n")


if __name__ == "__main__":
    main()
