"""Labels as tools write them: COCO JSON and VOC XML, by the rules of `vovcam eval` (docs/evaluation.md).

What pycocotools reads has the same meaning here; what cannot be a label is a `LabelError` that names the
file, the object and the field. Boxes that cannot be learned from are left out and counted on stderr.
"""

from __future__ import annotations

import codecs
import json
import math
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

VOC_NAMES = {"motorbike": "motorcycle"}
NO = {"", "0", "false", "no", "unspecified"}
YES = {"1", "true", "yes"}


class LabelError(ValueError):
    """A label that cannot be read."""


@dataclass
class Photo:
    """The labels of one image. `objects`: (class index, ignored, x1, y1, x2, y2) in pixels of the stored
    image. `info` are the image's own fields."""

    file_name: str
    info: dict
    objects: list[tuple] = field(default_factory=list)
    labelled: list[str] = field(default_factory=list)


def _warn(origin, count: int, what: str) -> None:
    if count:
        print(f"'{origin}': {count} {what}", file=sys.stderr)


def read_coco(data: bytes, origin, classes) -> list[Photo]:
    """The images of an annotation file with the boxes of `classes`, in the file's order."""
    try:
        doc = json.loads(data.decode("utf-8-sig"))
    except ValueError as error:  # of the bytes or of the JSON
        raise LabelError(f"'{origin}': {error}") from None
    if not isinstance(doc, dict):
        raise LabelError(f"'{origin}': expected an object, got {_shown(doc)}")
    categories = {}
    for where, category in _elements(doc, "categories", origin):
        key = _id(category, "id", where)
        name = category.get("name")
        categories[key] = str(key if name is None else name).strip()
    index = {name: i for i, name in enumerate(classes)}
    photos = _coco_images(doc, origin, [n for n in categories.values() if n in index])
    unlisted = inverted = 0
    for where, annotation in _elements(doc, "annotations", origin, required=False):
        image = _id(annotation, "image_id", where, reference=True)
        category = _id(annotation, "category_id", where, reference=True)
        if image not in photos or category not in categories:
            unlisted += 1
            continue
        x, y, w, h = _bbox(annotation, where)
        ignored = _crowd(annotation, where)
        if (cls := index.get(categories[category])) is None:
            continue
        if w < 0 or h < 0:
            inverted += 1
            continue
        photos[image].objects.append((cls, ignored, x, y, x + w, y + h))
    total = len(doc.get("annotations") or [])
    if unlisted and unlisted == total:
        raise LabelError(f"'{origin}': not one of the {total} annotations is of an image and a category of the file")
    _warn(origin, unlisted, "boxes of images or categories that the file does not list were left out")
    _warn(origin, inverted, "boxes with a negative width or height were left out")
    return list(photos.values())


def _coco_images(doc: dict, origin, present: list[str]) -> dict:
    photos = {}
    for where, image in _elements(doc, "images", origin):
        key = _id(image, "id", where)
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            raise LabelError(f"{where}: file_name: expected a text, got {_shown(name)}")
        if key in photos and photos[key].file_name != name:
            raise LabelError(f"{where}: id: '{photos[key].file_name}' has it too, and '{name}' is another image")
        labelled = image.get("labelled")
        if labelled is None:
            labelled = present
        elif not isinstance(labelled, list) or not all(isinstance(n, str) for n in labelled):
            raise LabelError(f"{where}: labelled: expected a list of class names, got {_shown(labelled)}")
        photos[key] = Photo(name, image, labelled=[n.strip() for n in labelled])
    return photos


def _elements(doc: dict, name: str, origin, required: bool = True):
    """(where it is, object) for each element of a list of the file."""
    if name not in doc:
        if required:
            raise LabelError(f"'{origin}': '{name}' is missing")
        return
    if not isinstance(doc[name], list):
        raise LabelError(f"'{origin}': {name}: expected a list, got {_shown(doc[name])}")
    for i, element in enumerate(doc[name]):
        where = f"'{origin}': {name}[{i}]"
        if not isinstance(element, dict):
            raise LabelError(f"{where}: expected an object, got {_shown(element)}")
        yield (f"{where} (id {element['id']!r})" if "id" in element else where), element


