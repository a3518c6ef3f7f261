//! Evaluation: figures against pycocotools and numpy, data sets in folders and tars, bad input.

use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use vovcam::detection::Detection;
use vovcam::eval::coco::{CocoMetrics, OperatingPoint};
use vovcam::eval::dataset::Dataset;
use vovcam::eval::predictions::Predictions;
use vovcam::eval::{EvalError, EvalOptions, Evaluation, detect, evaluate};
use vovcam::frame::Frame;
use vovcam::geometry::BBox;
use vovcam::geometry::Size;

const TOLERANCE: f64 = 1e-9;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/eval")
        .join(name)
}

fn fixture_evaluation(options: &EvalOptions) -> Evaluation {
    let dataset = Dataset::open(&fixture("")).unwrap();
    let predictions = Predictions::read(&fixture("detections.json"), &dataset).unwrap();
    evaluate(&dataset, &predictions, options)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("expected.json")).unwrap()).unwrap()
}

/// Every figure that is expected is there and equal; `null` only where `null` is expected.
fn assert_figures(what: &str, got: &Value, expected: &Value) {
    let expected = expected.as_object().unwrap();
    assert!(!expected.is_empty(), "{what}: nothing expected");
    for (name, value) in expected {
        match (got[name].as_f64(), value.as_f64()) {
            (Some(got), Some(value)) => assert!(
                (got - value).abs() < TOLERANCE,
                "{what}.{name}: got {got}, expected {value}"
            ),
            (got, value) => assert_eq!(got, value, "{what}.{name}"),
        }
    }
}

#[test]
fn figures_equal_pycocotools_and_the_voc_definition() {
    let evaluation = serde_json::to_value(fixture_evaluation(&EvalOptions::default())).unwrap();
    let expected = expected();
    assert_figures("coco", &evaluation["coco"], &expected["coco"]);
    assert_figures("voc", &evaluation["voc"], &expected["voc"]);
    let classes = evaluation["classes"].as_array().unwrap();
    assert_eq!(classes.len(), 4);
    for class in classes {
        let name = class["name"].as_str().unwrap();
        let expected = &expected["classes"][name];
        assert_eq!(class["boxes"], expected["boxes"], "{name}");
        assert_eq!(class["ignored_boxes"], expected["ignored_boxes"], "{name}");
        assert_figures(name, &class["coco"], &expected["coco"]);
        assert_figures(name, &class["voc"], &expected["voc"]);
    }
}

/// Precision and recall counted by hand: correct at IoU 0.5 are the detections that reach it with an
/// object which no better detection has taken.
#[test]
fn precision_and_recall_at_thresholds() {
    let folder = TempDir::new().unwrap();
    let boxes = [
        [0, 0, 10, 10],
        [20, 0, 10, 10],
        [40, 0, 10, 10],
        [60, 0, 10, 10],
    ];
    let annotations: Vec<Value> = boxes
        .iter()
        .map(|bbox| json!({"image_id": 1, "category_id": 1, "bbox": bbox}))
        .collect();
    let set = json!({
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    });
    std::fs::write(folder.path().join("annotations.json"), set.to_string()).unwrap();
    // correct, wrong, correct, a second one of the first, correct
    let found = [(0, 0.9), (80, 0.8), (20, 0.7), (0, 0.6), (40, 0.6)];
    let found: Vec<Value> = found
        .iter()
        .map(|(x, score)| {
            json!({"image_id": 1, "category_id": 1, "bbox": [x, 0, 10, 10], "score": score})
        })
        .collect();
    let results = folder.path().join("found.json");
    std::fs::write(&results, json!(found).to_string()).unwrap();
    let dataset = Dataset::open(folder.path()).unwrap();
    let predictions = Predictions::read(&results, &dataset).unwrap();
    let at = |score: f64, precision: f64| {
        let options = EvalOptions {
            thresholds: [("cat".to_owned(), score)].into(),
            precision: Some(precision),
            ..EvalOptions::default()
        };
        let mut classes = evaluate(&dataset, &predictions, &options).classes;
        assert_eq!(
            (classes[1].at_threshold, classes[1].at_precision),
            (None, None)
        );
        let cat = classes.swap_remove(0);
        let figures = |point: OperatingPoint| (point.score, point.precision, point.recall);
        (cat.at_threshold.map(figures), cat.at_precision.map(figures))
    };
    let (threshold, precision) = at(0.7, 0.6);
    assert_eq!(
        threshold,
        Some((0.7, 2.0 / 3.0, 0.5)),
        "the score itself counts"
    );
    assert_eq!(
        precision,
        Some((0.6, 0.6, 0.75)),
        "equal scores come together"
    );
    let (threshold, precision) = at(0.95, 0.65);
    assert_eq!(
        threshold,
        Some((0.95, 1.0, 0.0)),
        "no detection is no false one"
    );
    assert_eq!(
        precision,
        Some((0.7, 2.0 / 3.0, 0.5)),
        "precision falls and rises"
    );
    assert_eq!(at(0.1, 1.0).1, Some((0.9, 1.0, 0.25)));
}

