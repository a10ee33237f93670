import json

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import RecordWriter  # noqa: F401  (the format read below)

from clujax.training import Writer


def read_events(folder):
    """The scalars of all event files: TFRecord framing is length (8), crc (4), payload, crc (4)."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            size = int.from_bytes(content[at : at + 8], "little")
            event = Event.FromString(content[at + 12 : at + 12 + size])
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            at += 16 + size
    return found


def test_records_and_events(tmp_path):
    with Writer(tmp_path) as writer:
        writer.write({"step": 0, "loss": 2.0, "finite": True})
        writer.write({"step": 10, "loss": float("nan"), "forget/accuracy": 0.5})
        assert [r["step"] for r in writer.records()] == [0, 10]  # readable while it is open
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    events = read_events(tmp_path)
    assert (0, "loss", 2.0) in events
    assert (10, "forget/accuracy", 0.5) in events


def test_resume_drops_what_will_be_repeated_and_mends_a_cut_line(tmp_path):
    with Writer(tmp_path, tensorboard=False) as writer:
        for step in (0, 5, 10):
            writer.write({"step": step, "loss": 1.0})
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 15, "lo')  # killed in the middle of a line
    with Writer(tmp_path, tensorboard=False) as writer:
        assert [r["step"] for r in writer.records()] == [0, 5, 10]
        writer.resume(10)
        writer.write({"step": 10, "loss": 0.5})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines == [{"step": 0, "loss": 1.0}, {"step": 5, "loss": 1.0}, {"step": 10, "loss": 0.5}]


def test_full_disk_leaves_whole_lines(small_disk):
    disk, _ = small_disk

    def fill(writer):
        for step in range(1000):
            writer.write({"step": step, "note": "x" * 1500})

    with Writer(disk, tensorboard=False) as writer, pytest.raises(OSError, match=r"metrics\.jsonl keeps its records"):
        fill(writer)
    text = (disk / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    steps = [json.loads(line)["step"] for line in text.splitlines()]
    assert steps == list(range(len(steps)))
    assert len(steps) > 100
