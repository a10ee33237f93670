"""Each request is applied exactly once, and a directory that was tampered with is not served."""

import json
import os
import pathlib
import resource
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from continual import small_stream
from continual.small_stream import STREAM, contents, of_class

from clujax.continual import ledger
from clujax.continual.asked import Asked
from clujax.continual.deployment import Deployment
from clujax.continual.ledger import APPLIED, REFUSED, START
from clujax.continual.request import FORGOTTEN, LEARNED, NEVER, Request
from clujax.errors import CheckpointError, ConfigError, RequestError
from clujax.training import make_mesh, tree_digest


@pytest.fixture(scope="module")
def parts():
    scene = small_stream.scene()
    return {"scene": scene, "rules": small_stream.rules(scene)}


@pytest.fixture(scope="module")
def calm(parts, tmp_path_factory):
    """An undisturbed run: its directory, entries, learner and status."""
    directory = tmp_path_factory.mktemp("calm") / "run"
    with small_stream.deploy(directory, **parts) as deployment:
        for request in STREAM:
            deployment.apply(request)
        return directory, deployment.entries, deployment.learner, deployment.status


@pytest.fixture
def copied(calm, tmp_path):
    return pathlib.Path(shutil.copytree(calm[0], tmp_path / "run"))


def faults(directory):
    return [str(finding) for finding in ledger.verify(directory) if finding.fault]


def test_the_record_says_what_happened(calm):
    directory, entries, learner, status = calm
    assert [entry.status for entry in entries] == [START, APPLIED, APPLIED, REFUSED, APPLIED, APPLIED, APPLIED]
    assert [entry.id for entry in entries[1:]] == [request.name for request in STREAM]
    assert entries[3].reason == "some rows are to be forgotten but are forgotten already."
    assert entries[4].learn_digest == ledger.rows_digest(of_class(3))
    assert (entries[4].learn_count, entries[4].forget_count) == (20, 2)
    assert entries[4].metrics["forgotten"] == 2.0
    assert entries[-1].params_after == tree_digest(learner.params)
    assert len({entry.params_after for entry in entries}) == 6  # the refused one made no network
    assert int(learner.extra["count"]) == 5
    expected = np.where(np.isin(np.arange(120) % 6, (0, 1, 2, 3, 4)), LEARNED, NEVER)
    expected[[1, 7, 12]] = FORGOTTEN
    np.testing.assert_array_equal(status, expected)
    assert faults(directory) == []
    assert [path.name for path in (directory / "requests").iterdir()] == []


def test_purged_rows_are_in_no_memory(calm):
    rows = np.asarray(calm[2].memory.rows)[np.asarray(calm[2].memory.valid)]
    assert len(rows)
    assert not np.isin(rows, [1, 7, 12]).any()


@pytest.mark.parametrize("every", [None, 2])
def test_a_restart_after_every_request_changes_nothing(parts, calm, tmp_path, every):
    for i in range(len(STREAM)):
        with small_stream.deploy(tmp_path / "run", **parts, checkpoint_every=every) as deployment:
            for request in STREAM[: i + 1]:  # the whole log so far, as a restarted server reads it
                deployment.apply(request)
    assert contents(deployment.entries) == contents(calm[1])
    chex.assert_trees_all_equal(deployment.learner, calm[2])
    assert deployment.learner.extra["count"].weak_type is False


