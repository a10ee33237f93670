"""What a request changes, and what is refused before anything is changed."""

import numpy as np
import pytest

from clujax.continual.request import FORGOTTEN, LEARNED, NEVER, Request, check_request, standing_after
from clujax.errors import RequestError

STATUS = np.array([LEARNED] * 6 + [FORGOTTEN] * 2 + [NEVER] * 12, np.int8)


def test_a_request_says_what_is_learned_what_goes_and_what_stays():
    change = check_request(Request(learn=[9, 8], forget=[5, 0]), STATUS)
    assert change.learn.tolist() == [8, 9]
    assert change.forget.tolist() == [0, 5]
    assert change.remain.tolist() == [1, 2, 3, 4]
    after = standing_after(STATUS, change)
    assert after[[0, 5]].tolist() == [FORGOTTEN] * 2
    assert after[[8, 9]].tolist() == [LEARNED] * 2
    assert (np.delete(after, [0, 5, 8, 9]) == np.delete(STATUS, [0, 5, 8, 9])).all()
    assert STATUS[0] == LEARNED, "the status given is left as it was"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(), "empty"),
        (Request(learn=np.zeros(0, np.int64)), "empty"),
        (Request(forget=[8]), "rows 8 are to be forgotten but were never learned"),
        (Request(forget=[6]), "forgotten already"),
        (Request(learn=[8], forget=[8]), "at once"),
        (Request(learn=[0]), "learned already"),
        (Request(learn=[6]), "set relearn"),
        (Request(forget=range(8, 20)), "8, 9, 10, 11, 12, 13, 14, 15, 16, 17 and 2 more"),
        (Request(forget=[20]), "rows 20 of forget do not exist; rows are 0 … 19"),
        (Request(learn=[-1]), "-1 of learn do not exist"),
        (Request(forget=[1, 1]), "more than once"),
        (Request(forget=[0.5]), "dtype float64"),
        (Request(forget=[[0]]), r"shape \(1, 1\)"),
        (Request(forget=[0], task=1), "task-agnostic"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_rows(request_, message):
    with pytest.raises(RequestError, match=message):
        check_request(request_, STATUS)


def test_rows_forgotten_before_are_learned_again_when_that_is_asked():
    change = check_request(Request(learn=[6, 7], relearn=True), STATUS)
    assert standing_after(STATUS, change)[[6, 7]].tolist() == [LEARNED] * 2


def test_in_a_task_aware_stream_a_whole_earlier_task_is_forgotten():
    tasks = np.where(STATUS == LEARNED, np.arange(20) % 2, -1)
    options = {"tasks": tasks, "task_aware": True}
    assert check_request(Request(forget=[0, 2, 4], task=0), STATUS, **options).forget.tolist() == [0, 2, 4]
    for given, message in (
        (Request(forget=[0, 2, 4]), "has no task"),
        (Request(forget=[0, 2], task=0), "rows 4 of task 0 would stay"),
        (Request(forget=[0, 1, 2, 4], task=0), "rows 1 are to be forgotten but are not of task 0"),
    ):
        with pytest.raises(RequestError, match=message):
            check_request(given, STATUS, **options)
