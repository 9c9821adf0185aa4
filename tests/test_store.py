"""The run folder: what survives a kill at any point, a full disk, damage and a second process."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from matfl.config.run_config import smoke
from matfl.core.manifest import write_files
from matfl.core.records import MetricRow
from matfl.runs import store

CONFIG = smoke()


def tensors(number: int) -> dict[str, torch.Tensor]:
    return {"a/w": torch.full((3, 4), float(number)), "b/w": torch.arange(5.0) * number, "b/n": torch.tensor(number)}


def add_round(records: store.Records) -> store.Records:
    number = len(records.rounds) + 1
    records.rounds.append({"round": number, "loss": 0.1 * number})
    records.metrics.append(MetricRow(number, "outdoor", "semseg", -1, "global", "mIoU", number / 3))
    records.diagnostics.setdefault("weights", []).append(np.full((2, 2), number, np.float32))
    return records


def stored(path: Path, rounds: int) -> store.Records:
    """A run of `rounds` rounds in `path`."""
    path.mkdir(parents=True, exist_ok=True)
    store.create(path, CONFIG, {"matfl": "0"})
    records = store.Records(static={"layers": np.array(["conv1", "conv2"])})
    for _ in range(rounds):
        store.save_round(path, CONFIG, tensors(len(add_round(records).rounds)), records)
    return records


def assert_round(path: Path, number: int) -> None:
    """Checkpoint and records of `path` both stand at round `number`."""
    loaded, records = store.load_checkpoint(path, CONFIG)
    assert {name: t.tolist() for name, t in loaded.items()} == {n: t.tolist() for n, t in tensors(number).items()}
    assert [row["round"] for row in records.rounds] == list(range(1, number + 1))
    assert [row[-1] for row in records.metrics] == [i / 3 for i in range(1, number + 1)]
    assert [array[0, 0] for array in records.diagnostics["weights"]] == list(range(1, number + 1))
    assert records.static["layers"].tolist() == ["conv1", "conv2"]


def test_what_is_saved_is_loaded(tmp_path):
    stored(tmp_path, 3)
    assert_round(tmp_path, 3)
    assert store.read_config(tmp_path) == CONFIG
    assert store.read_state(tmp_path) == {"round": 3, "rounds": 4, "finished": False, "config": CONFIG.hash}
    assert not store.is_finished(tmp_path, CONFIG)
    assert not list(tmp_path.glob(".*.tmp*"))


def test_loaded_tensors_begin_where_fresh_ones_do(tmp_path):
    stored(tmp_path, 1)
    loaded, _ = store.load_checkpoint(tmp_path, CONFIG)
    places = {name: tensor.data_ptr() % 64 for name, tensor in loaded.items()}
    assert set(places.values()) == {0}, "a product's last bits follow from it, so a resumed run would be another"


def test_same_rounds_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        stored(tmp_path / name, 2)
    for file in ("checkpoint.safetensors", *store.RECORD_FILES, "state.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


@pytest.mark.parametrize("renames", range(8))
def test_a_kill_between_any_two_renames_leaves_one_whole_round(tmp_path, monkeypatch, renames):
    records = stored(tmp_path, 2)
    count, rename = 0, os.replace

    class Killed(BaseException):
        pass

    def replace_or_die(source, target):
        nonlocal count
        if count == renames:
            raise Killed
        count += 1
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace_or_die)
    try:
        store.save_round(tmp_path, CONFIG, tensors(3), add_round(records))
        killed = False
    except Killed:
        killed = True
    monkeypatch.undo()
    assert killed == (renames < 7)
    assert_round(tmp_path, 3 if renames >= 5 else 2)  # the manifest, three records, the checkpoint, ...
    store.save_round(tmp_path, CONFIG, tensors(3), add_round(store.load_checkpoint(tmp_path, CONFIG)[1].cut(2)))
    assert_round(tmp_path, 3)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(122, "Disk quota exceeded")])
def test_a_full_disk_is_a_clear_error_and_keeps_the_last_round(tmp_path, monkeypatch, error):
    records = stored(tmp_path, 2)

    def fail(*args, **kwargs):
        raise error

    for target, name in ((store, "save_file"), (store.np, "savez_compressed"), (os, "fsync")):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, fail)
            with pytest.raises(store.RunError, match=r"the disk is full\. The last finished round is kept; free some"):
                store.save_round(tmp_path, CONFIG, tensors(3), add_round(records.cut(2)))
        assert_round(tmp_path, 2)
        assert not list(tmp_path.glob(".*.tmp*"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_small_tmpfs(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path], check=False)
    if mounted.returncode:
        pytest.skip("cannot mount here")
    try:
        records = stored(tmp_path, 2)
        with pytest.raises(store.RunError, match="the disk is full"):
            store.save_round(tmp_path, CONFIG, {"big": torch.zeros(100_000)}, add_round(records))
        assert_round(tmp_path, 2)
        assert not list(tmp_path.glob(".*.tmp*"))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize("file", ["checkpoint.safetensors", "diagnostics.npz", "metrics.csv", "rounds.jsonl"])
@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "gone"])
def test_damage_is_named(tmp_path, file, damage):
    stored(tmp_path, 2)
    path = tmp_path / file
    content = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 3])
    else:
        content[-3 if file != "diagnostics.npz" else 60] ^= 0xFF
        path.write_bytes(content)
    with pytest.raises(store.RunError, match=r"is damaged .*remove the run's folder|holds no checkpoint"):
        store.load_checkpoint(tmp_path, CONFIG)


def test_weights_are_checked_beyond_their_format(tmp_path):
    stored(tmp_path, 1)
    path = tmp_path / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    content[-40] ^= 1  # one bit of a weight: still a valid safetensors file
    path.write_bytes(content)
    with pytest.raises(store.RunError, match="do not match their checksum"):
        store.load_checkpoint(tmp_path, CONFIG)


def test_pickles_are_not_loaded(tmp_path):
    stored(tmp_path, 1)
    pickled = np.array([{"a": 1}], dtype=object)
    write_files(tmp_path, {"diagnostics.npz": lambda file: np.savez(file, weights=pickled)})  # with its checksum
    with pytest.raises(store.RunError, match="damaged"):
        store.read_diagnostics(tmp_path)


def test_another_config_under_the_same_folder(tmp_path):
    stored(tmp_path, 1)
    other = replace(CONFIG, k=3)
    with pytest.raises(store.RunError, match=r"holds another run \(k=8, not 3\)"):
        store.create(tmp_path, other, {})
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**values, "k": 3}))
    with pytest.raises(store.RunError, match=r"config\.json is damaged \(its contents do not match"):
        store.create(tmp_path, other, {})
    write_files(tmp_path, {"config.json": json.dumps({**values, "k": 3})})
    with pytest.raises(store.RunError, match="was made with another config"):
        store.create(tmp_path, other, {})
    with pytest.raises(store.RunError, match="was made with another config"):
        store.load_checkpoint(tmp_path, other)


def test_a_checkpoint_from_another_run(tmp_path):
    stored(tmp_path / "a", 1)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    other = replace(CONFIG, seed=1)
    (tmp_path / "b" / "config.json").unlink()
    with pytest.raises(store.RunError, match="was made with another config"):
        store.create(tmp_path / "b", other, {})


@pytest.mark.parametrize("content", ["", "[]", "{", '{"k": 0}'])
def test_a_damaged_config(tmp_path, content):
    write_files(tmp_path, {"config.json": content})  # with its checksum
    with pytest.raises(store.RunError, match=r"config\.json"):
        store.read_config(tmp_path)


def test_a_config_of_another_version_names_it(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "provenance.json").write_text('{"matfl": "0.1.0"}')
    with pytest.raises(store.RunError, match=r"matfl 0\.1\.0 wrote it before runs had checksums"):
        store.read_config(tmp_path)
    write_files(tmp_path, {"config.json": '{"mood": "blue"}', "provenance.json": '{"matfl": "9.0"}'})
    with pytest.raises(store.RunError, match=r"'mood' is unknown to this version .* written by matfl 9\.0"):
        store.read_config(tmp_path)


READERS = {
    "config.json": store.read_config,
    "provenance.json": store.read_provenance,
    "metrics.csv": store.read_metrics,
    "rounds.jsonl": store.read_rounds,
    "diagnostics.npz": store.read_diagnostics,
    "state.json": store.read_state,
    "checkpoint.safetensors": lambda path: store.load_checkpoint(path, CONFIG),
    "manifest.json": store.read_metrics,
}


@pytest.mark.parametrize("file", READERS)
def test_no_byte_changes_unnoticed(tmp_path, file):
    """Every bit matters: damage that still parses is found as well."""
    stored(tmp_path, 2)
    content = (tmp_path / file).read_bytes()
    generator = np.random.default_rng(0)
    for place in generator.integers(len(content), size=40):
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(generator.integers(8))
        (tmp_path / file).write_bytes(damaged)
        with pytest.raises(store.RunError, match=r"is damaged|manifest\.json does not list it"):
            READERS[file](tmp_path)
    (tmp_path / file).write_bytes(content)
    READERS[file](tmp_path)


@pytest.mark.parametrize("file", ["metrics.csv", "rounds.jsonl"])
def test_a_lost_last_line_is_noticed(tmp_path, file):
    stored(tmp_path, 2)
    lines = (tmp_path / file).read_text().splitlines(keepends=True)
    (tmp_path / file).write_text("".join(lines[:-1]))
    with pytest.raises(store.RunError, match=f"{file} is damaged"):
        READERS[file](tmp_path)


@pytest.mark.parametrize("file", store.RECORD_FILES)
def test_a_finished_run_that_lost_a_record_names_it(tmp_path, file):
    stored(tmp_path, CONFIG.rounds)
    assert store.is_finished(tmp_path, CONFIG)
    (tmp_path / file).unlink()
    with pytest.raises(store.RunError, match=rf"{file} is damaged \(missing.*--fresh"):
        store.is_finished(tmp_path, CONFIG)


def test_a_lost_checkpoint_is_no_new_run(tmp_path):
    stored(tmp_path, 2)
    (tmp_path / "checkpoint.safetensors").unlink()
    with pytest.raises(store.RunError, match=r"checkpoint\.safetensors is damaged \(missing\).*--fresh"):
        store.stored_round(tmp_path, CONFIG)


def test_files_are_as_readable_as_the_umask_says(tmp_path):
    before = os.umask(0o022)
    try:
        stored(tmp_path, 1)
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()}
    assert set(modes.values()) == {"0o644"}, modes


def test_resumed_sessions_are_written_down(tmp_path):
    stored(tmp_path, 2)
    store.create(tmp_path, CONFIG, {"matfl": "1"})
    assert store.read_provenance(tmp_path) == {"matfl": "0", "resumed": [{"from_round": 2, "matfl": "1"}]}


def test_a_finished_run_is_not_resumed(tmp_path):
    stored(tmp_path, CONFIG.rounds)
    before = (tmp_path / "provenance.json").read_bytes()
    store.create(tmp_path, CONFIG, {"matfl": "1"})
    assert (tmp_path / "provenance.json").read_bytes() == before


def test_discard_keeps_foreign_files(tmp_path):
    stored(tmp_path, 1)
    (tmp_path / "notes.txt").write_text("mine")
    store.discard(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt"}


HOLDER = (
    "import sys, time\nfrom pathlib import Path\nfrom matfl.runs import store\n"
    "with store.locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
)


def test_the_lock_refuses_a_second_process_and_ends_with_its_holder(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(store.RunBusyError, match=f"pid {holder.pid}"), store.locked(tmp_path):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with store.locked(tmp_path, wait=True):
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(store.RunError, match="cannot write"), store.locked(tmp_path / "file" / "run"):
        pass
