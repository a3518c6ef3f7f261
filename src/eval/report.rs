//! The evaluation report: as a text table and as JSON.

use super::coco::{CocoMetrics, OperatingPoint};
use super::voc::VocMetrics;
use super::{ClassEvaluation, Evaluation};
use std::fmt::{self, Display, Formatter};

impl Evaluation {
    /// The JSON report, indented; a metric without boxes is `null`.
    ///
    /// # Errors
    /// None in practice: every field can be serialised.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}

/// The table that `vovcam eval` prints.
impl Display for Evaluation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} images, {} boxes ({} more ignored), {} detections",
            self.dataset, self.images, self.boxes, self.ignored_boxes, self.detections
        )?;
        if let Some(detector) = &self.detector {
            writeln!(
                f,
                "{} on {}, input {}, tiles {}, score from {}, NMS IoU {}",
                detector.model,
                detector.engine,
                detector.input,
                detector.tiles,
                detector.min_score,
                detector.nms_iou
            )?;
        }
        writeln!(f)?;
        self.write_classes(f)?;
        writeln!(f)?;
        write_coco(f, &self.coco)?;
        writeln!(
            f,
            "VOC mAP at IoU 0.50    11-point {}   area {}",
            Figure(self.voc.ap_11_point),
            Figure(self.voc.ap_area)
        )?;
        self.write_points(f)?;
        self.write_notes(f)
    }
}

impl Evaluation {
    fn write_classes(&self, f: &mut Formatter<'_>) -> fmt::Result {
        // a class that no image labels has no metrics
        let shown = || self.classes.iter().filter(|class| class.images > 0);
        let names = shown().map(|class| class.name.chars().count());
        let width = names.max().unwrap_or(0).max("mean of 00".len());
        write_row(f, width, &COLUMNS.map(|column| column as &dyn Display), "")?;
        for class in shown() {
            let figures = figures(&class.coco, &class.voc);
            let [ap, ap50, ap75, ar, voc07, area] = figures.each_ref().map(|f| f as &dyn Display);
            let cells: [&dyn Display; 11] = [
                &class.name,
                &class.images,
                &class.boxes,
                &class.ignored_boxes,
                &class.detections,
                ap,
                ap50,
                ap75,
                ar,
                voc07,
                area,
            ];
            write_row(f, width, &cells, if class.in_mean { "" } else { " *" })?;
        }
        let figures = figures(&self.coco, &self.voc);
        let [ap, ap50, ap75, ar, voc07, area] = figures.each_ref().map(|f| f as &dyn Display);
        let name = format!("mean of {}", self.classes_in_mean);
        let cells: [&dyn Display; 11] =
            [&name, &"", &"", &"", &"", ap, ap50, ap75, ar, voc07, area];
        write_row(f, width, &cells, "")
    }

    /// A line a class with precision and recall at its thresholds.
    fn write_points(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let point = |point: &Option<OperatingPoint>| match point {
            Some(p) => format!("{:.3}  {:.3} / {:.3}", p.score, p.precision, p.recall),
            None => format!("{:>5}  {:>13}", "-", "-"),
        };
        let has = |class: &&ClassEvaluation| {
            class.boxes > 0 && (class.at_threshold.is_some() || class.at_precision.is_some())
        };
        let mut shown = self.classes.iter().filter(has).peekable();
        if shown.peek().is_none() {
            return Ok(());
        }
        writeln!(
            f,
            "\nAt IoU 0.50           score threshold       highest recall\n\
             class                precision / recall    of the wanted precision"
        )?;
        for class in shown {
            let (threshold, precision) = (point(&class.at_threshold), point(&class.at_precision));
            writeln!(f, "{:<20} {threshold:>20}  {precision:>20}", class.name)?;
        }
        Ok(())
    }

    fn write_notes(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self
            .classes
            .iter()
            .any(|class| class.images > 0 && !class.in_mean)
        {
            let min = self.min_boxes.max(1);
            writeln!(f, "* not in the means: fewer than {min} boxes")?;
        }
        if self.dropped_detections > 0 {
            writeln!(
                f,
                "note: {} detections of classes that their image does not label were dropped",
                self.dropped_detections
            )?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

const COLUMNS: [&&str; 11] = [
    &"class",
    &"images",
    &"boxes",
    &"ignored",
    &"detections",
    &"AP",
    &"AP50",
    &"AP75",
    &"AR100",
    &"VOC07",
    &"VOC area",
];

fn write_row(
    f: &mut Formatter<'_>,
    width: usize,
    cells: &[&dyn Display; 11],
    mark: &str,
) -> fmt::Result {
    write!(f, "{:width$}", cells[0])?;
    for (cell, column) in cells.iter().zip(COLUMNS).skip(1) {
        let width = column.len().max("0.000".len());
        write!(f, "  {cell:>width$}")?;
    }
    writeln!(f, "{mark}")
}

/// The metrics of a row, in the table's order.
fn figures(coco: &CocoMetrics, voc: &VocMetrics) -> [Figure; 6] {
    [
        coco.ap,
        coco.ap50,
        coco.ap75,
        coco.ar_100,
        voc.ap_11_point,
        voc.ap_area,
    ]
    .map(Figure)
}

fn write_coco(f: &mut Formatter<'_>, coco: &CocoMetrics) -> fmt::Result {
    writeln!(
        f,
        "COCO AP at 0.50:0.95   all {}   small {}   medium {}   large {}",
        Figure(coco.ap),
        Figure(coco.ap_small),
        Figure(coco.ap_medium),
        Figure(coco.ap_large)
    )?;
    writeln!(
        f,
        "COCO AP at one IoU     0.50 {}   0.75 {}",
        Figure(coco.ap50),
        Figure(coco.ap75)
    )?;
    writeln!(
        f,
        "COCO AR                1 {}   10 {}   100 {}   small {}   medium {}   large {}",
        Figure(coco.ar_1),
        Figure(coco.ar_10),
        Figure(coco.ar_100),
        Figure(coco.ar_small),
        Figure(coco.ar_medium),
        Figure(coco.ar_large)
    )
}

/// Three decimals, or a dash without a value.
struct Figure(Option<f64>);

impl Display for Figure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => f.pad(&format!("{value:.3}")),
            None => f.pad("-"),
        }
    }
}
