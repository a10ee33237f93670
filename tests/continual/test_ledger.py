"""Whatever is changed in a ledger is found; what a killed process leaves is not taken for a change."""

import copy
import hashlib
import json
import resource
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clujax.continual import ledger
from clujax.continual.ledger import APPLIED, REFUSED, START, Entry, Ledger, check, following, from_line, to_line
from clujax.continual.request import Request, check_request
from clujax.errors import CheckpointError, RequestError


def chain(count=5, seed=0, clock=lambda i: 1e9 + i):
    """Entries as a deployment would make them, every third one refused."""
    rng = np.random.default_rng(seed)
    entries = []
    for i in range(count):
        status = START if i == 0 else REFUSED if i % 3 == 0 else APPLIED
        before = entries[-1].params_after if i else hashlib.sha256(b"start").hexdigest()
        after = hashlib.sha256(rng.bytes(8)).hexdigest() if status == APPLIED else before
        entries.append(
            following(
                entries[-1] if entries else None,
                began=clock(i),
                ended=clock(i) + 0.5,
                seconds=0.5,
                metrics={"RA": float(rng.uniform()), "n": i} if status == APPLIED else {},
                id=f"r{i}" if i else "",
                status=status,
                reason="why" if status == REFUSED else "",
                asked=hashlib.sha256(rng.bytes(8)).hexdigest(),
                learn_count=i,
                learn_digest=ledger.rows_digest(range(i)),
                forget_count=0,
                forget_digest=ledger.rows_digest([]),
                task=None,
                params_before=before,
                params_after=after,
                config_digest="c",
            )
        )
    return entries


def faults(entries):
    return [finding for finding in check(entries) if finding.fault]


def test_rows_have_the_sha256_of_ascending_little_endian_int64():
    expected = hashlib.sha256(struct.pack("<3q", 2, 5, 900)).hexdigest()
    assert ledger.rows_digest([900, 2, 5]) == ledger.rows_digest(np.array([5, 900, 2], np.uint16)) == expected
    assert ledger.rows_digest([]) == hashlib.sha256(b"").hexdigest()


def test_a_chain_is_whole_and_comes_back_from_its_lines():
    entries = chain(8)
    assert check(entries) == []
    assert [from_line(to_line(entry)) for entry in entries] == entries


def test_content_is_the_same_at_other_times_and_the_seal_is_not():
    slow = chain(clock=lambda i: 2e9 + 100 * i)
    for a, b in zip(chain(), slow, strict=True):
        assert a.content == b.content
        assert a.seal != b.seal


# Another value of each field, of the kind that the field has.
CHANGES = {
    name: (lambda v: v + 1)
    if name in ("number", "learn_count", "forget_count")
    else (lambda v: 3)
    if name == "task"
    else (lambda v: v | {"RA": 0.5})
    if name == "metrics"
    else (lambda v: v | {"seconds": 99.0})
    if name == "times"
    else (lambda v: f"{v}x")
    for name in Entry._fields
}


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 5), st.sampled_from(Entry._fields), st.booleans())
def test_every_change_to_any_field_of_any_line_is_found(place, name, made_to_fit):
    """Also when the forger makes the digests of the changed line fit anew: the next line knows the old ones."""
    entries = chain(7)
    forged = entries[place]._replace(**{name: CHANGES[name](copy.deepcopy(getattr(entries[place], name)))})
    if made_to_fit and name not in ("content", "seal"):
        forged = forged._replace(content=ledger.content_of(forged))
        forged = forged._replace(seal=ledger.seal_of(forged, entries[place - 1].seal if place else ""))
    assert faults([*entries[:place], forged, *entries[place + 1 :]])


def test_a_change_is_named_by_its_line_alone():
    entries = chain(7)
    entries[3] = entries[3]._replace(times=entries[3].times | {"seconds": 7.0})
    (finding,) = faults(entries)
    assert str(finding).startswith("line 4 ('r3'): its seal does not fit")


@pytest.mark.parametrize("place", range(6))
def test_a_line_that_is_missing_repeated_or_moved_is_found(place):
    entries = chain(7)
    assert faults(entries[:place] + entries[place + 1 :])
    assert faults([*entries[: place + 1], *entries[place:]])
    assert faults([*entries[:place], entries[place + 1], entries[place], *entries[place + 2 :]])


