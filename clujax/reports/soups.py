"""The report of a run of soups: one table over seeds, the mixing weights, what each soup reaches beside the models."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clujax.reports import html
from clujax.reports.figures import look
from clujax.reports.figures.soup_losses import soup_descents, soup_losses
from clujax.reports.figures.soup_weights import soup_weights
from clujax.reports.results import Run, number
from clujax.reports.tables import Cell, Grid, Row

CAPTIONS = {
    "losses": "Loss on held-out rows, which the weights were learned on, and on test rows, which nothing was chosen by. The "
    "band is the range of the models in the pool on test rows: a soup should lie left of it.",
    "weights": "The mixing weight of each model in each layer. In white, a model has no part; outside [0, 1] the soup lies "
    "beyond its models.",
    "descents": "The loss on the held-out rows pass by pass; a method that works in blocks goes on with the next block. The "
    "loss of a learned soup on the simplex is with its temperature, which is no part of the soup.",
}
SHOWN = (
    ("test/accuracy", "test accuracy, %", "↑", "%"),
    ("held/nll", "held-out NLL, nats", "", ""),
    ("test/nll", "test NLL, nats", "↓", ""),
)


def grid(run: Run) -> Grid:
    """The comparison of a run as one table."""
    record = run.result["soups"]
    columns = [(label, arrow) for _, label, arrow, _ in SHOWN]
    columns += [("models", ""), ("lowest weight", ""), ("highest weight", ""), ("seconds", "↓")]
    mean = Row("mean of the models", (*_cells(record["mean"]), *[Cell("")] * 4), "reference")
    rows = [mean]
    for method in record["methods"]:
        more = (method["used"], method["values"]["lowest"], method["values"]["highest"], method["seconds"])
        kind = "focus" if method["kind"] == "mehl" else "method"
        rows.append(Row(method["label"], (*_cells(method), *(Cell(number(each)) for each in more)), kind))
    title = f"{record['set']}, {record['count']} models, {look.count(len(run.result['seeds']))}"
    outside = len(record["one_basin"]) - sum(record["one_basin"])
    said = (
        f"Means ± standard deviation over seeds. Weights were learned on {record['held_rows']:,} held-out rows, and nothing "
        "was chosen on test rows. Seconds include compilation."
    )
    if outside:
        said += (
            f" Of {outside} of {len(record['one_basin'])} pools the mean model scores below the models' average on held-out "
            "rows: they are probably not in one basin."
        )
    return Grid(title, tuple(columns), tuple(rows), (), (), said=said)


def draw(run: Run) -> dict[str, Figure]:
    """The figures that the evidence of a run allows, by name."""
    record, file = run.result["soups"], run.path / "evidence_soups.npz"
    seeds = look.count(len(run.result["seeds"]))
    figures = {"losses": soup_losses(record, seeds)}
    learned = [method for method in record["methods"] if method["losses"]]
    if file.is_file() and learned:
        with np.load(file, allow_pickle=False) as arrays:
            weights = {method["label"]: arrays[f"weights/{method['key']}"] for method in learned}
            # Weights that differ between layers have more to show.
            weights = dict(sorted(weights.items(), key=lambda item: np.ptp(item[1], axis=1).max() == 0))
            figures["weights"] = soup_weights(weights, list(arrays["leaves"]), f"seed {run.result['seeds'][0]}")
    if learned:
        figures["descents"] = soup_descents(learned, record["batches"], f"seed {run.result['seeds'][0]}")
    return figures


def section(run: Run, pictures: Mapping[str, bytes]) -> str:
    """The body of the page: table, figures, settings, the models."""
    table, record = grid(run), run.result["soups"]
    shown = "".join(html.figure(CAPTIONS[name], png) for name, png in pictures.items())
    settings = "".join(
        f"<dt>{html.escape(method['label'])}</dt><dd>{html.escape(_settings(method))}</dd>"
        for method in record["methods"]
    )
    members = "".join(
        f"<dt>{html.escape(each['name'].rpartition('/')[2])}</dt><dd>{html.escape(_member(each))}</dd>"
        for each in record["members"]
    )
    return (
        f'<section><p class="soft">{html.escape(table.title)}.</p>{html.table(table)}'
        f'<p class="soft">{html.escape(table.said)}</p><div class="figures">{shown}</div>'
        f"<details><summary>Settings of each method</summary><dl>{settings}</dl></details>"
        f"<details><summary>The models of the first seed</summary><dl>{members}</dl></details></section>"
    )


def _cells(entry: Mapping[str, Any]) -> tuple[Cell, ...]:
    return tuple(Cell(_told(entry, key, unit)) for key, _, _, unit in SHOWN)


def _told(entry: Mapping[str, Any], key: str, unit: str) -> str:
    std = entry["std"].get(key)
    return number(entry["values"][key], unit) + (f"±{number(std, unit)}" if std is not None else "")


def _settings(method: Mapping[str, Any]) -> str:
    told = [f"{key} {value}" for key, value in method["settings"].items() if key != "label"]
    if method["live_bytes"]:
        told.append(f"{method['live_bytes'] / 2**20:.1f} MiB of arrays at most")
    return ", ".join(told)


def _member(each: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value:.3g}" for key, value in each.items() if key != "name")
