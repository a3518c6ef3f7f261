//! COCO files as tools write them, against what pycocotools says of the same files: hundreds of
//! edits of a small data set. `tests/fixtures/eval/mutate.py` makes the list with its results.

use image::RgbImage;
use serde::Deserialize;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::path::Path;
use tempfile::TempDir;
use vovcam::detection::Detection;
use vovcam::eval::dataset::Dataset;
use vovcam::eval::predictions::Predictions;
use vovcam::eval::{EvalOptions, detect, evaluate};
use vovcam::frame::Frame;
use vovcam::geometry::BBox;

const TOLERANCE: f64 = 1e-9;

#[derive(Deserialize)]
struct Mutations {
    annotations: Value,
    detections: Value,
    /// Twelve figures each, or the exception.
    results: Vec<Value>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    annotations: Vec<Edit>,
    detections: Vec<Edit>,
    result: usize,
}

/// A path, and the text of its new value; `None` deletes.
#[derive(Deserialize)]
struct Edit(String, Option<String>);

/// Applies edits as mutate.py does: new values as placeholders, which the written text replaces.
fn edited(document: &Value, edits: &[Edit]) -> String {
    let mut document = document.clone();
    for (number, Edit(path, value)) in edits.iter().enumerate() {
        let value = value.as_ref().map(|_| json!(format!("@{number}@")));
        match path.strip_prefix('/') {
            None => document = value.unwrap(),
            Some(path) => edit(&mut document, path, value.as_ref()),
        }
    }
    let mut text = document.to_string();
    for (number, Edit(_, value)) in edits.iter().enumerate() {
        if let Some(value) = value {
            text = text.replace(&format!("\"@{number}@\""), value);
        }
    }
    text
}

fn edit(node: &mut Value, path: &str, value: Option<&Value>) {
    if let Some((first, rest)) = path.split_once('/') {
        match (node, first) {
            (Value::Array(items), "*") => items.iter_mut().for_each(|item| edit(item, rest, value)),
            (Value::Array(items), index) => {
                edit(&mut items[index.parse::<usize>().unwrap()], rest, value)
            }
            (node, key) => edit(&mut node[key], rest, value),
        }
        return;
    }
    match (node, value) {
        (Value::Array(items), Some(value)) => items[path.parse::<usize>().unwrap()] = value.clone(),
        (Value::Array(items), None) => drop(items.remove(path.parse().unwrap())),
        (node, Some(value)) => node[path] = value.clone(),
        (node, None) => drop(node.as_object_mut().unwrap().remove(path)),
    }
}

/// The twelve figures, or the error.
fn figures(folder: &Path, annotations: &str, detections: &str) -> Result<Vec<Option<f64>>, String> {
    let results = folder.join("detections.json");
    std::fs::write(folder.join("annotations.json"), annotations).unwrap();
    std::fs::write(&results, detections).unwrap();
    let dataset = Dataset::open(folder).map_err(|e| e.to_string())?;
    let predictions = Predictions::read(&results, &dataset).map_err(|e| e.to_string())?;
    let evaluation = evaluate(&dataset, &predictions, &EvalOptions::default());
    Ok(evaluation.coco.values().to_vec())
}

/// Where this program differs from pycocotools on purpose. docs/evaluation.md says the same.
struct Difference {
    /// Of the case's first edit: whether it is of the results file, the beginning of its path, and
    /// its new texts, none for any.
    results: bool,
    path: &'static str,
    values: &'static [&'static str],
    /// What pycocotools says: figures, or an exception that begins so.
    there: &'static str,
    /// What is expected here: the figures of the unedited files, or an error with these words.
    here: Result<(), &'static str>,
    because: &'static str,
}

const FIGURES: &str = "[";
const DELETED: &str = "deleted";