#[test]
fn what_an_image_does_not_label_counts_neither_way() {
    let evaluation = fixture_evaluation(&EvalOptions::default());
    let expected = expected();
    assert_eq!(
        evaluation.dropped_detections,
        expected["dropped_detections"]
    );
    let dropped = expected["dropped_boxes"].as_u64().unwrap();
    assert!(evaluation.notes[0].starts_with(&format!("{dropped} boxes of classes")));
}

#[test]
fn rare_classes_are_listed_but_not_averaged() {
    let all = fixture_evaluation(&EvalOptions::default());
    let options = EvalOptions {
        min_boxes: 15,
        ..EvalOptions::default()
    };
    let common = fixture_evaluation(&options);
    let in_mean: Vec<&str> = common
        .classes
        .iter()
        .filter(|class| class.in_mean)
        .map(|class| class.name.as_str())
        .collect();
    assert_eq!(in_mean, ["person", "car"]);
    let by_hand = (all.classes[0].coco.ap.unwrap() + all.classes[1].coco.ap.unwrap()) / 2.0;
    assert!((common.coco.ap.unwrap() - by_hand).abs() < TOLERANCE);
    assert!(
        common
            .to_string()
            .contains("* not in the means: fewer than 15 boxes")
    );
}

#[test]
fn selected_classes_alone_are_evaluated() {
    let all = fixture_evaluation(&EvalOptions::default());
    let mut dataset = Dataset::open(&fixture("")).unwrap();
    dataset.select(&["car".to_owned()]).unwrap();
    let predictions = Predictions::read(&fixture("detections.json"), &dataset).unwrap();
    let car = evaluate(&dataset, &predictions, &EvalOptions::default());
    assert_eq!(car.coco, all.classes[1].coco);
    assert_eq!(car.voc, all.classes[1].voc);
    let error = dataset.select(&["cra".to_owned()]).unwrap_err().to_string();
    assert!(
        error.contains("'cra'") && error.ends_with("has: car"),
        "{error}"
    );
}

/// Three pictures whose grey level is their number, one object in each of the first two.
struct TinySet {
    dir: TempDir,
}