def test_a_clock_that_goes_back_is_recorded_and_times_never_descend():
    entries = chain(5, clock=lambda i: 1e9 + (-3600 if i == 2 else i))
    assert [entry.times["clock_behind_seconds"] for entry in entries] == [0.0, 0.0, 3601.5, 0.0, 0.0]
    stamps = [entry.times[name] for entry in entries for name in ("began", "ended")]
    assert stamps == sorted(stamps)
    assert faults(entries) == []
    (told,) = check(entries)
    assert str(told) == "line 3 ('r2'): the clock was 3601.5 s behind the entry before"
    back_during = following(entries[-1], began=2e9, ended=2e9 - 7, seconds=1.0, **plain(entries[-1]))
    assert back_during.times["began"] == back_during.times["ended"]
    assert back_during.times["clock_behind_seconds"] == 7.0


def plain(entry):
    made = {"number", "metrics", "previous", "content", "times", "seal"}
    return {name: value for name, value in entry._asdict().items() if name not in made}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda fields: fields | {"note": "seen"}, "unknown fields: note"),
        (lambda fields: {name: fields[name] for name in fields if name != "seal"}, "missing fields: seal"),
        (lambda fields: fields | {"number": True}, "number is True"),
        (lambda fields: fields | {"times": {}}, "missing fields: adapt_seconds, began"),
        (lambda fields: fields | {"metrics": {"RA": "high"}}, "RA is 'high'"),
        (lambda fields: [fields], "a JSON list"),
    ],
)
def test_a_line_of_another_form_is_no_entry(edit, words):
    with pytest.raises(ValueError, match=words):
        from_line(json.dumps(edit(chain(2)[1]._asdict())))


@pytest.fixture
def written(tmp_path):
    book = Ledger(tmp_path / "ledger.jsonl")
    for entry in chain(4):
        book.append(entry)
    return book


def test_what_was_appended_is_read_back(written):
    again = Ledger(written.path)
    assert again.entries == written.entries == chain(4)
    assert again.by_id["r2"] == again.entries[2]


def test_half_a_last_line_is_cut_off_wherever_it_was_torn(written):
    whole = written.path.read_bytes()
    last = len(to_line(written.entries[-1]))
    for torn in range(1, last + 1):
        written.path.write_bytes(whole[:-torn])
        assert ledger.read(written.path)[0] == written.entries[:-1]
        assert len(Ledger(written.path).entries) == 3
        assert written.path.read_bytes() == whole[:-last]


def test_a_changed_ledger_is_not_opened(written):
    whole = written.path.read_text()
    written.path.write_text(whole.replace('"learn_count": 2', '"learn_count": 3'))
    with pytest.raises(CheckpointError, match=r"line 3 \('r2'\): its content .* `clujax ledger verify .*` lists"):
        Ledger(written.path)
    written.path.write_text(whole.replace('{"number": 1', "number: 1"))
    with pytest.raises(CheckpointError, match="line 2: not an entry"):
        Ledger(written.path)


def test_a_full_disk_leaves_the_last_whole_line(written):
    entries = chain(5)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = written.path.stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))  # the kernel refuses to let the file grow further
    try:
        with pytest.raises(OSError, match=r"ledger\.jsonl"):
            written.append(entries[4])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert written.path.stat().st_size == size
    assert written.entries == Ledger(written.path).entries == entries[:4]
    written.append(entries[4])
    assert Ledger(written.path).entries == entries


STATUS = np.array([0] * 20 + [1] * 20 + [2] * 20, np.int8)


@pytest.mark.parametrize(
    "request_",
    [
        Request(learn=[21], forget=[21]),
        Request(forget=list(range(12))),
        Request(forget=[57]),
        Request(learn=[33, 34]),
        Request(learn=[55]),
        Request(learn=[77, 78]),
        Request(learn=[-5]),
        Request(forget=[31, 31]),
        Request(learn=[11], task=19),
    ],
)
def test_a_refusal_in_the_ledger_names_no_row(request_):
    with pytest.raises(RequestError) as caught:
        check_request(request_, STATUS)
    told = ledger.without_rows(str(caught.value))
    named = [*request_.learn, *request_.forget]
    assert not [row for row in named if str(row) in told.replace("0 … 59", "").split()]
    assert (told == str(caught.value)) == (request_.task is not None), "only the refusal of a task names no row"
    assert len(told) > 20