def test_a_request_seen_again_changes_no_byte(parts, copied):
    before = (copied / "ledger.jsonl").read_bytes()
    with small_stream.deploy(copied, **parts) as deployment:
        for request in STREAM:
            assert deployment.standing(request) == "done"
            shuffled = request._replace(learn=list(request.learn)[::-1])
            assert deployment.apply(shuffled).id == request.name
    assert (copied / "ledger.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(learn=of_class(5), name="two"), r"'two' is not the one of that id in the ledger \(line 2, applied\)"),
        (Request(learn=of_class(2), task=1, name="two"), "another task"),
        (Asked("two", learn_classes=[2]), "other rows, classes"),
        (Request(learn=of_class(5)), "has no id"),
        (Request(learn=[0.5], name="new"), "learn of request 'new' has shape .* float64"),
    ],
)
def test_what_cannot_be_recorded_is_refused_without_a_trace(parts, copied, request_, words):
    before = (copied / "ledger.jsonl").read_bytes()
    with small_stream.deploy(copied, **parts) as deployment, pytest.raises(RequestError, match=words):
        deployment.apply(request_)
    assert (copied / "ledger.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(forget=[5, 11], name="x"), "rows 5, 11 are to be forgotten but were never learned."),
        (Request(forget=[12], name="x"), "rows 12 are to be forgotten but are forgotten already."),
        (Request(learn=of_class(5), task=3, name="x"), "task is 3, but this stream is task-agnostic"),
        (Request(name="x"), "the request is empty"),
        (Asked("x", forget_classes=[5, 0]), "classes 5 have no rows that are learned."),
        (Asked("x", learn_classes=[0]), "classes 0 have no rows to learn."),
    ],
)
def test_a_refused_request_is_recorded_and_changes_nothing(parts, copied, calm, request_, words):
    with small_stream.deploy(copied, **parts) as deployment:
        entry = deployment.apply(request_)
        assert (entry.status, entry.params_before, entry.metrics) == (REFUSED, entry.params_after, {})
        assert deployment.refusal.startswith(words)
        assert deployment.entries[-1] == entry
        chex.assert_trees_all_equal((deployment.learner, deployment.status), calm[2:])
    assert faults(copied) == []


def test_training_that_diverges_is_refused_and_what_follows_goes_on(parts, tmp_path):
    scene = parts["scene"]
    rules = small_stream.rules(scene, learning_rate=1e38)
    for every in (None, 2):
        directory = tmp_path / str(every)
        with small_stream.deploy(directory, scene=scene, rules=rules, checkpoint_every=every) as deployment:
            before = deployment.learner
            entry = deployment.apply(STREAM[0])
            assert "step 1 gave" in deployment.refusal
            assert not any((directory / "requests").iterdir())
            chex.assert_trees_all_equal(deployment.learner, before)
            assert (
                deployment.apply(Request(name="empty")).reason
                == "the request is empty: give rows to learn, to forget, or both."
            )
        assert (entry.status, entry.reason) == (REFUSED, "its training diverged: a loss or a parameter was not finite.")


def test_classes_mean_the_rows_of_their_turn_and_are_known_again(parts, calm, tmp_path):
    stream = (
        Asked("learn", learn_classes=[2, 3]),
        Asked("forget", [77], forget_classes=[2]),
        Asked("all", forget_classes=[0]),
    )
    for _ in range(2):
        with small_stream.deploy(tmp_path, **parts) as deployment:
            entries = [deployment.apply(request) for request in stream]
    assert len(deployment.entries) == 4
    assert [(entry.learn_count, entry.forget_count) for entry in entries] == [(40, 0), (1, 20), (0, 20)]
    assert entries[1].forget_digest == ledger.rows_digest(of_class(2))
    assert np.all(deployment.status[of_class(0, 2)] == FORGOTTEN)
    with small_stream.deploy(tmp_path, **parts) as deployment:
        assert deployment.apply(Asked("none", learn_classes=[2])).status == REFUSED
        assert deployment.apply(Asked("back", learn_classes=[2], relearn=True)).learn_count == 20


def test_task_aware_streams_forget_whole_tasks(parts, tmp_path):
    stream = (
        Request(learn=of_class(2), task=1, name="a"),
        Request(forget=of_class(2)[:3], task=1, name="part"),
        Request(forget=of_class(2), task=1, name="whole"),
        Request(learn=of_class(3), name="no task"),
    )
    for _ in range(2):
        with small_stream.deploy(tmp_path, **parts, task_aware=True) as deployment:
            entries = [deployment.apply(request) for request in stream]
    assert [entry.status for entry in entries] == [APPLIED, REFUSED, APPLIED, REFUSED]
    assert [entry.task for entry in entries] == [1, 1, 1, None]
    np.testing.assert_array_equal(deployment.tasks[of_class(2)], 1)
    np.testing.assert_array_equal(deployment.tasks[of_class(5)], -1)


# What a killed process leaves.


def newest(directory):
    steps = (path for path in (directory / "checkpoints").iterdir() if path.name.isdigit())
    return max(steps, key=lambda path: int(path.name))


