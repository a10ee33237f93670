"""The report of a regression run: one table over seeds, four figures, the sparsity report."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from clujax.reports import html
from clujax.reports.figures.regression_fit import regression_fit
from clujax.reports.figures.regression_growth import regression_growth
from clujax.reports.figures.regression_relevance import regression_relevance
from clujax.reports.figures.regression_support import regression_support
from clujax.reports.results import Run, number
from clujax.reports.tables import Cell, Grid, Row

CAPTIONS = {
    "fit": "Left: predictions on test rows against their true values; the dashed line is a perfect prediction. Right: the "
    "residuals, which should show no pattern.",
    "support": "The support points over two features, each with its own reach: a narrow ellipse resolves a detail, a wide "
    "one carries a trend. Other features are not seen here, so points may overlap.",
    "growth": "The score on test rows while the support grows by the rows fitted worst (nothing was chosen by it). The "
    "diamond is the model after the last, long round; other methods stand at the number of training rows that they keep, "
    "or as a line where they keep none.",
    "relevance": "Dark cells: the support point tells that feature's values finely apart. The bars weight each support point "
    "by the size of its coefficient.",
}
SPARSITY = {
    "n_support": "support points",
    "r0_share": "share of the coefficients of a full sum space",
    "l1": "‖α‖₁, a bound of the norm",
    "train_mse": "training mean squared error reached",
    "support_error": "largest error on the support, scaled",
    "ridge_alpha": "what that must be: λ max|α|",
    "rcond": "reciprocal condition of K + λI",
}


def grid(run: Run) -> Grid:
    """The comparison of a run as one table."""
    record = run.result["regression"]
    columns = [
        (f"{each['label']} {_unit(record, each)}".strip(), _ARROW[each["direction"]]) for each in record["metrics"]
    ]
    rows = []
    for method in record["methods"]:
        cells = [Cell(_told(method, each)) for each in record["metrics"]]
        kind = "focus" if method["key"] == "lab" else "method"
        rows.append(Row(method["label"], (*cells, Cell(number(method["seconds"], "s"))), kind))
    count = len(run.result["seeds"])
    title = (f"{record['set']}, {record['num_train']} training rows, {record['num_test']} test rows, "
             f"{len(record['features'])} features, {count} seed{'' if count == 1 else 's'}")  # fmt: skip
    notes = tuple(f"{method['label']}: {each}" for method in record["methods"] for each in method["warnings"])
    said = "Means ± standard deviation over seeds, each with its own split; settings are chosen without the test rows."
    return Grid(title, (*columns, ("seconds", "↓")), tuple(rows), notes, (), said=said)


_ARROW = {"higher": "↑", "lower": "↓"}


def _unit(record: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    return f"({record['target']})" if metric["unit"] == "target" else metric["unit"]


def _told(method: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    value, std = method["values"].get(metric["key"]), method["std"].get(metric["key"])
    if metric["key"] == "support":
        return f"{value:.0f}" if value else "–"
    digits = (lambda v: f"{v:.4f}") if metric["key"] == "r2" else (lambda v: number(v, metric["unit"]))
    return digits(value) + (f"±{digits(std)}" if std is not None else "")


def draw(run: Run) -> dict[str, Figure]:
    """The figures that the evidence of a run allows, by name."""
    file, record = run.path / "evidence_regression.npz", run.result["regression"]
    if not file.is_file():
        return {}
    with np.load(file, allow_pickle=False) as arrays:
        evidence = dict(arrays)
    count = len(run.result["seeds"])
    seeds = "1 seed" if count == 1 else f"seed {run.result['seeds'][0]} of {count}"
    figures = {}
    if evidence["truth"].ndim == 1:
        figures["fit"] = regression_fit(evidence, record["target"], seeds=seeds)
    figures["support"] = regression_support(evidence, record["features"], record["target"], seeds=seeds)
    figures["growth"] = regression_growth(
        record["history"], evidence["truth"], record["methods"], rows=record["num_train"], seeds=seeds
    )
    figures["relevance"] = regression_relevance(evidence, record["features"], record["target"], seeds=seeds)
    return figures


def section(run: Run, pictures: Mapping[str, bytes]) -> str:
    """The body of the page: table, figures, sparsity, settings."""
    record, table = run.result["regression"], grid(run)
    shown = "".join(html.figure(CAPTIONS[name], png) for name, png in pictures.items())
    sparse = "".join(
        f"<dt>{html.escape(words)}</dt><dd>{number(record['report'][key])}</dd>" for key, words in SPARSITY.items()
    )
    settings = "".join(
        f"<dt>{html.escape(method['label'])}</dt><dd>{html.escape('; '.join(map(_settings, method['settings'])))}</dd>"
        for method in record["methods"]
    )
    warnings = "".join(f'<p class="warn">⚠ {html.escape(note)}</p>' for note in table.notes)
    return (
        f'<section><p class="soft">{html.escape(table.title)}.</p>{html.table(table)}'
        f'<p class="soft">{html.escape(table.said)}</p>{warnings}<div class="figures">{shown}</div>'
        f"<details><summary>Sparsity and conditioning of the first seed's model</summary><dl>{sparse}</dl></details>"
        f"<details><summary>Settings of each method, seed by seed</summary><dl>{settings}</dl></details></section>"
    )


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in settings.items()
    )
