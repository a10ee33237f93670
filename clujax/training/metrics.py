"""Metrics of a run on disk: one JSON line a record, and TensorBoard event files."""

import json
import os
import pathlib
import struct
import time
from typing import BinaryIO

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from clujax.training import processes


class Writer:
    """Append records to `metrics.jsonl` and to TensorBoard event files in one directory; a context manager.

    A record is a dict of metrics with the entry `step`. It reaches the operating system whole before `write` returns,
    so a kill loses none. (tensorboardX's own writer hands events to a thread, whose failure on a full disk nobody sees
    and whose queue then blocks; its protocol buffers and checksums are used here without it.)
    Of many processes only the first writes; the others keep their records in memory.
    """

    def __init__(self, directory: str | os.PathLike, *, name: str = "metrics.jsonl", tensorboard: bool = True):
        self.path = pathlib.Path(directory) / name
        self._held: list[dict] | None = None if processes.writes() else []
        if self._held is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._tensorboard = tensorboard
        self._lines: BinaryIO | None = None
        self._events: BinaryIO | None = None

    def records(self) -> list[dict]:
        """Read all records back, leaving out a last line that is not complete."""
        if self._held is not None:
            return list(self._held)
        if not self.path.exists():
            return []
        whole = [line for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [json.loads(line) for line in whole]

    def resume(self, step: int) -> None:
        """Drop the records of `step` and later, which the run is about to write again."""
        self.close()
        kept = [record for record in self.records() if record["step"] < step]
        if self._held is not None:
            self._held = kept
            return
        part = self.path.with_suffix(".part")
        part.write_text("".join(json.dumps(record) + "\n" for record in kept))
        os.replace(part, self.path)
        self._open(step)

    def write(self, record: dict) -> None:
        """Append one record; its numbers become TensorBoard scalars, a slash in a name makes a group.

        Raises:
            OSError: the disk is full; the files end with the last whole record.
        """
        if self._held is not None:
            self._held.append(record)
            return
        if self._lines is None:
            self._open(record["step"])
        _append(self._lines, (json.dumps(record) + "\n").encode())
        if self._events is not None:
            numbers = {n: v for n, v in record.items() if n != "step" and isinstance(v, int | float)}
            summary = Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()])
            _append_event(self._events, Event(wall_time=time.time(), step=record["step"], summary=summary))

    def close(self) -> None:
        """Close the files; the next `write` opens them again."""
        for file in (self._lines, self._events):
            if file is not None:
                file.close()
        self._lines = self._events = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _open(self, step: int) -> None:
        self._lines = self.path.open("ab", buffering=0)
        if self._tensorboard:
            now = time.time()
            name = f"events.out.tfevents.{now:.6f}.{os.getpid()}"  # sorted by time, as TensorBoard reads them
            self._events = (self.path.parent / name).open("ab", buffering=0)
            _append_event(self._events, Event(wall_time=now, step=step, file_version="brain.Event:2"))
            # TensorBoard then hides what an earlier, killed process wrote for this step and later ones.
            start = SessionLog(status=SessionLog.START)
            _append_event(self._events, Event(wall_time=now, step=step, session_log=start))


def _append(file: BinaryIO, content: bytes) -> None:
    """Append all of it or nothing to an unbuffered file."""
    size = file.seek(0, os.SEEK_END)
    try:
        written = file.write(content)
        if written < len(content):
            file.write(content[written:])  # raises what cut the first write short
    except OSError as error:
        file.truncate(size)
        raise type(error)(error.errno, f"{error.strerror}: {file.name} ends with its last whole record") from error


def _append_event(file: BinaryIO, event: Event) -> None:
    # TFRecord: length, its checksum, content, its checksum, little-endian.
    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    sums = [struct.pack("<I", masked_crc32c(part)) for part in (length, content)]
    _append(file, length + sums[0] + content + sums[1])
