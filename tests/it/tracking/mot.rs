//! MOTA, IDF1, HOTA and ID switches of tracks against the truth, as TrackEval computes them: CLEAR
//! (Bernardin and Stiefelhagen 2008) and identity (Ristani et al. 2016) at an overlap of 0.5, HOTA
//! (Luiten et al. 2021) as the mean of overlaps from 0.05 to 0.95.

use std::collections::{BTreeMap, HashMap};
use vovcam::analyse::track::assign::{Assigner, Pair};

/// A box with the number of its object: `x, y, width, height`.
pub(crate) type Numbered = (u32, [f64; 4]);

/// Truth and tracks of one frame.
#[derive(Clone, Debug, Default)]
pub(crate) struct Compared {
    pub(crate) truth: Vec<Numbered>,
    pub(crate) tracks: Vec<Numbered>,
}

/// The figures of a sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Quality {
    pub(crate) mota: f64,
    pub(crate) switches: usize,
    pub(crate) idf1: f64,
    pub(crate) hota: f64,
}

const OVERLAP: f64 = 0.5;

pub(crate) fn measure(frames: &[Compared]) -> Quality {
    let similarity: Vec<_> = frames.iter().map(similarities).collect();
    let count = |of: fn(&Compared) -> &Vec<Numbered>| -> f64 {
        frames.iter().map(|frame| of(frame).len() as f64).sum()
    };
    let (truth, tracks) = (count(|f| &f.truth), count(|f| &f.tracks));
    let (hits, switches) = clear(frames, &similarity);
    Quality {
        mota: (hits - (tracks - hits) - switches as f64) / truth,
        switches,
        idf1: 2.0 * identity(frames, &similarity) / (truth + tracks),
        hota: hota(frames, &similarity),
    }
}

/// `[truth][track]`
fn similarities(frame: &Compared) -> Vec<Vec<f64>> {
    let row = |(_, truth): &Numbered| frame.tracks.iter().map(|(_, b)| iou(truth, b)).collect();
    frame.truth.iter().map(row).collect()
}

fn iou(a: &[f64; 4], b: &[f64; 4]) -> f64 {
    let side = |axis: usize| {
        let end = (a[axis] + a[axis + 2]).min(b[axis] + b[axis + 2]);
        (end - a[axis].max(b[axis])).max(0.0)
    };
    let both = side(0) * side(1);
    both / (a[2] * a[3] + b[2] * b[3] - both)
}

/// The assignment of the greatest sum, of pairs above 0.
fn assign(scores: impl Iterator<Item = (usize, usize, f64)>) -> Vec<(usize, usize)> {
    let pairs: Vec<Pair> = scores
        .filter(|&(_, _, gain)| gain > 0.0)
        .map(|(row, col, gain)| Pair {
            row,
            col,
            gain: gain as f32,
        })
        .collect();
    let size = |of: fn(&Pair) -> usize| pairs.iter().map(of).max().map_or(0, |most| most + 1);
    let mut chosen = Vec::new();
    Assigner::default().solve(size(|p| p.row), size(|p| p.col), &pairs, &mut chosen);
    chosen
}

fn cells(matrix: &[Vec<f64>]) -> impl Iterator<Item = (usize, usize, f64)> {
    let rows = matrix.iter().enumerate();
    rows.flat_map(|(y, row)| row.iter().enumerate().map(move |(x, &value)| (y, x, value)))
}

/// Matches and switches: a match of the frame before is kept where it can be.
fn clear(frames: &[Compared], similarity: &[Vec<Vec<f64>>]) -> (f64, usize) {
    let mut known: HashMap<u32, u32> = HashMap::new();
    let mut before: HashMap<u32, u32> = HashMap::new();
    let (mut hits, mut switches) = (0.0, 0);
    for (frame, similarity) in frames.iter().zip(similarity) {
        let score = |(y, x, overlap): (usize, usize, f64)| {
            let same = before.get(&frame.truth[y].0) == Some(&frame.tracks[x].0);
            let bonus = if same { 1000.0 } else { 0.0 };
            let fits = overlap >= OVERLAP - f64::EPSILON;
            (y, x, if fits { bonus + overlap } else { 0.0 })
        };
        let chosen = assign(cells(similarity).map(score));
        before.clear();
        for (y, x) in chosen {
            let (truth, track) = (frame.truth[y].0, frame.tracks[x].0);
            hits += 1.0;
            before.insert(truth, track);
            switches += usize::from(known.insert(truth, track).is_some_and(|old| old != track));
        }
    }
    (hits, switches)
}

