"""What counts as noise, and what as a collapse."""

import numpy as np
import pytest

from clujax.unlearning import noise

REFERENCE = {"FA": 80.0, "RA": 99.0, "TA": 85.0, "MIA": 40.0, "KL": 0.0, "ToW": 1.0, "AUC": 0.5, "AvgD": 0.0}


def network(**changes):
    return REFERENCE | changes


def test_a_shift_is_to_retraining_or_to_the_ideal():
    assert noise.shift("FA", network(FA=70.0), REFERENCE) == 10
    assert noise.shift("KL", network(KL=0.3), REFERENCE) == pytest.approx(0.3)
    assert noise.shift("ToW", network(ToW=0.9), REFERENCE) == pytest.approx(0.1)


def test_pooling_seeds_gives_means_quantiles_and_an_ellipse_free_of_the_choice_of_rows():
    rng = np.random.default_rng(0)
    records = []
    for seed in range(3):
        level = 85.0 + 20 * seed  # another seed, other rows: no noise of retraining
        base = network(TA=level)
        models = [network(TA=level + rng.normal(), MIA=40 + 2 * rng.normal(), ToW=0.98) for _ in range(40)]
        records.append(noise.noise_record(models, base))
    found = noise.pooled(records)
    assert found["models"] == 40
    assert found["floor"]["TA"] == pytest.approx(np.sqrt(2 / np.pi), abs=0.15)  # mean size of a standard normal
    assert found["limit"]["TA"] == pytest.approx(1.96, abs=0.4)
    assert found["floor"]["ToW"] == pytest.approx(0.02)  # a distance, as every floor
    assert found["limit"]["ToW"] == pytest.approx(0.02)
    longer = np.linalg.norm(found["ellipse"]["axes"], axis=1).max()
    assert longer == pytest.approx(4, abs=0.7)  # two deviations of membership, not the seeds' 20 points
    assert found["ellipse"]["x"] == "TA"


def test_larger_than_noise_is_a_matter_of_the_mean_over_seeds():
    limit = {"FA": 2.0, "TA": 1.0, "KL": 0.1}
    group = [network(FA=83.0, TA=86.5, KL=0.05), network(FA=83.0, TA=85.0, KL=0.05)]
    assert noise.larger_than_noise(group, [REFERENCE] * 2, limit) == ["FA"]
    still = [network(TA=85.1)] * 2, [REFERENCE] * 2, {"TA": 0.0}
    assert noise.larger_than_noise(*still) == ["TA"]
    assert noise.larger_than_noise(*still, {"TA": 0.5}) == []  # less than a row
    assert noise.larger_than_noise([REFERENCE] * 2, [REFERENCE] * 2, limit) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (network(RA=93.5), "remain accuracy is 5.5 points below"),
        (network(AUC=0.2), "larger losses than unseen rows"),
        (network(RA=94.5, AUC=0.35), None),
        (network(RA=100.0, AUC=0.9), None),
    ],
)
def test_collapse_is_said_in_words(values, words):
    said = noise.collapse([values] * 2, [REFERENCE] * 2)
    assert (not said) if words is None else (words in said[0] and said[0].startswith("Collapsed:"))


def test_where_retraining_looks_strange_too_nothing_collapsed():
    retrained = REFERENCE | {"AUC": 0.05}
    assert noise.collapse([network(AUC=0.04)], [retrained]) == []
