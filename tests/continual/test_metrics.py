"""Groups of rows, and numbers of a request and a stream, against answers by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from clujax.attacks import entropy_attack
from clujax.continual.metrics import (
    Groups,
    Outputs,
    class_accuracies,
    distances,
    groups,
    measure,
    over_stream,
    row_values,
)
from clujax.continual.request import FORGOTTEN, LEARNED, NEVER, Change
from clujax.geometry import kl

LABELS = np.array([0, 0, 1, 1, 2, 2, 3, 3], np.int32)
TEST = np.array([0, 1, 2, 3, 3], np.int32)
STATUS = np.array([LEARNED] * 4 + [FORGOTTEN] * 2 + [NEVER] * 2, np.int8)


def outputs(right, test_right, seed=0, classes=4):
    """Random logits whose largest is the label's where asked."""
    rng = np.random.default_rng(seed)

    def side(labels, flags):
        logits = rng.normal(size=(len(labels), classes)).astype(np.float32)
        wanted = np.where(flags, labels, (labels + 1) % classes)
        logits[np.arange(len(labels)), wanted] = 4 + rng.random(len(labels))
        return logits

    return Outputs(side(LABELS, np.array(right)), side(TEST, np.array(test_right)))


CHANGE = Change(learn=np.array([6, 7]), forget=np.array([2, 3]), remain=np.array([0, 1]))
GROUP = groups(STATUS, CHANGE, LABELS, TEST)


def test_every_row_has_its_group():
    numbers = {name: np.flatnonzero(rows).tolist() for name, rows in GROUP._asdict().items()}
    assert numbers == {
        "forget": [2, 3],
        "remain": [0, 1],
        "learn": [6, 7],
        "relapse": [4, 5],
        "unseen": [0, 3, 4],  # classes 0 and 3 have kept rows
        "unseen_forget": [1, 2],  # class 1 goes now, class 2 went before
    }


def test_rows_that_are_learned_again_are_no_relapse():
    change = CHANGE._replace(learn=np.array([4, 5]))
    group = groups(STATUS, change, LABELS, TEST)
    assert not group.relapse.any()
    assert np.flatnonzero(group.unseen).tolist() == [0, 2]


def test_accuracies_are_shares_of_their_groups():
    found = outputs([1, 0, 0, 0, 1, 0, 1, 1], [1, 1, 0, 1, 0])
    values = measure(found, GROUP, LABELS, TEST)
    expected = {"FA": 0, "RA": 50, "LA": 100, "TA": 200 / 3, "FA_test": 50, "Relapse": 50}
    assert {key: values[key] for key in expected} == pytest.approx(expected)
    assert not [key for key in values if key.startswith("KL")], "without an oracle there is no distance to it"
    own = measure(found, GROUP, LABELS, TEST, found)
    assert own["KL_forget"] == own["KL_kept"] == own["KL_relapse"] == 0


def test_distances_to_the_oracle_are_means_over_groups():
    ours, oracle = outputs([1] * 8, [1] * 5, seed=1), outputs([1] * 8, [1] * 5, seed=2)
    values = measure(ours, GROUP, LABELS, TEST, oracle)
    apart = np.asarray(kl(jnp.asarray(oracle.train), jnp.asarray(ours.train)))
    assert values["KL_forget"] == pytest.approx(apart[[2, 3]].mean(), rel=1e-5)
    assert values["KL_kept"] == pytest.approx(apart[[0, 1, 6, 7]].mean(), rel=1e-5)
    assert values["KL_relapse"] == pytest.approx(apart[[4, 5]].mean(), rel=1e-5)


def test_membership_is_the_attack_of_the_unlearning_table():
    rng = np.random.default_rng(3)
    labels, test_labels = rng.integers(0, 4, 90).astype(np.int32), rng.integers(0, 4, 40).astype(np.int32)
    train, test = 3 * rng.normal(size=(90, 4)).astype(np.float32), rng.normal(size=(40, 4)).astype(np.float32)
    forget, kept = np.arange(90) < 20, np.arange(90) >= 20
    none, unseen = np.zeros(90, bool), np.ones(40, bool)
    group = Groups(forget, kept, none, none, unseen, ~unseen)
    found = measure(Outputs(train, test), group, labels, test_labels)["MIA"]
    assert found == pytest.approx(float(entropy_attack(train[kept], test, train[forget])), abs=1e-4)


def test_margin_is_the_own_logit_over_the_best_other():
    values = row_values(np.array([[1.0, 3.0, 0.0], [2.0, -1.0, 0.5]], np.float32), np.array([0, 0], np.int32))
    assert values["margin"].tolist() == pytest.approx([-2.0, 1.5])


def test_with_known_tasks_only_classes_of_a_rows_own_task_count():
    test = np.zeros((5, 4), np.float32)
    test[:, 3] = 9  # always class 3
    test[:, 0] = 1
    values = measure(Outputs(outputs([1] * 8, [1] * 5).train, test), GROUP, LABELS, TEST, tasks=((0, 1), (2, 3)))
    assert values["TA"] == pytest.approx(200 / 3)
    assert values["TA_task"] == pytest.approx(100)


def test_average_distance_is_over_the_metrics_that_a_request_has():
    ours, oracle = {"RA": 90.0, "LA": 80.0, "TA": 70.0}, {"RA": 96.0, "LA": 83.0, "TA": 70.0}
    assert distances(ours, oracle)["AvgD"] == pytest.approx(3.0)
    assert distances(ours | {"FA": 50.0}, oracle | {"FA": 47.0})["AvgD"] == pytest.approx(3.0)


def test_over_a_stream_means_skip_absent_numbers_and_forgetting_is_of_kept_classes():
    rows = [
        {"TA": 90.0, "class/0": 95.0, "class/1": 80.0},
        {"TA": 80.0, "FA": 10.0, "class/0": 97.0, "class/1": 0.0},
        {"TA": 70.0, "class/0": 90.0, "class/1": 0.0, "class/2": 60.0},
    ]
    found = over_stream(rows, [[0, 1], [0], [0, 2]])
    assert found == pytest.approx({"TA": 75.0, "FA": 10.0, "Forgetting": 7.0})


def test_class_accuracies_name_classes():
    found = class_accuracies(outputs([1] * 8, [1, 0, 1, 1, 0]), TEST)
    assert found == {"class/0": 100.0, "class/1": 0.0, "class/2": 100.0, "class/3": 50.0}
