"""Metrics of a run on disk: one JSON line a record, and TensorBoard event files."""

import json
import os
import pathlib

from tensorboardX import SummaryWriter


class Writer:
    """Append records to `metrics.jsonl` and to TensorBoard event files in one directory; a context manager.

    A record is a dict of numbers with the entry `step`. Each line reaches the operating system at once, so a kill loses
    none; `resume` mends a line that a power cut left half written.
    """

    def __init__(self, directory: str | os.PathLike, *, name: str = "metrics.jsonl", tensorboard: bool = True):
        self.path = pathlib.Path(directory) / name
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._tensorboard = tensorboard
        self._lines = None
        self._events = None

    def records(self) -> list[dict]:
        """Read all records back, leaving out a last line that is not complete."""
        if not self.path.exists():
            return []
        records = []
        for line in self.path.read_text().splitlines(keepends=True):
            try:
                records.append(json.loads(line) if line.endswith("\n") else {})
            except ValueError:
                continue
        return [record for record in records if "step" in record]

    def resume(self, step: int) -> None:
        """Drop the records of `step` and later, which the run is about to write again."""
        self.close()
        kept = [record for record in self.records() if record["step"] < step]
        part = self.path.with_suffix(".part")
        part.write_text("".join(json.dumps(record) + "\n" for record in kept))
        os.replace(part, self.path)
        self._open(step)

    def write(self, record: dict) -> None:
        """Append one record; metric names with a slash become TensorBoard groups.

        Raises:
            OSError: the disk is full; the file ends with the last whole record.
        """
        if self._lines is None:
            self._open(int(record["step"]))
        size = self._lines.seek(0, os.SEEK_END)
        line = (json.dumps(record) + "\n").encode()
        try:
            written = self._lines.write(line)
            if written < len(line):
                self._lines.write(line[written:])  # raises what cut the first write short
        except OSError as error:
            self._lines.truncate(size)
            raise type(error)(error.errno, f"{error.strerror}: {self.path} keeps its records so far") from error
        if self._events is not None:
            for name, value in record.items():
                if name != "step" and isinstance(value, int | float):
                    self._events.add_scalar(name, value, record["step"])

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
            # purge_step hides what an earlier, killed process wrote for the steps that are repeated.
            self._events = SummaryWriter(str(self.path.parent), purge_step=step or None)
