//! Reads a COCO annotation file, by pycocotools' rules: what it takes has the same meaning here, and
//! what it stumbles over is an error that names the object and the field. docs/evaluation.md lists
//! the rules and the few places where this reader differs on purpose.

use super::dataset::{Category, ImageRecord, Truth};
use super::id::Id;
use super::json::{Reader, given, number, number_in, shown};
use crate::geometry::Size;
use jiter::JsonValue;
use std::collections::HashMap;

/// Checked annotations, sorted by id.
pub(super) struct Parsed {
    pub(super) categories: Vec<Category>,
    pub(super) images: Vec<ImageRecord>,
    /// What was left out or looks wrong, for the report.
    pub(super) notes: Vec<String>,
    /// Why no detector can be run on the images, if so: their boxes can be evaluated all the same.
    pub(super) unreadable: Option<String>,
}

/// Reads the file.
///
/// # Errors
/// Where, expected and got.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, String> {
    let raw = RawFile::read(bytes)?;
    let categories = categories(raw.categories)?;
    let (mut images, unreadable) = images(raw.images, &categories)?;
    let notes = add_truths(&mut images, &categories, raw.annotations)?;
    Ok(Parsed {
        categories,
        images,
        notes,
        unreadable,
    })
}

/// The lists of the file in its order, each element checked as far as it can be without the others.
#[derive(Default)]
struct RawFile {
    images: Vec<RawImage>,
    annotations: Vec<RawAnnotation>,
    categories: Vec<Category>,
}

struct RawImage {
    id: Id,
    file_name: Option<String>,
    size: Option<Size>,
    labelled: Option<Vec<String>>,
}

struct RawAnnotation {
    /// `None` refers to nothing.
    image: Option<Id>,
    category: Option<Id>,
    /// Why it cannot be evaluated, which matters only if its image and its category are listed.
    object: Result<Object, Box<str>>,
}

struct Object {
    bbox: [f64; 4],
    area: f64,
    ignore: bool,
}

const IMAGES: &str = "images";
const ANNOTATIONS: &str = "annotations";
const CATEGORIES: &str = "categories";

impl RawFile {
    fn read(bytes: &[u8]) -> Result<RawFile, String> {
        let (mut images, mut annotations, mut categories) = (None, None, None);
        let mut reader = Reader::new(bytes)?;
        reader.object(&[IMAGES, ANNOTATIONS, CATEGORIES], |reader, list| {
            // the last of equal keys counts
            match list {
                0 => images = Some(elements(reader, IMAGES, image)?),
                1 => annotations = Some(elements(reader, ANNOTATIONS, annotation)?),
                _ => categories = Some(elements(reader, CATEGORIES, category)?),
            }
            Ok(())
        })?;
        reader.end()?;
        let missing = |list: &str| format!("'{list}' is missing");
        Ok(RawFile {
            images: images.ok_or_else(|| missing(IMAGES))?,
            annotations: annotations.unwrap_or_default(),
            categories: categories.ok_or_else(|| missing(CATEGORIES))?,
        })
    }
}

/// A list of the file. An error says which element it is of.
fn elements<T>(
    reader: &mut Reader,
    list: &str,
    read: impl Fn(&mut Reader, usize) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let mut elements = Vec::new();
    reader.expect_list().map_err(|e| format!("{list}: {e}"))?;
    reader.list(|reader, index| {
        elements.push(read(reader, index)?);
        Ok(())
    })?;
    Ok(elements)
}

/// An element by its place and its id: `annotations[3] (id 17)`.
fn named(list: &str, index: usize, id: Option<&JsonValue>) -> String {
    match id.map(Id::read) {
        Some(Ok(id)) => format!("{list}[{index}] (id {id})"),
        _ => format!("{list}[{index}]"),
    }
}