impl TinySet {
    fn new() -> TinySet {
        let set = TinySet {
            dir: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(set.folder().join("images")).unwrap();
        for number in 1..=3u8 {
            RgbImage::from_pixel(40 + u32::from(number), 30, Rgb([number; 3]))
                .save(set.folder().join(format!("images/{number}.png")))
                .unwrap();
        }
        set.annotate(&TinySet::annotations());
        set
    }

    fn annotations() -> Value {
        json!({
            "images": [
                {"id": 30, "file_name": "3.png", "width": 43, "height": 30, "labelled": ["cat"]},
                {"id": 10, "file_name": "1.png", "width": 41, "height": 30},
                {"id": 20, "file_name": "2.png"},
            ],
            "annotations": [
                {"id": 1, "image_id": 10, "category_id": 5, "bbox": [4, 4, 16, 16], "iscrowd": 0},
                {"id": 2, "image_id": 20, "category_id": 2, "bbox": [8, 8, 20, 16]},
            ],
            "categories": [{"id": 5, "name": "cat"}, {"id": 2, "name": "zebra"}, {"id": 4, "name": "dog"}],
        })
    }

    fn folder(&self) -> &Path {
        self.dir.path()
    }

    fn annotate(&self, annotations: &Value) {
        let text = serde_json::to_vec(annotations).unwrap();
        std::fs::write(self.folder().join("annotations.json"), text).unwrap();
    }

    /// The same set as a tar whose folder is named `tiny`.
    fn tar(&self) -> PathBuf {
        let path = self.folder().join("tiny.tar");
        let mut tar = tar::Builder::new(std::fs::File::create(&path).unwrap());
        tar.append_dir_all("tiny/images", self.folder().join("images"))
            .unwrap();
        tar.append_path_with_name(
            self.folder().join("annotations.json"),
            "tiny/annotations.json",
        )
        .unwrap();
        tar.finish().unwrap();
        path
    }

    fn open_error(&self) -> String {
        Dataset::open(self.folder()).unwrap_err().to_string()
    }
}

/// Finds a dog, a cat and a horse at the same place in every picture.
fn same_everywhere(frame: &Frame) -> Result<Vec<Detection>, Infallible> {
    let bbox = BBox::clamped(4.0, 4.0, 20.0, 20.0, frame.meta.size);
    let found = |class_id, score| Detection {
        class_id,
        score,
        bbox,
        track_id: None,
    };
    Ok(vec![found(0, 0.9), found(1, 0.8), found(2, 0.7)])
}

fn model_classes() -> Vec<String> {
    ["dog", "cat", "horse"].map(str::to_owned).to_vec()
}

#[test]
fn a_folder_and_a_tar_give_the_same_pictures_and_figures() {
    let set = TinySet::new();
    for path in [set.folder().to_owned(), set.tar()] {
        let mut dataset = Dataset::open(&path).unwrap();
        let classes = dataset.match_model(&model_classes()).unwrap();
        let mut seen = Vec::new();
        let predictions = detect(&mut dataset, &classes, &EvalOptions::default(), |frame| {
            seen.push((
                frame.meta.name.clone().unwrap().to_string(),
                frame.meta.size.width,
                frame.pixels[0],
            ));
            same_everywhere(frame)
        })
        .unwrap();
        let by_id = [1u8, 2, 3].map(|n| (format!("{n}.png"), 40 + u32::from(n), n));
        assert_eq!(seen, by_id);

        let evaluation = evaluate(&dataset, &predictions, &EvalOptions::default());
        // cats in all three pictures, of which one is right; dogs in the two that label them;
        // one dog in the third and three horses dropped
        assert_eq!(evaluation.detections, 5);
        assert_eq!(evaluation.dropped_detections, 4);
        assert_eq!(evaluation.classes_in_mean, 1);
        let ap = evaluation.coco.ap.unwrap();
        assert!(
            (ap - 1.0).abs() < TOLERANCE,
            "the first of equal scores is the right one, got {ap}"
        );
        assert_eq!(evaluation.coco.ap_large, None);
        assert_eq!(
            evaluation.notes,
            ["not among the model's classes, left out: zebra"]
        );
    }
    assert_eq!(Dataset::open(&set.tar()).unwrap().name(), "tiny");
}

#[test]
fn detections_that_were_written_give_the_same_figures() {
    let set = TinySet::new();
    let mut dataset = Dataset::open(set.folder()).unwrap();
    let classes = dataset.match_model(&model_classes()).unwrap();
    let options = EvalOptions::default();
    let found = detect(&mut dataset, &classes, &options, same_everywhere).unwrap();
    let file = set.folder().join("detections.json");
    found.write(&file, &dataset).unwrap();

    let rows: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 5);
    assert_eq!(rows[0]["image_id"], 10);
    assert_eq!(rows[0]["category_id"], 4, "dog, by the data set's id");
    assert_eq!(rows[0]["bbox"], json!([4.0, 4.0, 16.0, 16.0]));

    let read = Predictions::read(&file, &dataset).unwrap();
    for image in 0..3 {
        assert_eq!(read.of_image(image), found.of_image(image));
    }
    let nothing = detect(&mut dataset, &classes, &options, |_| {
        Ok::<_, Infallible>(vec![])
    });
    nothing.unwrap().write(&file, &dataset).unwrap();
    assert!(Predictions::read(&file, &dataset).unwrap().is_empty());
}

