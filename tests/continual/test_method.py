"""The driver: memory is purged before a method sees the learner, and is offered what was learned after it."""

import jax
import numpy as np

from clujax.continual import memory as memories
from clujax.continual.method import Rules, begin, carry_out
from clujax.continual.request import Change


def test_rows_to_forget_are_out_of_memory_before_a_phase_and_rows_to_learn_in_it_after(scene, fresh):
    old, new, gone = np.arange(60), np.arange(100, 130), np.arange(20)
    seen = []

    def phases(learner, change):
        seen.append(np.asarray(learner.memory.rows))
        return []

    rules = Rules(phases)
    memory = memories.insert_rows(memories.empty(60, scene.columns, 6), scene.columns, old, jax.random.key(0))
    learner = begin(scene, rules, *fresh, memory)
    done = carry_out(scene, rules, learner, Change(new, gone, np.arange(20, 60)), jax.random.key(1))
    assert not np.isin(seen[0], [*gone, *new]).any()
    assert np.isin(np.arange(20, 60), seen[0]).all()
    after = np.asarray(done.learner.memory.rows)
    assert not np.isin(after, gone).any()
    assert np.isin(after, new).any()
