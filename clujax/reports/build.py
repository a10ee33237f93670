"""Draw everything that a run's files allow: `figures/*.png`, then `report.html` with the pictures inside."""

import io
import os
import pathlib
from collections.abc import Mapping

from matplotlib.figure import Figure

from clujax.reports import figures, html
from clujax.reports.results import Run, read
from clujax.reports.systems import system_of


def build(run: Run | str | pathlib.Path) -> pathlib.Path:
    """Write the figures and the report of a run; files of an earlier build are replaced whole.

    Args:
        run: a `Run`, or the directory of one.

    Returns:
        The path of `report.html`.

    Raises:
        DataNotFoundError: the directory holds no finished run.
    """
    if not isinstance(run, Run):
        run = read(run)
    folder = run.path / "figures"
    folder.mkdir(exist_ok=True)
    pictures = [
        _saved(folder, f"{i}_", figures.draw(run.result, request, run.evidence[i]))
        for i, request in enumerate(run.result["requests"])
    ]
    if (system := system_of(run.result)) is not None:
        pictures.append(_saved(folder, "", system.draw(run)))
    page = run.path / "report.html"
    replace(page, html.page(run, pictures).encode())
    return page


def _saved(folder: pathlib.Path, prefix: str, drawn: Mapping[str, Figure]) -> dict[str, bytes]:
    pictures = {}
    for name, figure in drawn.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=figures.DPI, metadata={"Software": None})
        pictures[name] = buffer.getvalue()
        replace(folder / f"{prefix}{name}.png", pictures[name])
    return pictures


def replace(path: pathlib.Path, content: bytes) -> None:
    """Write a file beside its place and rename it, so that a full disk or a kill leaves the old one or the new one."""
    beside = path.with_name(f".{path.name}.part")
    try:
        beside.write_bytes(content)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
