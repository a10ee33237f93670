"""`report.html`: one file that opens anywhere, with its style and pictures inside and no script."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from clujax.reports import results
from clujax.reports.results import Run
from clujax.reports.style import CSS
from clujax.reports.tables import Grid, grids, legend

_CAPTIONS = {
    "gaps": "How far each method ends from a model retrained without the data. The grey band is as far as two "
    "retrained models are from each other: inside it, a gap cannot be told from chance. The axis is linear near zero "
    "and logarithmic beyond.",
    "class_accuracy": "Accuracy by class. A request was carried out well where the unlearned model lies on the "
    "retrained one; elsewhere it forgot too little, or too much.",
    "membership": "The score that a membership attack reads. Rows that a model was trained on differ from rows it "
    "never saw; after unlearning, the forgotten rows should lie where they lie for the retrained model.",
    "beliefs": "Forgotten images and the probability that each model gives to every class: the true class in colour, "
    "above it the best guess (red when wrong). Forgetting a few rows does not mean failing on them: a retrained "
    "model, too, may know a picture that it never saw.",
    "trajectory": "The run step by step: the loss on forgotten and remaining rows, the size of the parts of the "
    "gradient, the angle between them, and how many rows carry the adaptive weights.",
    "mask": "The share of each layer's weights that the saliency mask lets move.",
}


def page(run: Run, pictures: Sequence[Mapping[str, bytes]]) -> str:
    """The whole report as HTML text.

    Args:
        run: the files of a run.
        pictures: per request, PNG bytes by figure name.
    """
    result = run.result
    sections = []
    for i, (request, grid) in enumerate(zip(result["requests"], grids([run]))):
        sections.append(_request(request, grid, pictures[i] if i < len(pictures) else {}))
    title, when = _escape(result["title"]), _escape(str(result.get("created", ""))[:16].replace("T", " "))
    summary = f"<p>{_escape(result['summary'])}</p>" if result.get("summary") else ""
    verdicts = "".join(
        f'<div class="verdict"><p><strong>{_escape(results.title(request))}</strong></p>'
        + "".join(f"<p>{_escape(sentence)}</p>" for sentence in verdict(request))
        + "</div>"
        for request in result["requests"]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{CSS}</style></head>\n<body><main>\n"
        f'<h1>{title}</h1><p class="soft">{_line(result, when)}</p>{summary}{verdicts}\n'
        + "\n".join(sections)
        + f"\n{_provenance(result)}\n</main></body></html>\n"
    )


def verdict(request: Mapping[str, Any]) -> list[str]:
    """What happened, in plain sentences: the method in focus beside the original and the retrained model."""
    ours, reference = results.focus(request), results.method(request, request["reference"])
    if ours is None or reference is None:
        return ["This run compares no unlearning method with a retrained model."]
    before, floor = results.method(request, "original"), request.get("noise_floor") or {}
    metrics = {metric["key"]: metric for metric in request["metrics"]}
    name, sentences = ours["label"], []

    def told(key: str, template: str) -> None:
        values = [None if each is None else each["values"].get(key) for each in (ours, reference, before)]
        if key not in metrics or values[0] is None or values[1] is None:
            return
        unit = f"\u00a0{metrics[key]['unit']}".rstrip()  # a number never parts from its unit
        now, fresh, old = (f"{results.number(value, metrics[key]['unit'])}{unit}" for value in values)
        was = f"; before: {old}" if values[2] is not None else ""
        who = "a model retrained from scratch" if not sentences else "retrained"
        sentences.append(f"{template.format(name=name, now=now)} ({who}: {fresh}{was}).")

    told("MIA", "After {name} the attack takes {now} of the forgotten rows for training data")
    told("FA", "The model still classifies {now} of the forgotten rows correctly")
    told("TA", "On rows that no model has seen it is right in {now}")
    for key, metric in metrics.items():
        if key.lower().replace(".", "") in ("avgd", "avg_d") and (distance := ours["values"].get(key)) is not None:
            text = f"On average it ends {results.number(distance, metric['unit'])} points from the retrained model"
            if (noise := floor.get(key)) is not None:
                text += f"; two retrained models differ by {results.number(noise, metric['unit'])}"
                if distance <= noise:
                    text += ", so it is no further than retraining itself varies"
            text += "."
            sentences.append(text)
    if not sentences:
        for metric in request["metrics"][:3]:
            told(metric["key"], f"{metric['label']} after {{name}}: {{now}}")
    return sentences


def _request(request: Mapping[str, Any], grid: Grid, pictures: Mapping[str, bytes]) -> str:
    sizes = ", ".join(
        f"{request[f'num_{part}']:,} {word}"
        for part, word in (("forget", "rows to forget"), ("remain", "remaining"), ("test", "test rows"))
        if request.get(f"num_{part}") is not None
    )
    split = f" Split {_escape(request['split_hash'][:12])}." if request.get("split_hash") else ""
    figures = "".join(
        f'<figure><img alt="{_escape(_CAPTIONS[name])}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>{_escape(_CAPTIONS[name])}</figcaption></figure>"
        for name, png in pictures.items()
    )
    return (
        f'<section><h2>{_escape(results.title(request))}</h2><p class="soft">{_escape(sizes)}.{split}</p>'
        f"{_table(grid)}{_warnings(grid)}{_explained(request)}"
        + (f'<h3>The evidence</h3><div class="figures">{figures}</div>' if figures else "")
        + f"{_settings(request)}</section>"
    )


def _table(grid: Grid) -> str:
    head = "".join(f"<th>{_escape(name)}<small>{_escape(direction)}</small></th>" for name, direction in grid.columns)
    body = "".join(
        f'<tr class="{row.kind}"><th scope="row">{_escape(row.label)}</th>'
        + "".join(
            f"<td>{_escape(value)}{f'<small>{_escape(gap)}</small>' if gap else ''}</td>" for value, gap in row.cells
        )
        + "</tr>"
        for row in grid.rows
    )
    return (
        f'<div class="scroll"><table><thead><tr><th>method</th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        f'<p class="soft">{_escape(legend())}</p>'
    )


def _warnings(grid: Grid) -> str:
    return "".join(f'<p class="warn">⚠ {_escape(note)}</p>' for note in grid.notes)


def _explained(request: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<dt><b>{_escape(metric['key'])}</b></dt><dd><b>{_escape(metric['label'])}</b>. {_escape(metric['explain'])} "
        f'<span class="soft">{_escape(_direction(metric))}</span></dd>'
        for metric in request["metrics"]
    )
    return f"<details><summary>What each metric means</summary><dl>{rows}</dl></details>" if rows else ""


def _direction(metric: Mapping[str, Any]) -> str:
    if metric["direction"] == "closer to retrain":
        return "Neither high nor low is good: the closer to the retrained model, the better."
    return f"{metric['direction'].capitalize()} is better; ideal: {_ideal(metric)}."


def _ideal(metric: Mapping[str, Any]) -> str:
    ideal = metric["ideal"]
    return f"{ideal:g} {metric['unit']}".strip() if isinstance(ideal, (int, float)) else str(ideal)


def _settings(request: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<dt>{_escape(method['label'])}</dt><dd>{_escape(', '.join(parts))}</dd>"
        for method in request["methods"]
        if (
            parts := [f"{key} {value}" for key, value in (method.get("settings") or {}).items()]
            + ([f"mask density {results.number(method['density'])}"] if method.get("density") is not None else [])
        )
    )
    return f"<details><summary>Settings of each method</summary><dl>{rows}</dl></details>" if rows else ""


def _line(result: Mapping[str, Any], when: str) -> str:
    seeds = result.get("seeds")
    parts = [when and f"{when} UTC", str(result.get("device") or "")]
    if seeds:
        parts.append(f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))})")
    if result.get("wall_seconds") is not None:
        parts.append(f"{result['wall_seconds']:.0f} s in all")
    return " · ".join(_escape(part) for part in parts if part)


def _provenance(result: Mapping[str, Any]) -> str:
    pairs = {f"data {key}": value for key, value in (result.get("source") or {}).items()}
    pairs |= {"config": result.get("config_digest")} | (result.get("versions") or {})
    rows = "".join(
        f"<dt>{_escape(key)}</dt><dd>{_escape(value)}</dd>" for key, value in pairs.items() if value is not None
    )
    command = f"<pre>{_escape(result['command'])}</pre>" if result.get("command") else ""
    return f"<h2>How to repeat this</h2>{command}<dl>{rows}</dl>" if command or rows else ""


def _escape(value: Any) -> str:
    return html.escape(value if isinstance(value, str) else json.dumps(value, default=str), quote=True)
