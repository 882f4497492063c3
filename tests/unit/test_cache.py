"""The blob cache: uploads go on where they stopped, nothing wrong is kept, nothing in use is dropped."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketbench_agent import cache
from pocketbench_agent.cache import BlobCache, CacheError, NoSpace

DATA = bytes(range(256)) * 40
SHA = hashlib.sha256(DATA).digest()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobCache:
    return BlobCache(tmp_path / "blobs")


def put(blobs: BlobCache, data: bytes, age_s: float = 0) -> bytes:
    sha = hashlib.sha256(data).digest()
    blobs.put(sha, 0, len(data), iter([data]))
    path = blobs.path(sha)
    assert path is not None
    os.utime(path, (path.stat().st_mtime - age_s,) * 2)
    return sha


def files(blobs: BlobCache, tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "blobs").iterdir()}


def test_a_blob_is_complete_when_its_hash_is_right(blobs: BlobCache) -> None:
    assert blobs.path(SHA) is None and blobs.committed(SHA) == (0, False)
    assert blobs.put(SHA, 0, len(DATA), iter([DATA[:100], DATA[100:]])) == len(DATA)
    path = blobs.path(SHA)
    assert path is not None and path.read_bytes() == DATA
    assert blobs.committed(SHA) == (len(DATA), True)


@given(st.lists(st.integers(0, len(DATA)), max_size=4))
def test_an_upload_goes_on_where_it_stopped(tmp_path_factory: pytest.TempPathFactory, cuts: list[int]) -> None:
    blobs = BlobCache(tmp_path_factory.mktemp("blobs"))
    for end in sorted(cuts):
        committed, complete = blobs.committed(SHA)
        if not complete:
            assert blobs.put(SHA, committed, len(DATA), iter([DATA[committed:end]])) == max(end, committed)
    committed, _ = blobs.committed(SHA)
    assert blobs.put(SHA, committed, len(DATA), iter([DATA[committed:]])) == len(DATA)
    path = blobs.path(SHA)
    assert path is not None and path.read_bytes() == DATA


def test_an_upload_goes_on_after_a_restart(tmp_path: Path, blobs: BlobCache) -> None:
    blobs.put(SHA, 0, len(DATA), iter([DATA[:77]]))
    again = BlobCache(tmp_path / "blobs")
    assert again.committed(SHA) == (77, False)
    assert again.put(SHA, 77, len(DATA), iter([DATA[77:]])) == len(DATA)


def test_a_link_that_breaks_keeps_what_came(blobs: BlobCache) -> None:
    def breaking() -> Iterator[bytes]:
        yield DATA[:50]
        raise ConnectionError("gone")

    with pytest.raises(CacheError):
        blobs.put(SHA, 0, len(DATA), breaking())
    assert blobs.committed(SHA) == (50, False)
    assert blobs.put(SHA, 50, len(DATA), iter([DATA[50:]])) == len(DATA)


def test_a_wrong_hash_drops_everything(tmp_path: Path, blobs: BlobCache) -> None:
    wrong = bytes(32)
    with pytest.raises(CacheError, match="another sha256; nothing was kept"):
        blobs.put(wrong, 0, len(DATA), iter([DATA]))
    assert blobs.committed(wrong) == (0, False)
    assert files(blobs, tmp_path) == set()


def test_a_resumed_upload_with_another_beginning_is_found_out(blobs: BlobCache) -> None:
    blobs.put(SHA, 0, len(DATA), iter([b"z" * 10]))
    with pytest.raises(CacheError, match="another sha256"):
        blobs.put(SHA, 10, len(DATA), iter([DATA[10:]]))
    assert blobs.committed(SHA) == (0, False)


@pytest.mark.parametrize("offset", [1, 9, 11, 10_000_000])
def test_a_wrong_offset_is_refused(blobs: BlobCache, offset: int) -> None:
    blobs.put(SHA, 0, len(DATA), iter([DATA[:10]]))
    with pytest.raises(CacheError, match=f"starts at {offset}, but 10 bytes are committed"):
        blobs.put(SHA, offset, len(DATA), iter([DATA]))
    assert blobs.committed(SHA) == (10, False)


def test_more_than_announced_is_refused(blobs: BlobCache) -> None:
    with pytest.raises(CacheError, match="more than the announced 100 bytes"):
        blobs.put(SHA, 0, 100, iter([DATA[:60], DATA[60:120]]))
    assert blobs.path(SHA) is None


def test_less_than_was_committed_cannot_be_announced(blobs: BlobCache) -> None:
    blobs.put(SHA, 0, len(DATA), iter([DATA[:100]]))
    with pytest.raises(CacheError):
        blobs.put(SHA, 100, 50, iter([]))
    assert blobs.path(SHA) is None


@pytest.mark.parametrize("name", [b"", b"short", bytes(33)])
def test_a_name_that_is_no_sha256_is_refused(blobs: BlobCache, name: bytes) -> None:
    with pytest.raises(CacheError, match="32 bytes"):
        blobs.put(name, 0, 1, iter([b"x"]))
    assert blobs.path(name) is None


def test_an_empty_file_is_a_blob(blobs: BlobCache) -> None:
    sha = put(blobs, b"")
    assert blobs.committed(sha) == (0, True)


def test_two_uploads_of_one_blob_do_not_mix(blobs: BlobCache) -> None:
    def slow() -> Iterator[bytes]:
        yield DATA[:10]
        with pytest.raises(CacheError, match="another upload"):
            blobs.put(SHA, 0, len(DATA), iter([DATA]))
        yield DATA[10:]

    assert blobs.put(SHA, 0, len(DATA), slow()) == len(DATA)
    assert blobs.put(SHA, 0, len(DATA), iter([])) == len(DATA)


def test_an_upload_that_failed_does_not_block_the_next(blobs: BlobCache) -> None:
    with pytest.raises(CacheError):
        blobs.put(SHA, 5, len(DATA), iter([DATA]))
    assert blobs.put(SHA, 0, len(DATA), iter([DATA])) == len(DATA)


@pytest.fixture
def small_disk(blobs: BlobCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that holds 3000 bytes of blobs beside what is reserved."""

    def free(_: BlobCache) -> int:
        used = sum(path.stat().st_size for path in (tmp_path / "blobs").iterdir())
        return 3000 + cache.RESERVE_BYTES - used

    monkeypatch.setattr(BlobCache, "_free", free)