/// Reads a field that must be there.
pub(super) fn required<T>(
    field: &str,
    value: Option<&JsonValue>,
    read: impl Fn(&JsonValue) -> Result<T, String>,
) -> Result<T, String> {
    let value = value.ok_or_else(|| format!("{field}: missing"))?;
    read(value).map_err(|reason| format!("{field}: {reason}"))
}

fn category(reader: &mut Reader, index: usize) -> Result<Category, String> {
    let of = |reason| format!("{CATEGORIES}[{index}]: {reason}");
    let [id, name] = reader.fields(&["id", "name"]).map_err(of)?;
    let id = required("id", id.as_ref(), Id::read).map_err(of)?;
    let name = match given(&name) {
        Some(JsonValue::Str(name)) => name.trim().to_owned(),
        // pycocotools needs no names
        Some(other) => shown(other),
        None => match &id {
            Id::Text(text) => text.to_string(),
            id => id.to_string(),
        },
    };
    Ok(Category { id, name })
}

fn image(reader: &mut Reader, index: usize) -> Result<RawImage, String> {
    let fields = reader.fields(&["id", "file_name", "width", "height", "labelled"]);
    let [id, file_name, width, height, labelled] =
        fields.map_err(|reason| format!("{IMAGES}[{index}]: {reason}"))?;
    let of = |reason| format!("{}: {reason}", named(IMAGES, index, id.as_ref()));
    let labelled = given(&labelled).map(class_names).transpose();
    let size = given(&width)
        .and_then(side)
        .zip(given(&height).and_then(side));
    Ok(RawImage {
        id: required("id", id.as_ref(), Id::read).map_err(of)?,
        labelled: labelled.map_err(of)?,
        size: size.map(|(width, height)| Size::new(width, height)),
        file_name: match file_name {
            Some(JsonValue::Str(name)) => Some(name.into_owned()),
            _ => None,
        },
    })
}

/// A side of an image. Tools write -1, 0 or nothing where they do not know it, and pycocotools does
/// not look: anything but a positive whole number is unknown.
fn side(value: &JsonValue) -> Option<u32> {
    let side = match value {
        JsonValue::Str(text) => number_in(text),
        value => number(value),
    };
    side.filter(|side| *side >= 1.0 && *side <= f64::from(u32::MAX) && side.fract() == 0.0)
        .map(|side| side as u32)
}

fn class_names(value: &JsonValue) -> Result<Vec<String>, String> {
    let name = |name: &JsonValue| match name {
        JsonValue::Str(name) => Some(name.trim().to_owned()),
        _ => None,
    };
    let names = match value {
        JsonValue::Array(names) => names.iter().map(name).collect::<Option<_>>(),
        _ => None,
    };
    names.ok_or_else(|| {
        format!(
            "labelled: expected a list of class names, got {}",
            shown(value)
        )
    })
}

fn annotation(reader: &mut Reader, index: usize) -> Result<RawAnnotation, String> {
    let fields = reader.fields(&["id", "image_id", "category_id", "bbox", "area", "iscrowd"]);
    let [id, image, category, bbox, area, iscrowd] =
        fields.map_err(|reason| format!("{ANNOTATIONS}[{index}]: {reason}"))?;
    let of = |reason| format!("{}: {reason}", named(ANNOTATIONS, index, id.as_ref()));
    let object = object(bbox.as_ref(), given(&area), given(&iscrowd));
    Ok(RawAnnotation {
        image: required("image_id", image.as_ref(), Id::reference).map_err(of)?,
        category: required("category_id", category.as_ref(), Id::reference).map_err(of)?,
        object: object.map_err(|reason| of(reason).into()),
    })
}

fn object(
    bbox: Option<&JsonValue>,
    area: Option<&JsonValue>,
    iscrowd: Option<&JsonValue>,
) -> Result<Object, String> {
    // numpy, through which pycocotools reads these, takes texts that hold numbers
    let bbox = required("bbox", bbox, |bbox| {
        corners(bbox, |value| match value {
            JsonValue::Str(text) => number_in(text),
            value => number(value),
        })
    })?;
    let ignore = iscrowd.map_or(Ok(false), crowd)?;
    let area = match area {
        Some(area) if !ignore => {
            number(area).ok_or_else(|| format!("area: expected a number, got {}", shown(area)))?
        }
        // nothing looks at the area of a crowd
        _ => bbox[2] * bbox[3],
    };
    Ok(Object { bbox, area, ignore })
}

