from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callpool.device.errors import DeviceError, FlashError
from callpool.device.flash import Flash
from callpool.device.record import FlashRecord, Marked, Pool
from callpool.licensing.instant import HighWaterMark, Instant

SECRET = b"s" * 32
MARK = Marked.of(HighWaterMark.first(Instant(wall=1e9, boottime=1.0, boot_id="b")))


def record(contact: str) -> FlashRecord:
    return FlashRecord(serial="S1", mark=MARK, pool=Pool(contact=contact))


def contact_of(flash: Flash) -> str:
    found = flash.load()
    assert found is not None
    return found.pool.contact


def code_of(directory: Path, secret: bytes = SECRET) -> str:
    with pytest.raises(FlashError) as caught:
        Flash(directory, secret).load()
    return caught.value.code


def written(directory: Path, *contacts: str) -> Flash:
    flash = Flash(directory, SECRET)
    for contact in contacts:
        flash.store(record(contact))
    return flash


def newest(flash: Flash) -> Path:
    return flash.slot(flash.generation)


def test_an_unwritten_flash_is_empty_and_the_newest_generation_is_read(tmp_path: Path) -> None:
    assert Flash(tmp_path, SECRET).load() is None
    for count in range(1, 6):
        written_so_far = Flash(tmp_path, SECRET)
        written_so_far.load()
        written_so_far.store(record(f"c{count}"))
        again = Flash(tmp_path, SECRET)
        assert contact_of(again) == f"c{count}"
        assert again.generation == count
    assert len(list(tmp_path.iterdir())) == 2
    assert all(f.stat().st_mode & 0o777 == 0o600 for f in tmp_path.iterdir())


def test_a_damaged_newest_generation_falls_back_to_the_one_before(tmp_path: Path) -> None:
    flash = written(tmp_path, "old", "new")
    newest(flash).write_bytes(newest(flash).read_bytes()[:-7])
    again = Flash(tmp_path, SECRET)
    assert contact_of(again) == "old"
    assert again.fell_back
    again.store(record("next"))
    healed = Flash(tmp_path, SECRET)
    assert contact_of(healed) == "next"
    assert not healed.fell_back, "the damaged slot is the one that is written next"


@pytest.mark.parametrize("kind", ["torn", "empty", "flipped", "noise", "huge"])
def test_a_flash_with_no_readable_generation_is_refused(tmp_path: Path, kind: str) -> None:
    flash = written(tmp_path, "old", "new")
    for file in (flash.slot(0), flash.slot(1)):
        raw = file.read_bytes()
        file.write_bytes(
            {
                "torn": raw[: len(raw) // 2],
                "empty": b"",
                "flipped": raw[:120] + bytes([raw[120] ^ 1]) + raw[121:],
                "noise": b"\x5a" * 500,
                "huge": raw + b"\0" * 5_000_000,
            }[kind]
        )
    assert code_of(tmp_path) == "flash_corrupt"


def test_every_altered_byte_is_noticed(tmp_path: Path) -> None:
    flash = written(tmp_path, "only")
    file, raw = newest(flash), newest(flash).read_bytes()
    for place in range(len(raw)):
        file.write_bytes(raw[:place] + bytes([raw[place] ^ 0x41]) + raw[place + 1 :])
        assert code_of(tmp_path) in ("flash_corrupt", "flash_foreign", "flash_altered"), place


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_noise_is_refused_and_never_crashes(raw: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="cp-") as name:
        directory = Path(name)
        (directory / "flash.1").write_bytes(raw)
        assert code_of(directory) == "flash_corrupt"


def test_one_who_writes_without_the_secret_is_found_out_and_nothing_is_fallen_back_to(
    tmp_path: Path,
) -> None:
    flash = written(tmp_path, "old", "new")
    # Somebody who knows the form but not the secret: right digest, right secret id, wrong seal.
    forger = Flash(tmp_path, SECRET)
    forger.load()
    import callpool.device.flash as module

    real = module._seal
    try:
        module._seal = lambda secret, digest: real(b"guess" * 7, digest)
        forger.store(record("forged"))
    finally:
        module._seal = real
    assert flash.generation == 2
    assert code_of(tmp_path) == "flash_altered"


def test_a_flash_copied_from_another_device_is_foreign(tmp_path: Path) -> None:
    written(tmp_path, "a", "b")
    assert code_of(tmp_path, b"t" * 32) == "flash_foreign"


def test_a_form_of_another_release_is_refused_by_name(tmp_path: Path) -> None:
    class Other(msgspec.Struct):
        hello: int = 1

    flash = Flash(tmp_path, SECRET)
    flash.store(Other())  # type: ignore[arg-type]
    assert code_of(tmp_path) == "flash_unknown_version"


def test_a_full_disk_leaves_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flash = written(tmp_path, "old", "new")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("callpool.device.flash.write_durably", full)
    with pytest.raises(DeviceError) as caught:
        flash.store(record("more"))
    assert caught.value.code == "flash_write_failed"
    monkeypatch.undo()
    assert contact_of(Flash(tmp_path, SECRET)) == "new"
    flash.store(record("more"))
    assert contact_of(Flash(tmp_path, SECRET)) == "more"


WRITER = """
import sys
from pathlib import Path
from callpool.device.flash import Flash
from callpool.device.record import FlashRecord, Marked, Pool
flash = Flash(Path(sys.argv[1]), b"s" * 32)
mark = Marked(mark=0.0, wall=0.0, boottime=0.0, boot_id="b", lead=0.0, behind=False)
found = flash.load()
n = int(found.pool.contact) if found else 0
while True:
    n += 1
    pool = Pool(contact=str(n), certificate="x" * 9000)
    flash.store(FlashRecord(serial="S1", mark=mark, pool=pool))
    print(n, flush=True)
"""


def test_killed_at_any_instant_it_reads_back_what_was_last_acknowledged(tmp_path: Path) -> None:
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            said = [writer.stdout.readline()]
            time.sleep(random.uniform(0.005, 0.05))
            writer.send_signal(signal.SIGKILL)
            said += writer.stdout.read().splitlines()
        acknowledged = int(said[-1])
        flash = Flash(tmp_path, SECRET)
        assert int(contact_of(flash)) in (acknowledged, acknowledged + 1)
        assert not flash.fell_back