@pytest.mark.parametrize("left", [0, 1, 200])
def test_a_line_that_was_not_written_is_taken_from_the_checkpoint(parts, copied, left):
    book = copied / "ledger.jsonl"
    whole = book.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    book.write_bytes(whole[: -len(last)] + last[:left])
    found = faults(copied)
    assert found[-1] == "ledger.jsonl: ends before the entry of checkpoint 5; the next start appends it"
    assert found[:-1] == (["line 7: half a line; the next start cuts it off"] if left else [])
    with small_stream.deploy(copied, **parts):
        assert book.read_bytes() == whole
    assert faults(copied) == []


@pytest.mark.parametrize(("count", "left"), [(0, 0), (0, 100), (3, 0), (3, 100)])
def test_the_line_of_the_start_or_of_a_refused_request_may_be_torn_too(parts, calm, tmp_path, count, left):
    book = tmp_path / "ledger.jsonl"
    for requests in (STREAM[:count], STREAM):
        with small_stream.deploy(tmp_path, **parts) as deployment:
            for request in requests:
                deployment.apply(request)
        if requests is not STREAM:
            *whole, last = book.read_text().splitlines(keepends=True)
            book.write_text("".join(whole) + last[:left])
    assert contents(deployment.entries) == contents(calm[1])
    assert faults(tmp_path) == []


def lose(folder):
    shutil.rmtree(folder)


def flip(folder):
    file = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.filterwarnings("ignore:checkpoints in")
@pytest.mark.parametrize("damage", [lose, flip])
def test_a_lost_checkpoint_is_made_again_and_not_recorded_again(parts, copied, calm, damage):
    before = (copied / "ledger.jsonl").read_bytes()
    damage(newest(copied))
    assert any("end before requests of the ledger, which must be sent again: 'back'" in text for text in faults(copied))
    with pytest.warns(UserWarning, match=r"is as request 'four' left it. Send again, in this order: 'back'"):
        deployment = small_stream.deploy(copied, **parts)
    with deployment:
        assert [entry.id for entry in deployment.missing] == ["back"]
        with pytest.raises(CheckpointError, match=r"'other' cannot be carried out before .* in this order: 'back'"):
            deployment.apply(Request(learn=of_class(5), name="other"))
        assert [deployment.standing(request) for request in STREAM] == ["done"] * 5 + ["lost"]
        for request in STREAM:
            deployment.apply(request)
        assert not deployment.missing
        chex.assert_trees_all_equal(deployment.learner, calm[2])
    assert (copied / "ledger.jsonl").read_bytes() == before
    assert faults(copied) == []


@pytest.mark.filterwarnings("ignore:.*checkpoints were lost")
def test_with_no_checkpoint_left_all_requests_are_sent_again_in_order(parts, copied, calm):
    before = (copied / "ledger.jsonl").read_bytes()
    lose(copied / "checkpoints")
    assert any("every request must be sent again" in text for text in faults(copied))
    for start in (0, 2):  # half of them, then a restart
        with small_stream.deploy(copied, **parts) as deployment:
            if not start:
                assert len(deployment.missing) == 5
                with pytest.raises(CheckpointError, match="in this order: 'two', 'three rows', 'both', 'four', 'back'"):
                    deployment.apply(STREAM[1])
            for request in STREAM[start : start + 4 if start else 2]:
                deployment.apply(request)
    chex.assert_trees_all_equal(deployment.learner, calm[2])
    assert (copied / "ledger.jsonl").read_bytes() == before


@pytest.mark.filterwarnings("ignore:.*checkpoints were lost")
def test_a_request_that_ends_elsewhere_than_the_ledger_says_is_not_committed(parts, copied, calm):
    lose(newest(copied))
    with small_stream.deploy(copied, **parts, key=jax.random.key(8)) as deployment:
        words = (
            r"'back'.* has content [0-9a-f]{12} where the ledger has [0-9a-f]{12} \(line 7\); different: params_after\."
        )
        with pytest.raises(CheckpointError, match=words):
            deployment.apply(STREAM[-1])
        assert [entry.id for entry in deployment.missing] == ["back"]
    assert newest(copied).name == "4"
    with small_stream.deploy(copied, **parts) as deployment:
        deployment.apply(STREAM[-1])
    assert contents(deployment.entries) == contents(calm[1])