/// `[x, y, width, height]`. A value that is not finite is refused: its overlap with anything is not
/// a number, which pycocotools takes for a match with every detection.
pub(super) fn corners(
    value: &JsonValue,
    read: impl Fn(&JsonValue) -> Option<f64>,
) -> Result<[f64; 4], String> {
    let wrong = || {
        let got = shown(value);
        format!("expected [x, y, width, height] in finite numbers, got {got}")
    };
    let JsonValue::Array(items) = value else {
        return Err(wrong());
    };
    let numbers = items
        .iter()
        .map(|item| read(item).filter(|number| number.is_finite()));
    let numbers: Vec<f64> = numbers.collect::<Option<_>>().ok_or_else(wrong)?;
    numbers.try_into().map_err(|_| wrong())
}

/// `iscrowd`: false, true, or a count from 0 to 255 of which all but 0 mean a crowd; a text may hold
/// the count. pycocotools asks twice, once whether the value is true and once for its whole part:
/// what would be a crowd for one of the two alone, such as `"0"` and 0.5, is refused.
fn crowd(value: &JsonValue) -> Result<bool, String> {
    let count = match value {
        JsonValue::Str(text) => {
            number_in(text).filter(|count| count.fract() == 0.0 && *count != 0.0)
        }
        value => number(value),
    };
    count
        .map(|count| (count != 0.0, count.trunc()))
        .filter(|&(is_true, count)| (0.0..=255.0).contains(&count) && is_true == (count != 0.0))
        .map(|(is_true, _)| is_true)
        .ok_or_else(|| {
            let got = shown(value);
            format!("iscrowd: expected 0 or 1, false or true, got {got}")
        })
}

/// By ascending id; of equal ids the last, as pycocotools has it. Equal names are allowed: some
/// exports have a root category that is named like one of its members.
fn categories(mut categories: Vec<Category>) -> Result<Vec<Category>, String> {
    one_kind("categories", categories.iter().map(|category| &category.id))?;
    categories.reverse();
    categories.sort_by(|a, b| a.id.cmp(&b.id));
    categories.dedup_by(|later, first| later.id == first.id);
    Ok(categories)
}

/// By ascending id; of equal ids the last. The second part says why no detector can be run, if so.
fn images(
    raw: Vec<RawImage>,
    categories: &[Category],
) -> Result<(Vec<ImageRecord>, Option<String>), String> {
    one_kind("images", raw.iter().map(|image| &image.id))?;
    let mut unreadable = None;
    let mut images = Vec::with_capacity(raw.len());
    for (index, image) in raw.into_iter().enumerate() {
        if image.file_name.is_none() {
            let reason = format!(
                "images[{index}] (id {}): file_name: missing, or no text",
                image.id
            );
            unreadable.get_or_insert(reason);
        }
        images.push(image_record(index, image, categories)?);
    }
    images.reverse();
    images.sort_by(|a: &ImageRecord, b| a.id.cmp(&b.id));
    images.dedup_by(|earlier, last| {
        let same = earlier.id == last.id;
        if same && earlier.file_name != last.file_name {
            let (first, second) = (&earlier.file_name, &last.file_name);
            let id = &last.id;
            let reason = format!("two images have the id {id}: '{first}' and '{second}'");
            unreadable.get_or_insert(reason);
        }
        same
    });
    Ok((images, unreadable))
}

