import json
import shutil

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter

from clujax.training import Writer


def read_events(folder):
    """All events of all files, with the framing checked by tensorboardX writing the same content again."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, at, again = path.read_bytes(), 0, RecordWriter(str(folder / "again"))
        while at < len(content):
            size = int.from_bytes(content[at : at + 8], "little")
            again.write(content[at + 12 : at + 12 + size])
            found.append(Event.FromString(content[at + 12 : at + 12 + size]))
            at += 16 + size
        again.close()
        assert (folder / "again").read_bytes() == content
    return found


def scalars(events):
    return [(event.step, value.tag, value.simple_value) for event in events for value in event.summary.value]


def test_records_and_events(tmp_path):
    with Writer(tmp_path) as writer:
        writer.write({"step": 0, "loss": 2.0, "finite": True})
        writer.write({"step": 10, "loss": float("inf"), "forget/accuracy": 0.5, "by_class": [1, 2]})
        assert [r["step"] for r in writer.records()] == [0, 10]  # readable while it is open
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    events = read_events(tmp_path)
    assert events[0].file_version == "brain.Event:2"
    expected = [(0, "loss", 2.0), (0, "finite", 1.0), (10, "loss", float("inf")), (10, "forget/accuracy", 0.5)]
    assert scalars(events) == expected


def test_resume_drops_what_will_be_repeated_and_mends_a_cut_line(tmp_path):
    with Writer(tmp_path) as writer:
        for step in (0, 5, 10):
            writer.write({"step": step, "loss": 1.0})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 15, "lo')  # killed in the middle of a line
    with Writer(tmp_path) as writer:
        assert [r["step"] for r in writer.records()] == [0, 5, 10]
        writer.resume(10)
        writer.write({"step": 10, "loss": 0.5})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": 0, "loss": 1.0}, {"step": 5, "loss": 1.0}, {"step": 10, "loss": 0.5}]
    starts = [e.step for e in read_events(tmp_path) if e.HasField("session_log")]
    assert starts == [0, 10]  # tells TensorBoard to hide the first file's step 10


@pytest.mark.parametrize("tensorboard", [True, False])
def test_full_disk_leaves_whole_records(small_disk, tensorboard):
    disk, _ = small_disk

    def fill(writer):
        for step in range(1000):
            writer.write(
                {"step": step, "note": "x" * (10 if tensorboard else 1500)} | dict.fromkeys(map(str, range(40)), 0.5)
            )

    with (
        Writer(disk, tensorboard=tensorboard) as writer,
        pytest.raises(OSError, match="ends with its last whole record"),
    ):
        fill(writer)
    text = (disk / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    steps = [json.loads(line)["step"] for line in text.splitlines()]
    assert steps == list(range(len(steps)))
    assert len(steps) > 100
    if tensorboard:
        for path in disk.glob("events*"):
            shutil.move(path, disk.parent)  # read where there is room
        written = {step for step, _, _ in scalars(read_events(disk.parent))}
        assert written in (set(steps), set(steps[:-1]))
