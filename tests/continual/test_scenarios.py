"""Streams written as words."""

import numpy as np
import pytest

from clujax.continual.request import LEARNED, check_request, standing_after
from clujax.continual.scenarios import make_stream
from clujax.errors import ConfigError

LABELS = np.arange(120) % 10
TASKS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
STREAMS = {
    "aware": ("L1", "L2", "L3", "U1", "L4", "U3", "L5"),
    "category": ("L1", "L2", "L3+U{0,2}", "L4", "U{4}", "L5+U{6}"),
    "random": ("L1", "L2", "L3+U10%", "L4", "U10%", "L5+U10%"),
}


@pytest.mark.parametrize("name", STREAMS)
def test_every_stream_passes_the_check_of_requests(name):
    aware = name == "aware"
    status, tasks = np.zeros(120, np.int8), np.full(120, -1)
    for request in make_stream(STREAMS[name], LABELS, TASKS, task_aware=aware):
        change = check_request(request, status, tasks=tasks, task_aware=aware)
        if aware:
            tasks[change.learn] = change.task
        status = standing_after(status, change)
    kept = np.unique(LABELS[status == LEARNED])
    expected = {"aware": [2, 3, 6, 7, 8, 9], "category": [1, 3, 5, 7, 8, 9], "random": list(range(10))}[name]
    assert kept.tolist() == expected


def test_a_share_is_of_the_rows_learned_so_far_and_follows_the_seed():
    one, same, other = (make_stream(("L1", "L2", "U25%"), LABELS, TASKS, seed=seed)[-1].forget for seed in (0, 0, 1))
    assert len(one) == 12
    assert np.isin(LABELS[one], (0, 1, 2, 3)).all()
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_a_share_of_classes_is_of_their_learned_rows_whenever_it_is_asked():
    orders = (("L1", "L2", "U50%{0,2}"), ("L1", "L2+U50%{0,2}"), ("L1", "L2", "L3", "U50%{0,2}"))
    late, joint, later = (make_stream(words, LABELS, TASKS)[-1].forget.tolist() for words in orders)
    assert late == later
    assert len(late) == 12
    assert np.isin(LABELS[late], (0, 2)).all()
    assert np.isin(LABELS[joint], 0).all(), "what a request learns it does not forget"


@pytest.mark.parametrize(
    ("words", "aware", "message"),
    [
        (("X1",), False, "'X1' is none of"),
        (("L1", "U"), False, "'U' is none of"),
        (("L6",), False, "there is no task 6"),
        (("L0",), False, "there is no task 0"),
        (("L1", "L2+U1"), True, "learns or forgets one task"),
        (("L1", "U10%"), True, "learns or forgets one task"),
    ],
)
def test_words_that_are_none_are_refused(words, aware, message):
    with pytest.raises(ConfigError, match=message):
        make_stream(words, LABELS, TASKS, task_aware=aware)


def test_tasks_of_classes_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match="11"):
        make_stream(("L1",), LABELS, ((0, 11),))
