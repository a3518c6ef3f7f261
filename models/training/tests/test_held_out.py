import numpy as np

from vovcam_train.data import Record, load
from vovcam_train.held_out import write

CLASSES = ("person", "car")


def test_a_written_set_reads_as_the_records_it_was_written_from(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 255, (20, 40, 3)).astype(np.uint8)
    record = Record(
        "k", "street", "frame 7", pixels, np.array([[4, 4, 12.5, 12]], np.float32), np.array([0]), np.ones(1, np.float32),
        np.array([[30, 0, 40, 10]], np.float32), np.array([-1]), np.array([1, 0], np.float32),
    )  # fmt: skip
    write([record], CLASSES, tmp_path / "held.tar")
    (back,) = load(tmp_path / "held.tar", CLASSES, 40)
    assert (back.pixels == pixels).all()
    assert back.boxes.tolist() == record.boxes.tolist() and back.labels.tolist() == [0]
    assert sorted(back.ignore_labels.tolist()) == [0, 1], "a region for every class is one for each"
    assert back.background.tolist() == [1, 0] and (back.set, back.original_id) == ("street", "frame 7")