#[test]
fn finding_nothing_is_zero_not_unknown() {
    let set = TinySet::new();
    let mut dataset = Dataset::open(set.folder()).unwrap();
    let classes = dataset.match_model(&model_classes()).unwrap();
    let options = EvalOptions::default();
    let found = detect(&mut dataset, &classes, &options, |_| {
        Ok::<_, Infallible>(vec![])
    })
    .unwrap();
    let evaluation = evaluate(&dataset, &found, &options);
    let zero = Some(0.0);
    let expected = CocoMetrics {
        ap: zero,
        ap50: zero,
        ap75: zero,
        ap_small: zero,
        ar_1: zero,
        ar_10: zero,
        ar_100: zero,
        ar_small: zero,
        ..CocoMetrics::default()
    };
    assert_eq!(evaluation.coco, expected);
    assert_eq!(
        (evaluation.voc.ap_11_point, evaluation.voc.ap_area),
        (zero, zero)
    );
    let report: Value = serde_json::from_str(&evaluation.to_json().unwrap()).unwrap();
    assert_eq!(report["format"], "vovcam-eval.v1");
    assert_eq!(report["coco"]["ap_large"], Value::Null);
}

#[test]
fn only_the_best_of_the_labelled_classes_are_kept() {
    let set = TinySet::new();
    let mut dataset = Dataset::open(set.folder()).unwrap();
    let classes = dataset.match_model(&model_classes()).unwrap();
    let options = EvalOptions {
        max_detections: 1,
        ..EvalOptions::default()
    };
    let found = detect(&mut dataset, &classes, &options, same_everywhere).unwrap();
    let names: Vec<&str> = (0..3)
        .map(|image| match found.of_image(image) {
            [one] => dataset.categories[one.category].name.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        names,
        ["dog", "dog", "cat"],
        "the third picture labels cats only"
    );
}

#[test]
fn a_failing_detector_names_the_picture() {
    let set = TinySet::new();
    let mut dataset = Dataset::open(set.folder()).unwrap();
    let classes = dataset.match_model(&model_classes()).unwrap();
    let error = detect(
        &mut dataset,
        &classes,
        &EvalOptions::default(),
        |frame| match frame.meta.size == Size::new(42, 30) {
            true => Err("the device is gone"),
            false => Ok(vec![]),
        },
    )
    .unwrap_err();
    assert_eq!(error.to_string(), "detection failed on the image '2.png'");
    assert!(
        matches!(error, EvalError::Detect { source, .. } if source.to_string() == "the device is gone")
    );
}

#[test]
fn a_missing_picture_is_found_before_the_detector_runs() {
    let set = TinySet::new();
    std::fs::remove_file(set.folder().join("images/3.png")).unwrap();
    for path in [set.folder().to_owned(), set.tar()] {
        let mut dataset = Dataset::open(&path).unwrap();
        let classes = dataset.match_model(&model_classes()).unwrap();
        let error = detect(&mut dataset, &classes, &EvalOptions::default(), |_| {
            Err::<Vec<Detection>, _>("the detector ran")
        })
        .unwrap_err()
        .to_string();
        assert!(error.contains("images/3.png' is missing"), "{error}");
    }
}

#[test]
fn pictures_of_another_size_or_damaged_are_refused() {
    let set = TinySet::new();
    let mut annotations = TinySet::annotations();
    annotations["images"][1]["width"] = json!(82);
    set.annotate(&annotations);
    let mut dataset = Dataset::open(set.folder()).unwrap();
    let error = dataset.read(0).unwrap_err().to_string();
    assert!(
        error.ends_with("the annotations say 82x30, got 41x30"),
        "{error}"
    );

    std::fs::write(set.folder().join("images/2.png"), b"not a picture").unwrap();
    let error = dataset.read(1).unwrap_err().to_string();
    assert!(error.contains("images/2.png'"), "{error}");

    annotations["images"][0]["file_name"] = json!("../annotations.json");
    set.annotate(&annotations);
    let error = Dataset::open(set.folder())
        .unwrap()
        .check_images()
        .unwrap_err();
    assert!(error.to_string().contains("../annotations.json"), "{error}");
}

#[test]
fn a_path_that_is_no_data_set_says_what_was_expected() {
    let set = TinySet::new();
    let missing = Dataset::open(&set.folder().join("none")).unwrap_err();
    assert!(
        missing.to_string().starts_with("cannot read '"),
        "{missing}"
    );

    let picture = Dataset::open(&set.folder().join("images/1.png")).unwrap_err();
    assert!(
        picture
            .to_string()
            .contains("1.png' is neither a folder nor a plain tar"),
        "{picture}"
    );

    let whole = std::fs::read(set.tar()).unwrap();
    let cut = set.folder().join("cut.tar");
    std::fs::write(&cut, &whole[..2000]).unwrap();
    assert!(Dataset::open(&cut).is_err());

    std::fs::remove_file(set.folder().join("annotations.json")).unwrap();
    let error = set.open_error();
    assert!(
        error.starts_with("no annotations in '") && error.contains("'annotations.json'"),
        "{error}"
    );
}

#[test]
fn bad_annotations_are_named() {
    let set = TinySet::new();
    let file = set.folder().join("annotations.json");
    std::fs::write(&file, b"{\"images\": [").unwrap();
    let error = set.open_error();
    assert!(
        error.contains("annotations.json' are not valid: EOF") && error.contains("line 1"),
        "{error}"
    );

    let cases = [
        (
            "/images/0/id",
            json!([10]),
            "images[0]: id: expected a number or a text, got [10]",
        ),
        (
            "/images/0/labelled/0",
            json!("cta"),
            "images[0] (id 30): labelled: 'cta' is no category",
        ),
        (
            "/annotations/1/image_id",
            json!([99]),
            "annotations[1] (id 2): image_id: expected a number or a text",
        ),
        (
            "/annotations/1/category_id",
            json!({}),
            "annotations[1] (id 2): category_id: expected a number or a text, got an object",
        ),
        (
            "/annotations/0/iscrowd",
            json!(-1),
            "annotations[0] (id 1): iscrowd: expected 0 or 1, false or true, got -1",
        ),
        (
            "/annotations/0/bbox",
            json!([1, 2, 3]),
            "annotations[0] (id 1): bbox: expected [x, y, width, height] in finite numbers, got [1, 2, 3]",
        ),
        (
            "/categories/0/id",
            json!("2"),
            "categories[1]: id: expected numbers or texts throughout, got 2, but '2' in categories[0]",
        ),
        (
            "/categories",
            json!({}),
            "categories: expected a list, got an object",
        ),
    ];
    for (pointer, value, message) in cases {
        let mut annotations = TinySet::annotations();
        *annotations.pointer_mut(pointer).unwrap() = value;
        set.annotate(&annotations);
        let error = set.open_error();
        assert!(error.contains(message), "{pointer}: {error}");
    }
}

#[test]
fn detections_of_another_data_set_are_refused() {
    let set = TinySet::new();
    let dataset = Dataset::open(set.folder()).unwrap();
    let file = set.folder().join("detections.json");
    let row = |image: i64, category: i64, width: f64| json!([{"image_id": image, "category_id": category, "bbox": [0, 0, width, 5], "score": 0.5}]);
    let cases = [
        (row(11, 5, 4.0), "row [0]: image_id: no image has the id 11"),
        (
            row(10, 6, 4.0),
            "row [0]: category_id: no category has the id 6",
        ),
        (
            json!([{"image_id": 10, "category_id": 5, "bbox": [0, 0, 4, 5]}]),
            "row [0]: score: missing",
        ),
        (json!({"annotations": []}), "expected a list, got an object"),
    ];
    for (rows, message) in cases {
        std::fs::write(&file, serde_json::to_vec(&rows).unwrap()).unwrap();
        let error = Predictions::read(&file, &dataset).unwrap_err().to_string();
        assert!(
            error.contains("detections.json'") && error.contains(message),
            "{error}"
        );
    }
}

#[test]
fn a_model_without_a_common_class_is_an_error() {
    let set = TinySet::new();
    let mut dataset = Dataset::open(set.folder()).unwrap();
    let error = dataset
        .match_model(&["boat".to_owned()])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("(boat)") && error.ends_with("has: zebra, dog, cat"),
        "{error}"
    );
}