const DIFFERENCES: [Difference; 15] = [
    Difference {
        results: false,
        path: "/annotations/2/id",
        values: &[],
        there: "",
        here: Ok(()),
        because: "an annotation's id has no part in the figures: pycocotools loses boxes with the id \
                  0 or an id that another has",
    },
    Difference {
        results: false,
        path: "/annotations/2/area",
        values: &[DELETED, "null"],
        there: "",
        here: Ok(()),
        because: "many tools write no area, and that of the box is meant",
    },
    Difference {
        results: false,
        path: "/annotations/2/iscrowd",
        values: &[DELETED, "null"],
        there: "",
        here: Ok(()),
        because: "many tools write no iscrowd, and 0 is meant",
    },
    Difference {
        results: false,
        path: "/annotations/2/iscrowd",
        values: &["\"0\""],
        there: FIGURES,
        here: Err(
            "annotations[2] (id 3): iscrowd: expected 0 or 1, false or true, got the text '0'",
        ),
        because: "pycocotools ignores the box, since a text is true, where no crowd is meant",
    },
    Difference {
        results: false,
        path: "/annotations/2/bbox/",
        values: &["null", "NaN", "Infinity"],
        there: FIGURES,
        here: Err("annotations[2] (id 3): bbox: expected [x, y, width, height] in finite numbers"),
        because: "an overlap that is not a number is a match with every detection there",
    },
    Difference {
        results: true,
        path: "/4/bbox/",
        values: &["NaN", "Infinity"],
        there: FIGURES,
        here: Err("row [4]: bbox: expected [x, y, width, height] in finite numbers"),
        because: "an overlap that is not a number is a match with every box there",
    },
    Difference {
        results: false,
        path: "/categories/1/id",
        values: &["NaN", "1e400", "-Infinity"],
        there: FIGURES,
        here: Err("categories[1]: id: expected a number or a text"),
        because: "a category to which nothing can refer",
    },
    Difference {
        results: false,
        path: "/annotations",
        values: &["{}", "\"\""],
        there: FIGURES,
        here: Err("annotations: expected a list, got"),
        because: "Python goes through the keys of an object and the letters of a text",
    },
    Difference {
        results: false,
        path: "/categories",
        values: &["{}", "\"\""],
        there: FIGURES,
        here: Err("categories: expected a list, got"),
        because: "Python goes through the keys of an object and the letters of a text",
    },
    Difference {
        results: false,
        path: "/categories",
        values: &["[]"],
        there: FIGURES,
        here: Err("not one of the 34 annotations is of an image and a category of the file"),
        because: NOTHING_MATCHES,
    },
    Difference {
        results: false,
        path: "/annotations/*/",
        values: &["999"],
        there: FIGURES,
        here: Err("not one of the 34 annotations is of an image and a category of the file"),
        because: NOTHING_MATCHES,
    },
    Difference {
        results: false,
        path: "/annotations/0/image_id",
        values: &["\"1\""],
        there: FIGURES,
        here: Err(
            "annotations[0] has image_id '1' and category_id 7, the first images have the ids 1,",
        ),
        because: NOTHING_MATCHES,
    },
    Difference {
        results: false,
        path: "/categories/0/id",
        values: &["\"7\""],
        there: "[0.0,",
        here: Err("row [0]: category_id: no category has the id 3, the set has '1', '3', '7', '9'"),
        because: NOTHING_MATCHES,
    },
    Difference {
        results: true,
        path: "/*/category_id",
        values: &["999", "\"1\""],
        there: FIGURES,
        here: Err(
            "not one of the 60 rows is of a category of the set: row [0]: category_id: no category",
        ),
        because: NOTHING_MATCHES,
    },
    Difference {
        results: true,
        path: "",
        values: &["[]"],
        there: "IndexError",
        here: Err(NOTHING_FOUND),
        because: "a detector that finds nothing has a result: 0",
    },
];

const NOTHING_MATCHES: &str = "pycocotools gives 0 or no figures where ids match nothing at all";
/// Stands for zero in all figures.
const NOTHING_FOUND: &str = "nothing found";

/// The edit by which a case is known: of the results file or not, path and new text.
fn first_edit(case: &Case) -> (bool, &str, &str) {
    let edits = case.annotations.first().map(|edit| (false, edit));
    match edits.or_else(|| case.detections.first().map(|edit| (true, edit))) {
        Some((results, Edit(path, value))) => (results, path, value.as_deref().unwrap_or(DELETED)),
        None => (false, "unedited", ""),
    }
}

fn difference(case: &Case, there: &Value) -> Option<usize> {
    let (results, path, value) = first_edit(case);
    let there = there
        .as_str()
        .map_or_else(|| there.to_string(), str::to_owned);
    DIFFERENCES.iter().position(|difference| {
        let of_path = match difference.path {
            "" => path.is_empty(),
            whole if difference.values.is_empty() => path == whole,
            whole if whole.ends_with('/') => path.starts_with(whole),
            whole => path == whole,
        };
        results == difference.results
            && of_path
            && there.starts_with(difference.there)
            && (difference.values.is_empty() || difference.values.contains(&value))
    })
}