def test_progress_inside_a_request_is_taken_up_by_that_request_alone(parts, calm, tmp_path):
    class Stop(Exception):
        pass

    scene = parts["scene"]

    def stopping_at(count):
        """The same method, that stops at its n-th batch; and the batches it asked for."""
        asked = []

        def batches(self, numbers, batch_size, key):
            batch_at = type(scene).batches(scene, numbers, batch_size, key)

            def counted(step):
                asked.append(int(step))
                if len(asked) == count:
                    raise Stop
                return batch_at(step)

            return counted

        watched = type("Watched", (type(scene),), {"batches": batches})(*scene)
        return asked, small_stream.rules(watched)

    with small_stream.deploy(tmp_path, **parts, checkpoint_every=2) as deployment:
        deployment.apply(STREAM[0])
    asked, rules = stopping_at(6)  # the fifth step of "four"
    with pytest.raises(Stop), small_stream.deploy(tmp_path, scene=scene, rules=rules, checkpoint_every=2) as deployment:
        deployment.apply(STREAM[4])
    assert asked == [0, 1, 2, 3, 4, 5]
    asked, rules = stopping_at(0)
    left = list((tmp_path / "requests").iterdir())
    with small_stream.deploy(tmp_path, scene=scene, rules=rules, checkpoint_every=2) as deployment:
        assert list((tmp_path / "requests").iterdir()) == left
        deployment.apply(STREAM[4])
    assert asked == [4, 5]
    again = tmp_path / "again"
    asked, rules = stopping_at(6)
    with pytest.raises(Stop), small_stream.deploy(again, scene=scene, rules=rules, checkpoint_every=2) as deployment:
        deployment.apply(STREAM[4])
    with small_stream.deploy(again, **parts, checkpoint_every=2) as deployment:
        for request in STREAM:  # another one comes first
            deployment.apply(request)
    assert contents(deployment.entries) == contents(calm[1])


# A directory that is not as it was left.


def test_two_processes_on_one_directory_the_second_is_refused(parts, copied):
    words = f"is in use by process {os.getpid()}: one process serves a directory"
    with small_stream.deploy(copied, **parts), pytest.raises(ConfigError, match=words):
        small_stream.deploy(copied, **parts)
    small_stream.deploy(copied, **parts).close()


def test_a_directory_that_cannot_be_served_is_let_go_again(parts, copied):
    with pytest.raises(ConfigError, match="belongs to another config: seed is 0 there and 1 here"):
        small_stream.deploy(copied, **parts, config=small_stream.CONFIG | {"seed": 1})
    small_stream.deploy(copied, **parts).close()
    file = copied / "file"
    file.touch()
    with pytest.raises(ConfigError, match="is a file"):
        small_stream.deploy(file, **parts)


def test_a_ledger_edited_by_hand_is_refused_and_named(parts, copied):
    book = copied / "ledger.jsonl"
    lines = book.read_text().splitlines()
    book.write_text(
        "\n".join([*lines[:2], lines[2].replace('"forgotten": 3.0', '"forgotten": 4.0'), *lines[3:]]) + "\n"
    )
    assert [text.split(":")[0] for text in faults(copied)] == ["line 3 ('three rows')"] * 2
    with pytest.raises(CheckpointError, match=r"line 3 \('three rows'\): its content digest"):
        small_stream.deploy(copied, **parts)


def test_a_last_line_forged_whole_is_found_by_its_checkpoint(parts, copied, calm):
    book = copied / "ledger.jsonl"
    *kept, last = calm[1]
    forged = last._replace(learn_count=3)
    forged = forged._replace(content=ledger.content_of(forged))
    forged = forged._replace(seal=ledger.seal_of(forged, kept[-1].seal))
    book.write_text("".join(map(ledger.to_line, [*kept, forged])))
    assert faults(copied) == ["checkpoints/5: its entry is not that of line 7 of the ledger"]
    with pytest.raises(CheckpointError, match=r"checkpoint 5 is not of line 7 \('back'\)"):
        small_stream.deploy(copied, **parts)


def test_lines_that_no_checkpoint_holds_cannot_be_made_up(parts, copied, calm):
    book = copied / "ledger.jsonl"
    book.write_text("".join(map(ledger.to_line, calm[1][:-2])))
    assert faults(copied) == ["ledger.jsonl: ends before the entry of checkpoint 5, and lacks lines before that"]
    with pytest.raises(CheckpointError, match="checkpoint 5 does not follow from the ledger's last line"):
        small_stream.deploy(copied, **parts)