/// Numbers and texts have no common order, which decides between equal scores.
fn one_kind<'a>(list: &str, ids: impl Iterator<Item = &'a Id> + Clone) -> Result<(), String> {
    let Some(first) = ids.clone().next() else {
        return Ok(());
    };
    match ids
        .enumerate()
        .find(|(_, id)| id.is_text() != first.is_text())
    {
        None => Ok(()),
        Some((index, id)) => Err(format!(
            "{list}[{index}]: id: expected numbers or texts throughout, got {id}, but {first} in {list}[0]"
        )),
    }
}

fn image_record(
    index: usize,
    raw: RawImage,
    categories: &[Category],
) -> Result<ImageRecord, String> {
    let labelled = match &raw.labelled {
        None => vec![true; categories.len()],
        Some(names) => {
            let known = |name: &String| categories.iter().any(|c| c.name == *name);
            if let Some(name) = names.iter().find(|name| !known(name)) {
                return Err(format!(
                    "images[{index}] (id {}): labelled: '{name}' is no category",
                    raw.id
                ));
            }
            categories.iter().map(|c| names.contains(&c.name)).collect()
        }
    };
    Ok(ImageRecord {
        id: raw.id,
        file_name: raw.file_name.unwrap_or_default(),
        size: raw.size,
        labelled,
        truths: Vec::new(),
    })
}

/// Adds the boxes to their images; returns notes on what was left out or looks wrong.
fn add_truths(
    images: &mut [ImageRecord],
    categories: &[Category],
    annotations: Vec<RawAnnotation>,
) -> Result<Vec<String>, String> {
    let places: HashMap<&Id, usize> = categories.iter().map(|c| &c.id).zip(0..).collect();
    let (mut unlisted, mut unlabelled, mut inverted) = (0, 0, 0);
    let all = annotations.len();
    let first = annotations.first();
    let first = first.map(|first| (first.image.clone(), first.category.clone()));
    for raw in annotations {
        let image = raw
            .image
            .and_then(|id| images.binary_search_by(|image| image.id.cmp(&id)).ok());
        let category = raw.category.and_then(|id| places.get(&id).copied());
        let (Some(image), Some(category)) = (image, category) else {
            unlisted += 1;
            continue;
        };
        let Object { bbox, area, ignore } = raw.object?;
        inverted += usize::from(bbox[2] < 0.0 || bbox[3] < 0.0);
        let image = &mut images[image];
        if image.labelled[category] {
            image.truths.push(Truth {
                category,
                bbox,
                area,
                ignore,
            });
        } else {
            unlabelled += 1;
        }
    }
    if let Some((image, category)) = first.filter(|_| unlisted == all) {
        return Err(format!(
            "not one of the {all} annotations is of an image and a category of the file: \
             annotations[0] has image_id {} and category_id {}, {}",
            or_null(&image),
            or_null(&category),
            some_ids(images, categories)
        ));
    }
    let notes = [
        (
            unlisted,
            "boxes of images or categories that the file does not list were left out",
        ),
        (
            unlabelled,
            "boxes of classes that their image does not list in 'labelled' were left out",
        ),
        (
            inverted,
            "boxes have a negative width or height: nothing overlaps them, so they count as not found",
        ),
    ];
    let notes = notes.into_iter().filter(|(count, _)| *count > 0);
    Ok(notes
        .map(|(count, text)| format!("{count} {text}"))
        .collect())
}

fn or_null(id: &Option<Id>) -> String {
    id.as_ref().map_or_else(|| "null".to_owned(), Id::to_string)
}

/// The ids that annotations could have, for a message.
fn some_ids(images: &[ImageRecord], categories: &[Category]) -> String {
    let first = |ids: &mut dyn Iterator<Item = &Id>| {
        let ids: Vec<String> = ids.take(3).map(ToString::to_string).collect();
        match ids.is_empty() {
            true => "none".to_owned(),
            false => ids.join(", "),
        }
    };
    format!(
        "the first images have the ids {}, the first categories {}",
        first(&mut images.iter().map(|image| &image.id)),
        first(&mut categories.iter().map(|category| &category.id))
    )
}
