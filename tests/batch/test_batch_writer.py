"""What lies in the output folder: whole pictures, a manifest that is true, and a page that shows them."""

import errno
import hashlib
import html
import json
import os
import re
import resource
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ditmesh.batch import sheet
from ditmesh.batch.folder import LOCK, MANIFEST, held, refusal
from ditmesh.batch.manifest import Manifest, is_among, records
from ditmesh.batch.pictures import Picture, Recipe
from ditmesh.batch.writer import BadName, remove_unfinished, write
from ditmesh.job.picture import encode

PIXELS = np.random.default_rng(0).random((5, 7, 3), dtype=np.float32)
FACTS = {"prompt": "a dög <b>", "seed": 3, "settings": {"height": 5}}


def put(manifest: Manifest, index: int, **facts) -> dict:
    """Write a picture and enter it."""
    file = facts.get("file", f"{index:06d}.png")
    record = {
        "index": index,
        "image": 0,
        "prompt": 'a <b>dog</b> & "cat"',
        "noise_seed": index,
        "identity": f"{index:016x}",
    }
    record |= facts | write(manifest.folder, file, encode(PIXELS, ".png", {}))
    manifest.append(record)
    return record


def test_a_png_says_what_it_was_made_from(tmp_path):
    written = write(tmp_path, "deep/er/a.png", encode(PIXELS, ".png", FACTS))
    data = (tmp_path / "deep/er/a.png").read_bytes()
    assert written == {"file": "deep/er/a.png", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    with Image.open(tmp_path / "deep/er/a.png") as picture:
        assert np.array_equal(np.asarray(picture), (PIXELS * 255).round().astype(np.uint8))
        texts = picture.text
    assert (texts["prompt"], texts["seed"], json.loads(texts["settings"])) == ("a dög <b>", "3", {"height": 5})


def test_a_jpeg_says_it_too_and_has_no_transparency(tmp_path):
    with_alpha = np.concatenate([PIXELS, PIXELS[..., :1]], axis=-1)
    write(tmp_path, "a.jpg", encode(with_alpha, ".jpg", FACTS))
    with Image.open(tmp_path / "a.jpg") as picture:
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (7, 5))
        assert json.loads(picture.info["comment"]) == FACTS


