import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from vovcam_train.annotations import LabelError, read_coco, read_voc
from vovcam_train.data import load

FIXTURES = Path(__file__).resolve().parents[3] / "tests/fixtures/eval"
CLASSES = ("person", "car")
BOX = "<bndbox><xmin>11</xmin><ymin>21</ymin><xmax>60</xmax><ymax>90</ymax></bndbox>"


@pytest.fixture
def voc(tmp_path):
    """Reads the annotation in a VOC folder with one image, a.jpg."""
    for folder in ("Annotations", "JPEGImages"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (100, 100)).save(tmp_path / "JPEGImages/a.jpg")

    def read(xml, name="a.xml"):
        (tmp_path / "Annotations" / name).write_bytes(xml if isinstance(xml, bytes) else xml.encode())
        return load(tmp_path, CLASSES, 100)

    return read


def annotation(objects: str) -> str:
    return f"<annotation><filename>a.jpg</filename>{objects}</annotation>"


@pytest.mark.parametrize(
    "xml",
    [
        annotation(f"<object><name> person </name>{BOX}</object>"),
        annotation(f"<object>\n\t<name>\n\t\tperson\n\t</name>\n\t{BOX}</object>"),
        annotation(f"<object><name><![CDATA[person]]></name>{BOX}</object>"),
        annotation(f"<object><name>Person</name>{BOX}</object>"),
        annotation(f"<object>{BOX}<difficult></difficult><name>person</name></object>"),
        annotation(f"<object><name>person</name><difficult>\n</difficult>{BOX}</object>"),
        annotation(f"<object><name>person</name><difficult>false</difficult>{BOX}</object>"),
        annotation(f"<object><part><name>head</name><bndbox/></part><name>person</name>{BOX}</object>"),
        annotation(f"<object><name>kite</name></object><object><name>person</name>{BOX}</object>"),
        annotation("<object><name>person</name>" + BOX.replace("11", " 1.1e1 ").replace("90", "90.0") + "</object>"),
        annotation(f"<object><name>person</name>{BOX}</object>").title().replace("A.Jpg", "a.jpg"),
        "\ufeff" + annotation(f"<object><name>person</name>{BOX}</object>"),
        '\ufeff\n <?xml version="1.0" encoding="UTF-8"?>' + annotation(f"<object><name>person</name>{BOX}</object>"),
        f'<?xml version="1.0" encoding="UTF-16"?>{annotation(f"<object><name>person</name>{BOX}</object>")}'.encode("utf-16"),
        '<!DOCTYPE annotation [<!ENTITY p "person">]>' + annotation(f"<object><name>&p;</name>{BOX}</object>"),
        f'<annotation xmlns="http://voc"><object><name>p&#101;rson</name>{BOX}</object></annotation>',
        f"<annotation><filename> JPEGImages\\a.jpg </filename><object><name>person</name>{BOX}</object></annotation>",
        f"<annotation><filename>renamed.png</filename><object><name>person</name>{BOX}</object></annotation>",
    ],
)
def test_voc_files_of_many_tools_give_the_box(voc, xml):
    (record,) = voc(xml)
    assert record.boxes.tolist() == [[10, 20, 60, 90]] and record.labels.tolist() == [0]
    assert not len(record.ignore_boxes)


@pytest.mark.parametrize("value", ["1", " 1 ", "true", "YES"])
def test_difficult_objects_are_ignored(voc, value):
    (record,) = voc(annotation(f"<object><name>person</name><difficult>{value}</difficult>{BOX}</object>"))
    assert not len(record.boxes) and record.ignore_boxes.tolist() == [[10, 20, 60, 90]]


@pytest.mark.parametrize(
    ("objects", "reason"),
    [
        ("<object><name>person</name></object>", r"a.xml': object\[0\] 'person': bndbox: missing"),
        (f"<object><name>cat</name></object><object>{BOX}</object>", r"object\[1\] '': name: missing"),
        (
            "<object><name>person</name>" + BOX.replace("<ymin>21</ymin>", "") + "</object>",
            r"object\[0\] 'person': bndbox: ymin: expected a number, got ''",
        ),
        ("<object><name>person</name>" + BOX.replace("60", "nan") + "</object>", "xmax: expected a number, got 'nan'"),
        (f"<object><name>car</name><difficult>2x</difficult>{BOX}</object>", "difficult: expected 0 or 1, got '2x'"),
        ("<object><name>&nbsp;</name></object>", "a.xml': undefined entity"),
        ("<object>", "a.xml': mismatched tag"),
    ],
)
def test_voc_labels_that_cannot_be_read_are_named(voc, objects, reason):
    with pytest.raises(LabelError, match=reason):
        voc(annotation(objects))


