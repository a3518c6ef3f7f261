import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from vovcam_train.augment import FINAL, PAD_VALUE, BatchPlan, BatchSet, Canvas, Policy
from vovcam_train.data import (
    FusedRules, Record, apply_fused, apply_teacher, load, load_cached, read_exclusions, read_fused, repeat_factors, scene, split,
)  # fmt: skip

CLASSES = ("person", "car")


def png(width=64, height=32, colour=(200, 10, 10)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "PNG")
    return out.getvalue()


def document(labelled=("person",)):
    return {
        "categories": [{"id": 7, "name": "person"}, {"id": 9, "name": "car"}, {"id": 11, "name": "kite"}],
        "images": [{"id": 1, "file_name": "a.png", "set": "s", "original_id": "x", "labelled": list(labelled)}],
        "annotations": [
            {"image_id": 1, "category_id": 7, "bbox": [8, 8, 16, 16], "iscrowd": 0},
            {"image_id": 1, "category_id": 9, "bbox": [40, 0, 16, 16], "iscrowd": 1},
            {"image_id": 1, "category_id": 11, "bbox": [0, 0, 4, 4]},
        ],
    }


@pytest.fixture
def tar(tmp_path):
    path = tmp_path / "t.tar"
    with tarfile.open(path, "w") as file:
        for name, data in (("t/images/a.png", png()), ("t/annotations.json", json.dumps(document()).encode())):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def test_tar_and_folder_read_the_same(tar, tmp_path):
    with tarfile.open(tar) as file:
        file.extractall(tmp_path, filter="data")
    a, b = load(tar, CLASSES, 32)[0], load(tmp_path / "t", CLASSES, 32)[0]
    assert a.pixels.shape == (16, 32, 3)
    for r in (a, b):
        assert r.boxes.tolist() == [[4, 4, 12, 12]] and r.labels.tolist() == [0]
        assert r.ignore_labels.tolist() == [1] and r.background.tolist() == [1, 0]


