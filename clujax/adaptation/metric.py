"""What a number of a table means."""

from typing import NamedTuple


class Metric(NamedTuple):
    """What a number means.

    Attributes:
      key, label, unit: as in tables.
      direction: "closer to retrain", "lower" or "higher".
      ideal: "retrain", or the number that retraining itself would have.
      explain: one sentence.
      group: "utility", "privacy", "output", "summary" or "cost".
      headline: whether it stands in the short table.
    """

    key: str
    label: str
    unit: str
    direction: str
    ideal: str | float
    explain: str
    group: str
    headline: bool = False


def beside(key: str, label: str, unit: str, explain: str, group: str, headline: bool = False) -> Metric:
    """A metric whose ideal is the retrained network's value."""
    return Metric(key, label, unit, "closer to retrain", "retrain", explain, group, headline)
