"""The membership attacks on 60,000 cached logits, each beside scikit-learn on the same arrays in the same process.

Command: python benchmarks/attacks.py [--rows 50000] [--unseen 10000] [--forget 5000] [--quick] [--out FILE.md]
Synthetic logits of an overconfident network of 10 classes. "first" is the first call, compiling included; "ms" the median of
the calls after it, in turn with scikit-learn's. "differing" counts the forget rows that the two decide otherwise. With
--quick, sets of a tenth; with --alone, without scikit-learn.
"""

import argparse
import pathlib
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score
from sklearn.svm import SVC

from clujax import attacks

PENALTY = 3.0


class Case(NamedTuple):
    """One attack, the same by scikit-learn (None: it has none), and how to compare what they return."""

    name: str
    ours: Callable
    theirs: Callable | None = None
    compare: Callable = lambda ours, theirs: ""
    repeats: int = 3


def overconfident(seed: int, rows: int, margin: float, classes: int = 10) -> tuple[jax.Array, np.ndarray]:
    """Logits and labels: the larger the margin, the more rows are right, and the surer."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows).astype(np.int32)
    logits = rng.normal(size=(rows, classes))
    logits[np.arange(rows), labels] += rng.gamma(4.0, margin, rows)
    return jnp.asarray(2.5 * logits, jnp.float32), labels


def probabilities(logits, labels):
    """The whole vector of probabilities."""
    return jax.nn.softmax(logits)


def uncertainty(logits, labels):
    """The entropy, with the signature of the other scores."""
    return attacks.entropy(logits)


def official_m_entropy(logits, labels):
    """The published m_entropy."""
    return attacks.m_entropy(logits, labels, official=True)


def column(rows) -> np.ndarray:
    """Scores as scikit-learn wants them."""
    rows = np.asarray(rows, np.float64)
    return rows.reshape(len(rows), -1)


def differing(ours, theirs) -> str:
    """Rows decided otherwise."""
    return f"{int(np.sum(np.asarray(ours) != np.asarray(theirs)))} of {len(ours)}"


def apart(ours, theirs) -> str:
    """Distance of two numbers."""
    return f"{abs(float(ours) - float(theirs)):.1e} apart"


def machine_case(name: str, score: Callable, sets: dict) -> Case:
    """The support-vector attack: as many remaining rows as unseen ones, the first in order, as published."""
    remain, unseen, forget = (np.asarray(score(*sets[part])) for part in ("remain", "unseen", "forget"))
    remain = remain[: len(unseen)]

    def ours():
        return attacks.decide(attacks.fit_svc(remain, unseen, penalty=PENALTY), forget) > 0

    def theirs():
        machine = SVC(C=PENALTY, gamma="auto", cache_size=500)
        machine.fit(np.concatenate([column(remain), column(unseen)]), np.repeat([1, 0], len(unseen)))
        return machine.predict(column(forget)) > 0

    return Case(f"SVC, {name}", ours, theirs, differing, 1)


def logistic_cases(sets: dict) -> list[Case]:
    """The entropy attack (all rows, balanced) and the loss attack (ten splits)."""
    entropies = {part: np.asarray(attacks.entropy(rows[0])) for part, rows in sets.items()}
    losses = {part: np.asarray(attacks.cross_entropy(*rows)) for part, rows in sets.items()}
    count = min(len(losses["forget"]), len(losses["unseen"]))
    fit = jax.jit(attacks.fit_logistic)

    def entropy_ours():
        model = fit(entropies["remain"], entropies["unseen"])
        return np.asarray(model.slope * entropies["forget"] + model.intercept > 0)

    def entropy_theirs():
        rows = np.concatenate([column(entropies["remain"]), column(entropies["unseen"])])
        label = np.repeat([1, 0], [len(entropies["remain"]), len(entropies["unseen"])])
        model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(rows, label)
        return model.predict(column(entropies["forget"])) > 0

    def loss_theirs():
        rows = np.concatenate([column(losses["forget"][:count]), column(losses["unseen"][:count])])
        splits = StratifiedShuffleSplit(n_splits=10, test_size=0.1, random_state=0)
        return 100 * cross_val_score(LogisticRegression(), rows, np.repeat([1, 0], count), cv=splits).mean()

    loss_ours = lambda: float(attacks.loss_attack(losses["forget"], losses["unseen"], jax.random.key(0)))
    spread = lambda ours, theirs: f"{abs(ours - theirs):.2f} points apart (other splits)"
    return [
        Case("logistic, entropy", entropy_ours, entropy_theirs, differing, 5),
        Case("logistic, loss, 10 splits", loss_ours, loss_theirs, spread, 5),
    ]


def other_cases(sets: dict) -> list[Case]:
    """Scores, thresholds and areas."""
    losses = {part: np.asarray(attacks.cross_entropy(*rows)) for part, rows in sets.items()}
    confidences = {part: (np.asarray(attacks.confidence(*rows)), rows[1]) for part, rows in sets.items()}
    uncertainties = {part: (-np.asarray(attacks.entropy(rows[0])), rows[1]) for part, rows in sets.items()}
    modified = {part: (-np.asarray(attacks.m_entropy(*rows)), rows[1]) for part, rows in sets.items()}
    all_scores = jax.jit(
        lambda logits, labels: [
            score(logits, labels)
            for score in (attacks.confidence, uncertainty, attacks.m_entropy, official_m_entropy)
            + (attacks.cross_entropy, attacks.correctness, attacks.scaled_confidence)
        ]
    )
    area = jax.jit(attacks.loss_auc)

    def threshold(scores):
        return lambda: attacks.threshold_attack(*(scores[p] for p in ("remain", "unseen", "forget", "unseen")))

    def area_theirs():
        label = np.repeat([0, 1], [len(losses["forget"]), len(losses["unseen"])])
        return roc_auc_score(label, np.concatenate([losses["forget"], losses["unseen"]]))

    return [
        Case("7 scores of all rows", lambda: jax.block_until_ready([all_scores(*rows) for rows in sets.values()])),
        Case("threshold by class, confidence", threshold(confidences)),
        Case("threshold by class, entropy", threshold(uncertainties)),
        Case("threshold by class, M-entropy", threshold(modified)),
        Case("correctness", lambda: attacks.correctness_attack(sets["forget"], sets["unseen"])),
        Case("AUC of the loss", lambda: float(area(losses["forget"], losses["unseen"])), area_theirs, apart, 5),
    ]


def clock(function: Callable) -> tuple[float, object]:
    """Seconds of one call, and its value."""
    begin = time.perf_counter()
    value = function()
    return time.perf_counter() - begin, value


def measure(case: Case, alone: bool) -> tuple[float, float, float | None, str]:
    """First call, median of the calls after it, scikit-learn's median in turn with them, and the comparison."""
    first, value = clock(case.ours)
    ours, theirs, comparison = [], [], ""
    for _ in range(case.repeats):
        ours.append(clock(case.ours)[0])
        if case.theirs is not None and not alone:
            seconds, other = clock(case.theirs)
            theirs.append(seconds)
            comparison = case.compare(value, other)
    return first, statistics.median(ours), statistics.median(theirs) if theirs else None, comparison


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=50_000, help="remaining rows")
    parser.add_argument("--unseen", type=int, default=10_000)
    parser.add_argument("--forget", type=int, default=5_000)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--alone", action="store_true", help="without scikit-learn")
    parser.add_argument("--out", type=pathlib.Path, help="also write the table as Markdown")
    options = parser.parse_args()
    part = 10 if options.quick else 1
    sets = {
        "remain": overconfident(0, options.rows // part, 1.2),
        "unseen": overconfident(1, options.unseen // part, 0.8),
        "forget": overconfident(2, options.forget // part, 0.9),
    }
    accuracies = ", ".join(f"{name} {100 * float(np.mean(attacks.correctness(*r))):.1f} %" for name, r in sets.items())
    table_cases = other_cases(sets) + logistic_cases(sets)
    for name, score in (
        ("confidence", attacks.confidence),
        ("entropy", uncertainty),
        ("M-entropy", attacks.m_entropy),
        ("M-entropy (official)", official_m_entropy),
        ("correctness", attacks.correctness),
    ):
        table_cases.append(machine_case(name, score, sets))
    vectors = machine_case("probability vectors", probabilities, sets)
    device = jax.devices()[0]
    title = (
        f"{options.rows // part:,} remaining, {options.unseen // part:,} unseen, {options.forget // part:,} forget rows"
        f" ({accuracies}), {device.device_kind} × {jax.device_count()}"
    )
    head = ("attack", "first ms", "ms", "scikit-learn ms", "ratio", "differing")
    drawn = Table(*head, title=title)
    lines = [f"**{title}**", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    total_first = total = 0.0

    def add(name, first, ours, theirs=None, comparison=""):
        cells = (
            name,
            f"{1e3 * first:,.0f}",
            f"{1e3 * ours:,.1f}",
            "" if theirs is None else f"{1e3 * theirs:,.1f}",
            "" if theirs is None else f"{ours / theirs:.3f}",
            comparison,
        )
        drawn.add_row(*cells)
        lines.append("| " + " | ".join(cells) + " |")

    for case in table_cases:
        first, ours, theirs, comparison = measure(case, options.alone)
        total_first, total = total_first + first, total + ours
        add(case.name, first, ours, theirs, comparison)
    add("all of the above", total_first, total)
    add(vectors.name, *measure(vectors, options.alone))
    Console().print(drawn)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