def test_decoded_photos_are_kept(tar, tmp_path):
    first = load_cached(tar, CLASSES, 32, set(), tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("t-*.pickle")
    again = load_cached(tar, CLASSES, 32, set(), tmp_path / "cache")
    assert (again[0].pixels == first[0].pixels).all() and again[0].boxes.tolist() == first[0].boxes.tolist()
    assert load_cached(tar, CLASSES, 32, {"s"}, tmp_path / "cache") == [] and file.exists()


def test_excluded_sets_are_left_out(tar):
    assert load(tar, CLASSES, 32, {"s"}) == []


def test_voc_folder(tmp_path):
    (tmp_path / "Annotations").mkdir(), (tmp_path / "JPEGImages").mkdir()
    (tmp_path / "JPEGImages/a.png").write_bytes(png())
    obj = "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>10</xmax><ymax>20</ymax></bndbox></object>"
    xml = "<annotation><filename>a.png</filename>" + obj.format("person", 0) + obj.format("car", 1) + "</annotation>"
    (tmp_path / "Annotations/a.xml").write_text(xml)
    (record,) = load(tmp_path, CLASSES, 352)
    assert record.boxes.tolist() == [[0, 0, 10, 20]] and record.ignore_labels.tolist() == [1]
    assert record.background.tolist() == [1, 1]


def test_unknown_folder_says_what_was_expected(tmp_path):
    with pytest.raises(ValueError, match="expected a COCO tar"):
        load(tmp_path, CLASSES, 352)


def test_teacher_fills_only_unlabelled_classes(tar):
    record = load(tar, CLASSES, 64)[0]
    found = [[0, 0.9, 40, 8, 60, 30], [1, 0.8, 4, 4, 20, 20], [1, 0.3, 30, 4, 36, 10]]
    apply_teacher(record, found, positive=0.5, background=0.4, known=np.ones(2, bool))
    assert record.labels.tolist() == [0, 1] and record.weights.tolist() == pytest.approx([1.0, 0.8])
    assert record.ignore_labels.tolist() == [1, 1]
    assert record.background.tolist() == pytest.approx([1.0, 0.4])


def test_a_class_that_the_teacher_does_not_know_stays_without_background(tar):
    record = load(tar, CLASSES, 64)[0]
    apply_teacher(record, [], positive=0.5, background=0.4, known=np.array([True, False]))
    assert record.background.tolist() == [1.0, 0.0]


def test_fused_boxes_complete_a_record(tar, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps({"classes": ["cat", "car", "person"], "boxes": {"a.png": [
        [0, 0, 0, 9, 9, 0.9],  # not one of ours
        [2, 9, 8, 16, 16, 0.8],  # the set's own person
        [2, 40, 8, 16, 16, 0.7], [2, 20, 0, 8, 8, 0.3],  # people that the set does not have: disputed, believed
        [1, 41, 0, 15, 16, 0.45], [1, 0, 20, 10, 8, 0.2], [1, 30, 20, 10, 8, 0.14],
    ]}}))  # fmt: skip
    record = load(tar, CLASSES, 32)[0]  # half the stored size
    fused = read_fused(tmp_path / "t.json", CLASSES)
    counts = apply_fused(record, fused[record.key], FusedRules(), np.ones(2, bool))
    assert counts == {"agreed": 1, "added": 1, "unsure": 1, "disputed": 1}
    assert record.labels.tolist() == [0, 1] and record.weights.tolist() == pytest.approx([1.0, 0.75])
    assert record.boxes[1].tolist() == [20.5, 0, 28, 8]
    # the set's undecided car at 40,0 has become a box; a disputed person and an unsure car are without loss
    assert record.ignore_labels.tolist() == [0, 1] and record.ignore_boxes[0].tolist() == [20, 4, 28, 12]
    assert record.background.tolist() == pytest.approx([1.0, 0.95])


def test_the_class_of_a_set_counts_against_a_teachers(tar):
    record = load(tar, CLASSES, 64)[0]
    record.labels[:] = 1  # the set's box is a car, and it labels people
    on_it = [[0, 0.9, 8, 8, 24, 24]]
    assert apply_fused(record, on_it, FusedRules(), np.ones(2, bool))["disputed"] == 0
    assert len(record.boxes) == 1 and record.ignore_labels.tolist() == [1]
    record.background[0] = 0  # it does not label people: nobody knows
    assert apply_fused(record, on_it, FusedRules(), np.ones(2, bool))["unsure"] == 1
    assert len(record.boxes) == 1 and record.ignore_labels.tolist() == [1, 0]


def test_photos_are_left_out_by_name(tmp_path):
    (tmp_path / "leaks.txt").write_text("# why\n\nvoc 2007_1\nroad a b.jpg\n")
    assert read_exclusions(tmp_path / "leaks.txt") == {("voc", "2007_1"), ("road", "a b.jpg")}


def test_frames_of_one_video_are_one_scene(tar):
    record = load(tar, CLASSES, 32)[0]

    def name(original_id):
        record.original_id = original_id
        return scene(record)

    for one, other in [
        ("es/adit_mp4-1232_jpg.rf.5d7c48a2.jpg", "mages/adit_mp4-9_jpg.rf.00ff.jpg"),
        ("105304_007-_3330_jpg.rf.29cb.jpg", "105304_007-_3030_jpg.rf.3bbd.jpg"),
        ("b_V0030_I0001720_jpg.rf.47a3.jpg", "ges/b_V0030_I0005480_jpg.rf.0b4f.jpg"),
        ("/china_frame7026_jpg.rf.7c0a.jpg", "china_frame1_jpg.rf.ccbd.jpg"),
    ]:
        assert name(one) == name(other)
    assert name("2009_003697") != name("2010_002676")
    assert name("cam1_mp4-1_jpg.rf.1.jpg") != name("cam2_mp4-1_jpg.rf.1.jpg")


def test_split_keeps_scenes_together(tar):
    records = [load(tar, CLASSES, 32)[0] for _ in range(40)]
    for i, r in enumerate(records):
        r.original_id = f"cam{i // 2}_mp4-{i}_jpg.rf.{i:04x}.jpg"
    train, held = split(records, 0.3)
    names = [{r.original_id.split("_")[0] for r in part} for part in (train, held)]
    assert held and not names[0] & names[1]


def test_rare_classes_repeat(tar):
    records = [load(tar, CLASSES, 32)[0] for _ in range(100)]
    records[0].labels = np.array([1])
    factors = repeat_factors(records, 2, threshold=0.09, most=3.0)
    assert factors[0] == pytest.approx(3.0) and factors[1] == 1.0
    assert repeat_factors(records, 2, 0.09, 3.0, {"s": 0.5})[0] == pytest.approx(1.5)


def test_batch_masks_padding_and_determinism(tar):
    record = load(tar, CLASSES, 64)[0]
    plan = BatchPlan([[0]], 64, Policy(mosaic=0.0, zoom=(1.0, 1.0), aspect=0.0, colour=False), 3)
    batch = BatchSet([record])[plan]
    top = int((batch["pixels"][0, 0] != 114).nonzero()[0, 0])
    width = batch["boxes"][0, 0, 2] - batch["boxes"][0, 0, 0]
    assert batch["pixels"].shape == (1, 3, 64, 64) and float(width) == pytest.approx(16)
    assert float(batch["boxes"][0, 0, 1]) == pytest.approx(8 + top, abs=1.0)
    assert batch["background"][0, 0].min() == 1 and batch["background"][0, 1].max() == 0
    again = BatchSet([record])[plan]
    assert all((batch[k] == again[k]).all() for k in batch)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scale", [0.3, 0.45, 0.91, 1.0, 1.3])
def test_what_is_drawn_is_where_its_box_is(scale, flip):
    pixels = np.zeros((101, 151, 3), np.uint8)  # odd sides: halving them must not shift anything
    pixels[40:60, 100:120] = 255
    box, none = np.array([[100, 40, 120, 60]], np.float32), np.zeros((0, 4), np.float32)
    label = np.zeros(1, np.int64)
    record = Record("a", "s", "a", pixels, box, label, np.ones(1, np.float32), none, label[:0], np.ones(1, np.float32))
    canvas = Canvas(224, 1)
    matrix = np.array([[-scale if flip else scale, 0, 200.0 if flip else 10.0], [0, scale, 20.0]])
    canvas.paste(record, (0, 0, 224, 224), matrix, flip)
    bright = (canvas.pixels[..., 0].astype(float) - PAD_VALUE).clip(0)  # black and padding are nothing
    centre = [(bright.sum(axis) * (np.arange(224) + 0.5)).sum() / bright.sum() for axis in (0, 1)]
    x1, y1, x2, y2 = canvas.boxes[0]
    assert centre == pytest.approx([(x1 + x2) / 2, (y1 + y2) / 2], abs=0.15)


def test_mosaic_boxes_stay_on_the_canvas(tar):
    record = load(tar, CLASSES, 64)[0]
    for seed in range(20):
        batch = BatchSet([record])[BatchPlan([[0, 0, 0, 0]], 96, Policy(), seed)]
        real = batch["boxes"][0][batch["weights"][0] > 0]
        assert (real >= 0).all() and (real <= 96).all() and (real[:, 2:] - real[:, :2] >= 3).all()
    assert FINAL.mosaic == 0.0