def test_voc_boxes_without_an_inside_are_left_out_and_said(voc, capsys):
    (record,) = voc(annotation("<object><name>person</name>" + BOX.replace("60", "5") + "</object>"))
    assert not len(record.boxes)
    assert "1 boxes whose end lies before their beginning were left out" in capsys.readouterr().err


def test_voc_files_are_found_whatever_their_case_and_hidden_ones_are_not(voc, tmp_path):
    xml = annotation(f"<object><name>person</name>{BOX}</object>")
    (tmp_path / "Annotations").joinpath("._a.XML").write_bytes(b"Mac OS X")
    assert len(voc(xml, "a.XML")) == 1
    with pytest.raises(LabelError, match="neither 'b.jpg' nor an image named 'b'"):
        voc(xml.replace("a.jpg", "b.jpg"), "b.xml")


def coco(**changes) -> bytes:
    doc = {
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "categories": [{"id": 1, "name": " person "}, {"id": 2, "name": "kite"}],
        "annotations": [{"id": 5, "image_id": 1, "category_id": 1, "bbox": [10, 20, 50, 70], "iscrowd": False}],
    }
    doc["annotations"][0] |= changes
    return json.dumps(doc).encode()


@pytest.mark.parametrize(
    ("data", "box", "ignored"),
    [
        (coco(), 1, 0),
        (b"\xef\xbb\xbf" + coco(), 1, 0),
        (coco(image_id=1.0, category_id=True, bbox=["10", " 20 ", 50.0, 70], area=float("nan"), segmentation={}), 1, 0),
        (coco(iscrowd=None), 1, 0),
        (coco(iscrowd="1"), 0, 1),
        (coco(category_id=2), 0, 0),
        (coco(bbox=[60, 20, -50, 70]), 0, 0),
    ],
)
def test_coco_files_of_many_tools_are_read(data, box, ignored):
    (photo,) = read_coco(data, "set", CLASSES)
    assert [o[1] for o in photo.objects] == [False] * box + [True] * ignored
    assert all(o == (0, o[1], 10, 20, 60, 90) for o in photo.objects)
    assert photo.labelled == ["person"]


def test_coco_names_are_found_as_tools_write_them(tmp_path):
    (tmp_path / "images/sub").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(tmp_path / "images/sub/a.jpg")
    for name in ("./sub/a.jpg", "sub\\a.jpg", "images/sub/a.jpg"):
        (tmp_path / "annotations.json").write_bytes(coco().replace(b"a.jpg", json.dumps(name)[1:-1].encode()))
        assert len(load(tmp_path, CLASSES, 64)) == 1
    (tmp_path / "annotations.json").write_bytes(coco())
    with pytest.raises(LabelError, match="the image 'a.jpg' is missing"):
        load(tmp_path, CLASSES, 64)


# annotation edits on which vovcam's reader, and this one, differ from pycocotools on purpose
MORE = {("iscrowd", None), ("iscrowd", "null")}
LESS = {("iscrowd", '"0"'), ("id", "NaN"), ("id", "1e400"), ("id", "-Infinity")}


def test_edited_files_are_read_or_refused_as_by_vovcam():
    """The same list as tests/it/faults/annotations.rs."""
    sys.path.insert(0, str(FIXTURES))
    from mutate import edited

    mutations = json.loads((FIXTURES / "mutations.json").read_text())
    tried = 0
    for case in mutations["cases"]:
        if len(case["annotations"]) != 1 or case["detections"]:
            continue
        ((path, value),) = case["annotations"]
        parts = path.split("/")[1:]
        # areas are not used here, and ids of annotations nowhere
        if parts[0] not in ("annotations", "categories") or len(parts) < 3 or parts[1] == "*" or parts[2] == "area":
            continue
        if parts[0] == "annotations" and parts[2] == "id":
            continue
        tried += 1
        refused = isinstance(mutations["results"][case["result"]], str)
        if (parts[2], value) in MORE:
            refused = False
        if (parts[2], value) in LESS or parts[2] == "bbox" and value in ("null", "NaN", "Infinity"):
            refused = True
        data = edited(mutations["annotations"], case["annotations"]).encode()
        if parts[:1] == ["categories"] and parts[2] == "id" and value in ('"x"', '""', '"1"', '" 12 "', '"1_0"', '"nan"'):
            continue  # texts among numbers have no order, which no one needs here
        try:
            read_coco(data, "set", ("person", "car"))
            assert not refused, (path, value)
        except LabelError as error:
            assert refused, (path, value, error)
            assert f"{parts[0]}[{parts[1]}]" in str(error) and parts[2] in str(error)
    assert tried > 150
