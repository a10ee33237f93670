"""The report of a run of adapters: one table over seeds, loss slices, and what becomes of accuracy under shift."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clujax.reports import html
from clujax.reports.figures.lora_shift import lora_shift
from clujax.reports.figures.lora_slices import lora_planes, lora_slices
from clujax.reports.results import Run, number
from clujax.reports.tables import Cell, Grid, Row

CAPTIONS = {
    "slices": "The loss on training rows along one random direction of the merged kernels, whose every filter is as long as "
    "the network's: a wide valley is a flat minimum.",
    "planes": "The same loss over two such directions; equal colours are equal losses in all panels.",
    "shift": "Accuracy on the test rows and on the shifted ones; bars are one standard deviation over seeds.",
}


def grid(run: Run) -> Grid:
    """The comparison of a run as one table."""
    record = run.result["lora"]
    shown = [(f"{name}/accuracy", f"{_words(name)}, %", "↑", "%") for name in record["tests"]]
    shown += [("test/nll", "test NLL, nats", "↓", ""), ("train/nll", "train NLL, nats", "", "")]
    shown += [(f"sharpness {tau:g}", f"sharpness({tau:g}), nats", "↓", "") for tau in record["taus"]]
    columns = [(label, arrow) for _, label, arrow, _ in shown]
    rows = []
    for method in record["methods"]:
        cells = [Cell(_told(method, key, unit)) for key, _, _, unit in shown]
        cells.append(Cell(number(1e3 * method["seconds_per_step"])))
        kind = "focus" if method["settings"].get("objective") == "flat" else "method"
        rows.append(Row(method["label"], tuple(cells), kind))
    count = len(run.result["seeds"])
    title = (f"{record['set']}, {record['num_train']} training rows, {count} seed{'' if count == 1 else 's'}; "
             f"{record['pretrained']}")  # fmt: skip
    said = (
        "Means ± standard deviation over seeds. Sharpness(τ) is the rise of the training loss under noise of strength τ on "
        "the merged kernels. Nothing was chosen on test rows."
    )
    return Grid(title, (*columns, ("ms a step", "↓")), tuple(rows), (), (), said=said)


def draw(run: Run) -> dict[str, Figure]:
    """The figures that the evidence of a run allows, by name."""
    record, file = run.result["lora"], run.path / "evidence_lora.npz"
    figures, count = {}, len(run.result["seeds"])
    if file.is_file():
        with np.load(file, allow_pickle=False) as arrays:
            evidence = dict(arrays)
        seed = "1 seed" if count == 1 else f"seed {run.result['seeds'][0]} of {count}"
        figures["slices"] = lora_slices(evidence, record["methods"], seeds=seed)
        if any(name.endswith("/plane") for name in evidence):
            figures["planes"] = lora_planes(evidence, record["methods"], seeds=seed)
    figures["shift"] = lora_shift(record, count)
    return figures


def section(run: Run, pictures: Mapping[str, bytes]) -> str:
    """The body of the page: table, figures, settings."""
    table = grid(run)
    shown = "".join(html.figure(CAPTIONS[name], png) for name, png in pictures.items())
    settings = "".join(
        f"<dt>{html.escape(method['label'])}</dt><dd>{html.escape(_settings(method))}</dd>"
        for method in run.result["lora"]["methods"]
    )
    return (
        f'<section><p class="soft">{html.escape(table.title)}.</p>{html.table(table)}'
        f'<p class="soft">{html.escape(table.said)}</p><div class="figures">{shown}</div>'
        f"<details><summary>Settings and cost of each method</summary><dl>{settings}</dl></details></section>"
    )


def _settings(method: Mapping[str, Any]) -> str:
    told = [f"{key} {value}" for key, value in method["settings"].items() if key != "label"]
    told += [f"{method['trained']:,} trained numbers", f"{method['steps']} steps",
             f"{method['temp_bytes'] / 2**20:.1f} MiB of temporaries"]  # fmt: skip
    return ", ".join(told)


def _told(method: Mapping[str, Any], key: str, unit: str) -> str:
    value, std = method["values"][key], method["std"].get(key)
    return number(value, unit) + (f"±{number(std, unit)}" if std is not None else "")


def _words(name: str) -> str:
    return name.replace("_", " ")