/// Words that an error must have: the object and the field that were edited.
fn place(case: &Case) -> Vec<String> {
    let (results, path, _) = first_edit(case);
    let mut parts = path.split('/').skip(1);
    let list = if results { Some("row ") } else { parts.next() };
    match (list, parts.next(), parts.next()) {
        (Some(list), Some(index), field) if index.parse::<usize>().is_ok() => {
            let field = field.map(str::to_owned);
            std::iter::once(format!("{list}[{index}]"))
                .chain(field)
                .collect()
        }
        (Some("row "), ..) => vec![],
        (list, ..) => list.map(str::to_owned).into_iter().collect(),
    }
}

fn same(got: &[Option<f64>], expected: &Value) -> bool {
    let expected = expected.as_array().unwrap();
    assert_eq!(got.len(), expected.len());
    got.iter()
        .zip(expected)
        .all(|(got, expected)| match (got, expected.as_f64()) {
            (Some(got), Some(expected)) => (got - expected).abs() < TOLERANCE,
            (got, expected) => *got == expected,
        })
}

#[test]
fn what_pycocotools_reads_gives_its_figures_and_the_rest_names_the_field() {
    let text = include_str!("../../fixtures/eval/mutations.json");
    let mutations: Mutations = serde_json::from_str(text).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut used = [false; DIFFERENCES.len()];
    assert!(mutations.cases.len() > 500);
    for case in &mutations.cases {
        let annotations = edited(&mutations.annotations, &case.annotations);
        let detections = edited(&mutations.detections, &case.detections);
        let there = &mutations.results[case.result];
        let here = figures(folder.path(), &annotations, &detections);
        let what = || format!("{:?}: {there} there, {here:?} here", first_edit(case));
        let unedited = &mutations.results[mutations.cases[0].result];
        if let Some(index) = difference(case, there) {
            used[index] = true;
            let Difference {
                here: expected,
                because,
                ..
            } = &DIFFERENCES[index];
            let right = match (&here, expected) {
                (Ok(got), Ok(())) => same(got, unedited),
                (Ok(got), Err(NOTHING_FOUND)) => got.iter().all(|figure| *figure == Some(0.0)),
                (Err(error), Err(words)) => error.contains(words),
                _ => false,
            };
            assert!(right, "{}, although {because}", what());
            continue;
        }
        match (&here, there) {
            (Ok(got), Value::Array(_)) => assert!(same(got, there), "{}", what()),
            (Err(error), Value::String(_)) => {
                let named = place(case)
                    .iter()
                    .all(|words| error.contains(words.as_str()));
                // an image that is gone or renamed is missed by the results
                let missed = first_edit(case).1.starts_with("/images")
                    && error.contains("image_id: no image has the id");
                let named = named || missed;
                assert!(named && error.contains(".json'"), "{}", what());
            }
            _ => panic!("{}", what()),
        }
    }
    let unused: Vec<&str> = (DIFFERENCES.iter().zip(used).filter(|(_, used)| !used))
        .map(|(difference, _)| difference.path)
        .collect();
    assert_eq!(unused, [""; 0], "differences that no case shows");
}

#[test]
fn a_byte_order_mark_and_equal_keys_are_no_fault() {
    let text = include_str!("../../fixtures/eval/mutations.json");
    let Mutations {
        annotations,
        detections,
        results,
        cases,
    } = serde_json::from_str(text).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let annotations = format!("\u{feff}{{\"images\": [],{}", &annotations.to_string()[1..]);
    let got = figures(
        folder.path(),
        &annotations,
        &format!("\u{feff}{detections}"),
    )
    .unwrap();
    assert!(same(&got, &results[cases[0].result]));
    let utf_16: Vec<u8> = std::iter::once(0xfeff)
        .chain(annotations.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    std::fs::write(folder.path().join("annotations.json"), utf_16).unwrap();
    let error = Dataset::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("expected UTF-8, got UTF-16"), "{error}");
}