def _id(element: dict, name: str, where: str, reference: bool = False):
    """A number or a text. A reference may also be what refers to nothing: null, or not finite."""
    if name not in element:
        raise LabelError(f"{where}: {name}: missing")
    value = element[name]
    nothing = value is None or isinstance(value, float) and not math.isfinite(value)
    if isinstance(value, (list, dict)) or nothing and not reference:
        raise LabelError(f"{where}: {name}: expected a number or a text, got {_shown(value)}")
    return value


def _bbox(annotation: dict, where: str) -> list[float]:
    value = annotation.get("bbox")
    try:
        if isinstance(value, list) and len(value) == 4 and not any(v is None for v in value):
            box = [float(v) for v in value]
            if all(map(math.isfinite, box)):
                return box
    except (TypeError, ValueError, OverflowError):
        pass
    raise LabelError(f"{where}: bbox: expected [x, y, width, height] in finite numbers, got {_shown(value)}")


def _crowd(annotation: dict, where: str) -> bool:
    """pycocotools asks twice, whether the value is true and for its whole part: both must agree."""
    value = annotation.get("iscrowd")
    if value is None:
        return False
    try:
        count = int(value)
        if 0 <= count <= 255 and bool(value) == bool(count):
            return bool(count)
    except (TypeError, ValueError, OverflowError):
        pass
    raise LabelError(f"{where}: iscrowd: expected 0 or 1, false or true, got {_shown(value)}")


def _shown(value) -> str:
    """A value for a message: short, and on one line."""
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "…"


def read_voc(file: Path, classes) -> Photo:
    """The labels of one image. Names of elements and classes count whatever their case, and without
    the blanks around them. `file_name` may be empty: the image has the name of the XML file then."""
    try:
        # blanks before the declaration are an error to the parser
        root = ET.fromstring(file.read_bytes().removeprefix(codecs.BOM_UTF8).lstrip(b" \t\r\n"))
    except (ET.ParseError, LookupError, ValueError) as error:
        raise LabelError(f"'{file}': {error}") from None
    index = {name.lower(): i for i, name in enumerate(classes)}
    photo = Photo(_text(root, "filename"), {"set": file.parents[1].name, "original_id": file.stem})
    inverted = number = 0
    for element in root.iter():
        if _tag(element) != "object":
            continue
        name = _text(element, "name").lower()
        where = f"'{file}': object[{number}] '{name}'"
        number += 1
        if not name:
            raise LabelError(f"{where}: name: missing")
        if (cls := index.get(VOC_NAMES.get(name, name))) is None:
            continue
        x1, y1, x2, y2 = _corners(element, where)
        if x2 < x1 or y2 < y1:
            inverted += 1
            continue
        # VOC counts pixels from 1 and includes the last one
        photo.objects.append((cls, _difficult(element, where), x1 - 1, y1 - 1, x2, y2))
    _warn(file, inverted, "boxes whose end lies before their beginning were left out")
    return photo


def _tag(element) -> str:
    """Its name without a namespace, in lower case."""
    return element.tag.rpartition("}")[2].lower() if isinstance(element.tag, str) else ""


def _child(element, name: str):
    """The first child of this name: parts of an object have names and boxes of their own, one level below."""
    return next((child for child in element if _tag(child) == name), None)


def _text(element, name: str) -> str:
    child = _child(element, name)
    return "" if child is None else "".join(child.itertext()).strip()


def _corners(element, where: str) -> list[float]:
    box = _child(element, "bndbox")
    if box is None:
        raise LabelError(f"{where}: bndbox: missing")
    corners = []
    for name in ("xmin", "ymin", "xmax", "ymax"):
        text = _text(box, name)
        try:
            corners.append(float(text))
        except ValueError:
            corners.append(math.nan)
        if not math.isfinite(corners[-1]):
            raise LabelError(f"{where}: bndbox: {name}: expected a number, got '{text}'")
    return corners


def _difficult(element, where: str) -> bool:
    text = _text(element, "difficult").lower()
    if text not in NO | YES:
        raise LabelError(f"{where}: difficult: expected 0 or 1, got '{text}'")
    return text in YES
