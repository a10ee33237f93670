"""What is drawn of a run: panels without any number are left out."""

import numpy as np

from clujax.adaptation.method import Outcome
from clujax.unlearning.evidence import trajectory


def outcome(records):
    return Outcome(None, None, records, {}, {}, (), 0.0, 0.0, 0.0)


def test_effective_sample_size_is_there_only_where_it_was_measured():
    probe = {"step": 0, "probe/norm/forget": 2.0, "probe/cosine/forget·remain": 0.5, "probe/forget_loss": 1.0}
    without = trajectory(outcome([probe]))
    assert set(without) == {
        *("trajectory_step", "trajectory_norm_forget", "trajectory_cosine_forget_remain", "trajectory_forget_loss")
    }
    found = trajectory(outcome([probe | {"forget/effective_sample_size": 7.0}, probe | {"step": 5}]))
    np.testing.assert_array_equal(found["trajectory_effective_sample_size"], [7.0, np.nan])
    assert trajectory(outcome([{"step": 0, "loss": 1.0}])) == {}