/// A set of two images and the classes that a model has, one of them twice.
fn open(edit: impl Fn(&mut Value)) -> Result<(TempDir, Dataset), String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("images")).unwrap();
    for name in ["1.png", "2.png"] {
        let image = RgbImage::new(40, 30);
        image.save(folder.path().join("images").join(name)).unwrap();
    }
    let mut annotations = json!({
        "images": [{"id": 1, "file_name": "1.png"}, {"id": 2, "file_name": "2.png"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 4, "bbox": [4, 4, 16, 16]},
            {"id": 2, "image_id": 2, "category_id": 5, "bbox": [8, 8, 20, 16]},
        ],
        "categories": [
            {"id": 0, "name": "cat", "supercategory": "none"},
            {"id": 4, "name": " cat "},
            {"id": 5, "name": "dog"},
        ],
    });
    edit(&mut annotations);
    std::fs::write(
        folder.path().join("annotations.json"),
        annotations.to_string(),
    )
    .unwrap();
    let dataset = Dataset::open(folder.path()).map_err(|e| e.to_string())?;
    Ok((folder, dataset))
}

fn model() -> Vec<String> {
    ["dog", "cat"].map(str::to_owned).to_vec()
}

/// Finds a cat at the same place in every image.
fn a_cat(frame: &Frame) -> Result<Vec<Detection>, Infallible> {
    let bbox = BBox::clamped(4.0, 4.0, 20.0, 20.0, frame.meta.size);
    Ok(vec![Detection {
        class_id: 1,
        score: 0.9,
        bbox,
        track_id: None,
    }])
}

#[test]
fn of_two_classes_of_one_name_the_one_with_boxes_is_the_models() {
    let (_folder, mut dataset) = open(|_| ()).unwrap();
    let classes = dataset.match_model(&model()).unwrap();
    let options = EvalOptions::default();
    let found = detect(&mut dataset, &classes, &options, a_cat).unwrap();
    let evaluation = evaluate(&dataset, &found, &options);
    let [cat, dog] = &evaluation.classes[..] else {
        panic!("{evaluation}");
    };
    assert_eq!(
        (cat.name.as_str(), cat.boxes, cat.detections),
        ("cat", 1, 2)
    );
    assert!(
        cat.coco.ap.unwrap() > 0.99 && dog.coco.ap == Some(0.0),
        "{evaluation}"
    );

    let (_folder, mut both) = open(|set| set["annotations"][1]["category_id"] = json!(0)).unwrap();
    let error = both.match_model(&model()).unwrap_err().to_string();
    assert!(
        error.contains("the ids 0 and 4 are both named 'cat' and both have boxes"),
        "{error}"
    );
    let (_folder, mut selected) = open(|_| ()).unwrap();
    selected.select(&[" cat".to_owned()]).unwrap();
    assert_eq!(selected.categories.len(), 2, "both of the name");
}

#[test]
fn images_that_no_detector_can_be_run_on_are_named_before_it_runs() {
    let error = |edit: fn(&mut Value)| {
        let (_folder, mut dataset) = open(edit).unwrap();
        let classes = dataset.match_model(&model()).unwrap();
        let found = detect(&mut dataset, &classes, &EvalOptions::default(), a_cat);
        found.unwrap_err().to_string()
    };
    let no_name = error(|set| {
        drop(
            set["images"][1]
                .as_object_mut()
                .unwrap()
                .remove("file_name"),
        )
    });
    assert!(no_name.contains("annotations.json'"), "{no_name}");
    assert!(
        no_name.contains("images[1] (id 2): file_name: missing"),
        "{no_name}"
    );
    let twice = error(|set| set["images"][1]["id"] = json!(1.0));
    assert!(
        twice.contains("two images have the id 1: '1.png' and '2.png'"),
        "{twice}"
    );
    let (_folder, same) = open(|set| set["images"][1] = set["images"][0].clone()).unwrap();
    assert_eq!(same.images.len(), 1);
    same.check_images().unwrap();
}

#[test]
fn what_is_left_out_is_said() {
    let note = |edit: fn(&mut Value)| open(edit).unwrap().1.notes.join("; ");
    assert_eq!(note(|_| ()), "");
    assert_eq!(
        note(|set| set["annotations"][1]["image_id"] = json!("2")),
        "1 boxes of images or categories that the file does not list were left out"
    );
    assert_eq!(
        note(|set| set["annotations"][1]["bbox"][2] = json!(-20)),
        "1 boxes have a negative width or height: nothing overlaps them, so they count as not found"
    );
}