def test_a_full_disk_leaves_no_half_file_and_says_so(tmp_path, monkeypatch):
    def no_space(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    write(tmp_path, "a.png", b"before")
    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(ValueError, match=r"cannot write .*a\.png: No space left on device\. .*goes on from there"):
        write(tmp_path, "a.png", b"after")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"before"
    with pytest.raises(ValueError, match="No space left on device"):
        Manifest(tmp_path).begin(resume=True)
    with pytest.raises(ValueError, match="No space left on device"):
        Manifest(tmp_path).append({})


def test_a_file_that_the_system_cuts_short_is_not_left(tmp_path):
    write(tmp_path, "a.png", b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(ValueError, match=r"cannot write .*a\.png: File too large\."):
            write(tmp_path, "a.png", b"after" * 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"before"


def test_a_link_does_not_lead_out_of_the_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="would lie outside"):
        write(tmp_path / "out", "link/a.png", b"")
    assert not (tmp_path / "a.png").exists()


def test_what_a_killed_process_left_half_is_removed(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".a.png.unfinished").touch()
    (tmp_path / "b.png").touch()
    remove_unfinished(tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {"deep", "b.png"}


def test_the_manifest_trusts_only_what_is_whole_and_there(tmp_path):
    manifest = Manifest(tmp_path)
    for index in range(5):
        put(manifest, index)
    (tmp_path / "000001.png").unlink()
    (tmp_path / "000003.png").write_bytes(b"cut")
    with manifest.path.open("ab") as file:
        file.write(b'no record\n{"index": 9, "identity": "00')  # killed while it wrote
    finished = Manifest(tmp_path).begin(resume=True)
    assert finished.tolist() == [0, 2, 4]
    assert [is_among(i, finished) for i in range(6)] == [True, False, True, False, True, False]
    assert [record["index"] for _, record in records(manifest.path)] == [0, 2, 4]
    assert Manifest(tmp_path).begin(resume=False).tolist() == []
    assert manifest.path.read_bytes() == b""


@pytest.mark.parametrize(
    "odd",
    [
        {"identity": 7},
        {"identity": "no number"},
        {"file": "../../etc/passwd"},
        {"file": "/etc/passwd"},
        {"file": "a\0b"},
        {"file": ["0.png"]},
        {"index": "first"},
        {"index": 10**30},
        {"noise_seed": True},
        {"prompt": None},
        {"sha256": 3},
    ],
    ids=str,
)
def test_a_record_that_is_none_is_passed_over(tmp_path, odd):
    manifest = Manifest(tmp_path)
    whole = put(manifest, 0)
    with manifest.path.open("a") as file:
        file.write(json.dumps(whole | odd) + "\n[]\n3\n" + "[" * 10_000 + "\n")
        file.write(json.dumps({name: x for name, x in whole.items() if name not in odd}) + "\n")
    assert Manifest(tmp_path).begin(resume=True).tolist() == [0]
    assert manifest.finish() == 1
    assert [path.name for path in sheet.show(tmp_path)] == ["contact.png", "index.html"]


def test_a_file_with_other_bytes_is_found_out_and_kept_beside_what_is_drawn_again(tmp_path):
    manifest = Manifest(tmp_path)
    for index in range(3):
        put(manifest, index)
    data = bytearray((tmp_path / "000001.png").read_bytes())
    data[40] ^= 1
    (tmp_path / "000001.png").write_bytes(data)
    again = Manifest(tmp_path)
    assert again.begin(resume=True).tolist() == [0, 2]
    assert again.damaged == ["000001.png"]
    assert (tmp_path / "000001.png.damaged").read_bytes() == data
    (tmp_path / "000002.png").write_bytes(b"broken while the job runs")
    assert len(sheet.show(tmp_path)) == 2


def test_of_two_records_of_one_file_the_last_counts(tmp_path):
    manifest = Manifest(tmp_path)
    put(manifest, 0, identity="a" * 16)
    with (tmp_path / "other.png").open("wb") as file:
        file.write(b"x")
    manifest.enter({"index": 0, "image": 0, "prompt": "b", "noise_seed": 1, "identity": "b" * 16}, "000000.png", b"new")
    assert Manifest(tmp_path).begin(resume=True).tolist() == [int("b" * 16, 16)]
    assert (tmp_path / "000000.png").read_bytes() == b"new"
    assert not (tmp_path / "000000.png.damaged").exists()


def test_a_job_killed_between_the_record_and_the_picture_draws_it_again(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    manifest = Manifest(tmp_path)
    put(manifest, 0)
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        record = {"index": 1, "image": 0, "prompt": "b", "noise_seed": 1, "identity": "1" * 16}
        with pytest.raises(KeyboardInterrupt):
            manifest.enter(record, "000001.png", b"new")
    assert [record["index"] for _, record in records(manifest.path)] == [0, 1]
    remove_unfinished(tmp_path)
    assert Manifest(tmp_path).begin(resume=True).tolist() == [0]
    assert refusal(tmp_path, "000001.png", replaces=False) == ""


def test_a_name_that_no_file_can_have_costs_only_itself(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").mkdir()
    (tmp_path / "link").symlink_to(tmp_path.parent)
    for name in ("a.png/b.png", "b.png", "x" * 300 + ".png", "link/a.png", "/".join(["y" * 200] * 30) + ".png"):
        assert refusal(tmp_path, name, replaces=True), name
        with pytest.raises(BadName):
            write(tmp_path, name, b"")
    assert "there, and is not this picture" in refusal(tmp_path, "a.png", replaces=False)
    assert refusal(tmp_path, "a.png", replaces=True) == refusal(tmp_path, "c/d.png", replaces=False) == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "link"]


def test_a_second_job_is_told_who_holds_the_folder_until_that_ends_however_it_does(tmp_path):
    script = "import time; from pathlib import Path; from ditmesh.batch.folder import held\n"
    script += f"with held(Path({str(tmp_path)!r})): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=rf"another job draws into this folder \(process {holder.pid} of "),
            held(tmp_path),
        ):
            pass
    finally:
        holder.kill()
        holder.communicate()
    with held(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK).read_text()
    assert list(tmp_path.iterdir()) == []


def test_another_seed_number_of_steps_or_prompt_is_another_picture():
    said = Recipe(call={"num_inference_steps": 4}, seed=1)
    picture = Picture(0, 0, 1, "x", said.call, 1, "0.png")
    others = [replace(picture, seed=2), replace(picture, call={"num_inference_steps": 5}), replace(picture, prompt="y")]
    assert len({said.identity(one) for one in [picture, *others]}) == 4
    assert said.identity(replace(picture, line=2)) == said.identity(picture)


def test_the_manifest_ends_in_the_order_of_the_rows_with_each_file_once(tmp_path):
    manifest = Manifest(tmp_path)
    for index in (3, 0, 2):
        put(manifest, index)
    put(manifest, 0, prompt="another")
    manifest.finish()
    found = [(record["index"], record["prompt"]) for _, record in records(manifest.path)]
    assert [index for index, _ in found] == [0, 2, 3]
    assert found[0][1] == "another"


def test_the_page_and_the_sheet_show_every_picture_up_to_a_limit(tmp_path, monkeypatch):
    manifest = Manifest(tmp_path)
    for index in range(5):
        put(manifest, index)
    put(manifest, 5, file='d&"g/a #1.png', prompt="<script>alert(1)</script>")
    assert [path.name for path in sheet.show(tmp_path)] == ["contact.png", "index.html"]
    page = (tmp_path / "index.html").read_text("utf-8")
    assert page.count("<figure>") == 6
    assert "<script>" not in page
    assert html.escape("<script>alert(1)</script>") in page
    assert 'src="d%26%22g/a%20%231.png"' in page
    with Image.open(tmp_path / "contact.png") as opened:
        whole = opened.size
    monkeypatch.setattr(sheet, "MOST", 2)
    sheet.show(tmp_path)
    page = (tmp_path / "index.html").read_text("utf-8")
    assert page.count("<figure>") == 2
    assert re.search(f"the first 2 of 6 pictures; {MANIFEST}", page)
    with Image.open(tmp_path / "contact.png") as opened:
        assert opened.size[1] < whole[1]


def test_of_nothing_there_is_no_page(tmp_path):
    assert sheet.show(tmp_path) == []