def test_a_checkpoint_under_another_number_is_found(parts, copied):
    folder = copied / "checkpoints"
    lose(folder / "5")
    shutil.copytree(folder / "4", folder / "5")
    assert faults(copied) == ["checkpoints/5: its entry is not that of line 7 of the ledger"]
    with pytest.raises(CheckpointError, match="checkpoint 5 is not of line 7"):
        small_stream.deploy(copied, **parts)


@pytest.mark.filterwarnings("ignore:.*checkpoints were lost")
def test_a_network_put_in_the_place_of_another_is_found(parts, copied, calm):
    """Whole in its files, with the entry that belongs there."""
    folder = copied / "checkpoints"
    lose(folder)
    with small_stream.deploy(copied, **parts) as deployment:
        state = deployment._state
        other = state._replace(
            learner=state.learner._replace(params=jax.tree.map(jnp.zeros_like, state.learner.params))
        )
        deployment._checkpoints.save(1, other, {"entry": ledger.to_line(calm[1][1])})
    assert [text for text in faults(copied) if "its parameters have digest" in text]
    with pytest.raises(CheckpointError, match="the parameters in checkpoint 1 are not those of its entry"):
        small_stream.deploy(copied, **parts)


def test_a_config_changed_by_hand_is_found(copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"seed": 5}))
    (found,) = faults(copied)
    assert found.startswith("config.json: its digest")


def test_a_directory_without_a_ledger_is_no_deployment(tmp_path):
    with pytest.raises(ConfigError, match=r"has no ledger.jsonl; name the directory of a deployment"):
        ledger.verify(tmp_path)


# Odd circumstances.


def test_a_clock_that_goes_back_is_told_and_changes_no_content(parts, calm, tmp_path):
    now = iter(np.linspace(2e9, 1e9, 100).tolist())
    with small_stream.deploy(tmp_path, **parts, clock=lambda: next(now)) as deployment:
        for request in STREAM:
            deployment.apply(request)
    assert contents(deployment.entries) == contents(calm[1])
    findings = ledger.verify(tmp_path)
    assert len(findings) == 6
    assert not any(finding.fault for finding in findings)


FIVE = Request(learn=of_class(5), name="five")


@pytest.mark.parametrize("next_", [FIVE, Request(forget=[3], name="three")])
def test_an_entry_that_found_no_room_is_written_before_anything_else(parts, copied, calm, next_):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with small_stream.deploy(copied, **parts) as deployment:
        append = deployment._ledger.append

        def no_room(entry):
            size = (copied / "ledger.jsonl").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50, hard))
            try:
                append(entry)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        deployment._ledger.append = no_room
        with pytest.raises(OSError, match=r"ledger\.jsonl"):
            deployment.apply(FIVE)
        deployment._ledger.append = append
        assert deployment.entries == calm[1]
        deployment.apply(next_)
        assert [entry.id for entry in deployment.entries[6:]] == ["back", "five", "three"][
            : 2 + (next_.name == "three")
        ]
    assert faults(copied) == []


def test_a_deployment_over_several_devices_restarts_too(parts, tmp_path):
    mesh = make_mesh()
    scene = parts["scene"]._replace(mesh=mesh)
    rules = small_stream.rules(scene)

    def begin():
        state = small_stream.state_of(scene, rules)
        return jax.device_put(state, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))

    ended = []
    for name, stops in (("calm", (3,)), ("stopped", (1, 3))):
        for stop in stops:
            with Deployment(tmp_path / name, scene, rules, begin, key=jax.random.key(7)) as deployment:
                for request in STREAM[:stop]:
                    deployment.apply(request)
                assert len(jax.tree.leaves(deployment.learner.params)[0].devices()) == jax.device_count() > 1
        ended.append(contents(deployment.entries))
        assert faults(tmp_path / name) == []
    assert ended[0] == ended[1]


def test_a_method_that_changes_the_form_of_its_learner_is_told_at_once(parts, tmp_path):
    def end(learner, change, key):
        return learner._replace(extra={"more": jnp.zeros(3)})

    rules = parts["rules"]._replace(end=end)
    with small_stream.deploy(tmp_path, scene=parts["scene"], rules=rules) as deployment:
        with pytest.raises(ValueError, match="changed the form of its learner"):
            deployment.apply(STREAM[0])
        assert len(deployment.entries) == 1