/// Frames in which truth and track belong together, for the best one-to-one choice of numbers.
fn identity(frames: &[Compared], similarity: &[Vec<Vec<f64>>]) -> f64 {
    let mut together: BTreeMap<(u32, u32), f64> = BTreeMap::new();
    for (frame, similarity) in frames.iter().zip(similarity) {
        for (y, x, overlap) in cells(similarity) {
            if overlap >= OVERLAP {
                *together
                    .entry((frame.truth[y].0, frame.tracks[x].0))
                    .or_default() += 1.0;
            }
        }
    }
    let pairs = together.iter();
    let chosen = assign(pairs.map(|(&(truth, track), &n)| (truth as usize, track as usize, n)));
    chosen
        .iter()
        .map(|&(a, b)| together[&(a as u32, b as u32)])
        .sum()
}

fn hota(frames: &[Compared], similarity: &[Vec<Vec<f64>>]) -> f64 {
    let mut truths: HashMap<u32, f64> = HashMap::new();
    let mut tracks: HashMap<u32, f64> = HashMap::new();
    let mut shared: HashMap<(u32, u32), f64> = HashMap::new();
    for (frame, similarity) in frames.iter().zip(similarity) {
        let rows: Vec<f64> = similarity.iter().map(|row| row.iter().sum()).collect();
        let column = |x: usize| similarity.iter().map(|row| row[x]).sum::<f64>();
        for (y, x, overlap) in cells(similarity) {
            let all = rows[y] + column(x) - overlap;
            if all > f64::EPSILON {
                *shared
                    .entry((frame.truth[y].0, frame.tracks[x].0))
                    .or_default() += overlap / all;
            }
        }
        for (id, _) in &frame.truth {
            *truths.entry(*id).or_default() += 1.0;
        }
        for (id, _) in &frame.tracks {
            *tracks.entry(*id).or_default() += 1.0;
        }
    }
    let alphas: Vec<f64> = (1..20).map(|step| 0.05 * f64::from(step)).collect();
    let mut matches: Vec<HashMap<(u32, u32), f64>> = vec![HashMap::new(); alphas.len()];
    for (frame, similarity) in frames.iter().zip(similarity) {
        let key = |y: usize, x: usize| (frame.truth[y].0, frame.tracks[x].0);
        let score = |(y, x, overlap): (usize, usize, f64)| {
            let (truth, track) = key(y, x);
            let common = shared.get(&(truth, track)).copied().unwrap_or(0.0);
            (
                y,
                x,
                overlap * common / (truths[&truth] + tracks[&track] - common),
            )
        };
        for (y, x) in assign(cells(similarity).map(score)) {
            for (alpha, matches) in alphas.iter().zip(&mut matches) {
                if similarity[y][x] >= alpha - f64::EPSILON {
                    *matches.entry(key(y, x)).or_default() += 1.0;
                }
            }
        }
    }
    let (all_truth, all_tracks): (f64, f64) = (truths.values().sum(), tracks.values().sum());
    let of_alpha = |matches: &HashMap<(u32, u32), f64>| {
        let hits: f64 = matches.values().sum();
        let together = matches
            .iter()
            .map(|((truth, track), n)| n * n / (truths[truth] + tracks[track] - n));
        let association = together.sum::<f64>() / hits.max(1.0);
        (hits / (all_truth + all_tracks - hits) * association).sqrt()
    };
    matches.iter().map(of_alpha).sum::<f64>() / alphas.len() as f64
}
