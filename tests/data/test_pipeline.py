import json

import numpy as np
import pytest

from clujax.data import Columns, pipeline

SOURCE = Columns({"x": np.arange(24.0).reshape(12, 2), "row": np.arange(12)})


def rows_of(iterator, batches):
    return [np.asarray(next(iterator)["row"]).tolist() for _ in range(batches)]


def test_columns_is_a_source_of_rows():
    assert len(SOURCE) == 12
    assert SOURCE[3]["row"] == 3
    np.testing.assert_array_equal(SOURCE[3]["x"], [6, 7])


def test_each_epoch_is_every_row_once_in_another_order():
    batches = list(pipeline(SOURCE, 4, seed=0, num_epochs=3, process_index=0, process_count=1))
    assert len(batches) == 9
    assert {batch["x"].shape for batch in batches} == {(4, 2)}
    epochs = np.concatenate([batch["row"] for batch in batches]).reshape(3, 12)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(12), (3, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 3
    for batch in batches:
        np.testing.assert_array_equal(batch["x"][:, 0], 2 * batch["row"])


def test_the_seed_alone_decides_the_order():
    one, again, other = (rows_of(pipeline(SOURCE, 4, seed=seed), 6) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_it_goes_on_from_a_saved_place():
    whole = rows_of(pipeline(SOURCE, 5, seed=0), 9)
    stopped = pipeline(SOURCE, 5, seed=0)
    assert rows_of(stopped, 4) == whole[:4]
    state = json.loads(json.dumps(stopped.get_state()))
    assert rows_of(stopped, 2) == whole[4:6]
    resumed = pipeline(SOURCE, 5, seed=0)
    resumed.set_state(state)
    assert rows_of(resumed, 5) == whole[4:]


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_each_epoch_without_overlap(processes):
    share = 12 // processes
    shares = [
        np.concatenate(rows_of(pipeline(SOURCE, share, seed=0, process_index=i, process_count=processes), 4))
        for i in range(processes)
    ]
    for epoch in range(4):
        together = np.concatenate([rows[epoch * share : (epoch + 1) * share] for rows in shares])
        np.testing.assert_array_equal(np.sort(together), np.arange(12))


def test_rows_that_fill_no_batch_are_left_out_at_the_end():
    assert len(list(pipeline(SOURCE, 5, seed=0, num_epochs=1))) == 2
    assert len(list(pipeline(SOURCE, 5, seed=0, num_epochs=2))) == 4


def test_a_batch_larger_than_what_there_is_is_refused():
    with pytest.raises(ValueError, match=r"batch_size is 13, but 1 epochs of a process's 12 rows fill no batch"):
        pipeline(SOURCE, 13, seed=0, num_epochs=1)


def test_rows_wander_between_processes_from_epoch_to_epoch():
    rows = rows_of(pipeline(SOURCE, 6, seed=0, process_index=0, process_count=2), 6)
    assert len({frozenset(epoch) for epoch in rows}) > 1


@pytest.mark.parametrize(("rows", "processes", "batch_size"), [(9, 2, 2), (11, 4, 1), (13, 3, 4), (12, 4, 3)])
def test_every_process_makes_as_many_steps_when_rows_do_not_divide(rows, processes, batch_size):
    source, own, epochs = Columns({"row": np.arange(rows)}), rows // processes, 4
    streams = [
        list(pipeline(source, batch_size, seed=0, num_epochs=epochs, process_index=i, process_count=processes))
        for i in range(processes)
    ]
    assert {len(stream) for stream in streams} == {own * epochs // batch_size}
    each = [np.concatenate([batch["row"] for batch in stream]) for stream in streams]
    for epoch in range(own * epochs // batch_size * batch_size // own):
        together = np.concatenate([stream[epoch * own : (epoch + 1) * own] for stream in each])
        assert len(np.unique(together)) == own * processes, "two processes share a row within an epoch"


def test_fewer_rows_than_processes_are_refused_by_all():
    for i in range(3):
        with pytest.raises(ValueError, match=r"a process's 0 rows fill no batch"):
            pipeline(Columns({"row": np.arange(2)}), 1, seed=0, process_index=i, process_count=3)


def test_worker_processes_give_the_same_batches_in_a_program_without_absl_and_go_on_from_a_saved_place():
    plain = rows_of(pipeline(SOURCE, 4, seed=0), 6)
    stopped = pipeline(SOURCE, 4, seed=0, num_workers=1)
    assert rows_of(stopped, 2) == plain[:2]
    resumed = pipeline(SOURCE, 4, seed=0, num_workers=1)
    resumed.set_state(stopped.get_state())
    assert rows_of(resumed, 4) == plain[2:]