@pytest.mark.usefixtures("small_disk")
def test_the_oldest_blobs_make_room(blobs: BlobCache) -> None:
    old, new = put(blobs, b"a" * 1000, age_s=200), put(blobs, b"b" * 1000, age_s=100)
    third = put(blobs, b"c" * 1500)
    assert blobs.path(old) is None
    assert blobs.path(new) is not None and blobs.path(third) is not None


@pytest.mark.usefixtures("small_disk")
def test_a_blob_that_is_asked_for_again_is_young(blobs: BlobCache) -> None:
    first, second = put(blobs, b"a" * 1000, age_s=200), put(blobs, b"b" * 1000, age_s=100)
    blobs.put(first, 0, 1000, iter([]))
    put(blobs, b"c" * 1500)
    assert blobs.path(first) is not None and blobs.path(second) is None


@pytest.mark.usefixtures("small_disk")
def test_a_pinned_blob_is_spared_until_every_job_let_go(blobs: BlobCache) -> None:
    old, new = put(blobs, b"a" * 1000, age_s=200), put(blobs, b"b" * 1000, age_s=100)
    blobs.pin(old)
    blobs.pin(old)
    blobs.unpin(old)
    put(blobs, b"c" * 1500)
    assert blobs.path(old) is not None and blobs.path(new) is None
    blobs.unpin(old)
    blobs.unpin(old)
    put(blobs, b"d" * 3000)
    assert blobs.path(old) is None


@pytest.mark.usefixtures("small_disk")
def test_no_space_names_what_is_needed(blobs: BlobCache) -> None:
    pinned = put(blobs, b"a" * 1000)
    blobs.pin(pinned)
    data = b"b" * 2_500_000
    with pytest.raises(NoSpace, match=r"2 MB are needed and 67 MB are free .*\(67 MB are kept"):
        blobs.put(hashlib.sha256(data).digest(), 0, len(data), iter([data]))
    assert blobs.path(pinned) is not None


@pytest.mark.usefixtures("small_disk")
def test_an_upload_that_is_going_on_is_not_dropped_for_another(blobs: BlobCache) -> None:
    going = b"g" * 1600

    def chunks() -> Iterator[bytes]:
        yield going[:800]
        with pytest.raises(NoSpace):
            put(blobs, b"b" * 3100)
        yield going[800:]

    sha = hashlib.sha256(going).digest()
    assert blobs.put(sha, 0, 1600, chunks()) == 1600


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_meanwhile_keeps_nothing(blobs: BlobCache, number: int) -> None:
    def full() -> Iterator[bytes]:
        yield DATA[:10]
        raise OSError(number, os.strerror(number))

    with pytest.raises(NoSpace, match="no space left"):
        blobs.put(SHA, 0, len(DATA), full())
    assert blobs.committed(SHA) == (0, False)
