//! Tiles: overlapping rectangles of equal size that cover a frame, each searched at a larger scale
//! than the whole frame.

use super::{Region, Size};
use crate::units::serde_by_text;
use std::fmt;
use std::str::FromStr;

/// Most columns, and most rows, of tiles.
const MOST_TILES: u32 = 8;

/// Layout of tiles: in settings `off` or `3x2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tiles {
    /// The whole frame only.
    #[default]
    Off,
    /// Tiles besides the whole frame; at least two, at most 8 columns and 8 rows.
    Grid {
        /// Tiles side by side.
        columns: u32,
        /// Tiles one above the other.
        rows: u32,
    },
}

serde_by_text!(Tiles);

impl fmt::Display for Tiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tiles::Off => f.write_str("off"),
            Tiles::Grid { columns, rows } => write!(f, "{columns}x{rows}"),
        }
    }
}

impl FromStr for Tiles {
    type Err = String;

    fn from_str(text: &str) -> Result<Tiles, String> {
        let fits = |n: u32| (1..=MOST_TILES).contains(&n);
        match text.parse::<Size>() {
            _ if text == "off" => Ok(Tiles::Off),
            Ok(Size { width, height }) if fits(width) && fits(height) && width * height > 1 => {
                Ok(Tiles::Grid {
                    columns: width,
                    rows: height,
                })
            }
            _ => Err(format!(
                "expected 'off' or COLUMNSxROWS such as '3x2', 2 tiles to {MOST_TILES}x{MOST_TILES}, got '{text}'"
            )),
        }
    }
}

/// Overlap of neighbouring tiles, as a fraction of a tile's side: 0.05 to 0.5.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TileOverlap(f64);

serde_by_text!(TileOverlap);

impl TileOverlap {
    /// The fraction.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Default for TileOverlap {
    fn default() -> TileOverlap {
        TileOverlap(0.2)
    }
}

impl fmt::Display for TileOverlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for TileOverlap {
    type Err = String;

    fn from_str(text: &str) -> Result<TileOverlap, String> {
        let number = text.parse().ok();
        number
            .filter(|number| (0.05..=0.5).contains(number))
            .map(TileOverlap)
            .ok_or_else(|| format!("expected a number from 0.05 to 0.5, got '{text}'"))
    }
}

/// Layout and overlap of tiles.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tiling {
    /// Layout.
    pub tiles: Tiles,
    /// Overlap of neighbours.
    pub overlap: TileOverlap,
}

/// `off`, or `3x2, overlap 0.2`.
impl fmt::Display for Tiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tiles {
            Tiles::Off => f.write_str("off"),
            tiles => write!(f, "{tiles}, overlap {}", self.overlap),
        }
    }
}

impl Tiling {
    /// The size of a tile of a `frame`; the frame itself without tiles.
    pub fn tile(&self, frame: Size) -> Size {
        let (columns, rows) = self.grid(frame);
        Size::new(
            self.side(frame.width, columns),
            self.side(frame.height, rows),
        )
    }

    /// The regions in which a frame is searched, all in inputs of size `input`: the whole frame,
    /// then the tiles row by row. `regions` is cleared before.
    pub fn regions(&self, frame: Size, input: Size, regions: &mut Vec<Region>) {
        regions.clear();
        regions.push(Region::whole(frame, input));
        let (columns, rows) = self.grid(frame);
        if columns * rows == 1 {
            return;
        }
        let tile = self.tile(frame);
        for row in 0..rows {
            for column in 0..columns {
                let x = start(frame.width, tile.width, column, columns);
                let y = start(frame.height, tile.height, row, rows);
                regions.push(Region::part(frame, x, y, tile, input));
            }
        }
    }

    /// Network inputs a frame of a size for which every tile has a pixel of its own.
    pub fn inputs(&self) -> u32 {
        match self.tiles {
            Tiles::Off => 1,
            Tiles::Grid { columns, rows } => 1 + columns * rows,
        }
    }

    /// Columns and rows: no more than pixels.
    fn grid(&self, frame: Size) -> (u32, u32) {
        match self.tiles {
            Tiles::Off => (1, 1),
            Tiles::Grid { columns, rows } => (
                columns.min(frame.width).max(1),
                rows.min(frame.height).max(1),
            ),
        }
    }

    /// The side of `count` tiles that cover `length` pixels with the overlap, rounded up.
    fn side(&self, length: u32, count: u32) -> u32 {
        let count = f64::from(count);
        let sides = count - (count - 1.0) * self.overlap.get();
        (f64::from(length) / sides).ceil() as u32
    }
}

/// The first pixel of tile `index` of `count`, which are spread evenly from edge to edge.
fn start(length: u32, side: u32, index: u32, count: u32) -> u32 {
    let gaps = u64::from(count.max(2) - 1);
    let room = u64::from(length - side.min(length));
    ((2 * u64::from(index) * room + gaps) / (2 * gaps)) as u32 // rounded to the nearest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INPUT: Size = Size::new(320, 256);

    fn tiling(columns: u32, rows: u32, overlap: f64) -> Tiling {
        Tiling {
            tiles: Tiles::Grid { columns, rows },
            overlap: TileOverlap(overlap),
        }
    }

    #[test]
    fn without_tiles_the_frame_is_the_only_region() {
        let frame = Size::new(768, 576);
        let mut regions = vec![Region::whole(INPUT, INPUT); 3];
        Tiling::default().regions(frame, INPUT, &mut regions);
        assert_eq!(regions, [Region::whole(frame, INPUT)]);
        assert_eq!(Tiling::default().tile(frame), frame);
        assert!(regions[0].is_whole());
    }

    #[test]
    fn two_by_two_tiles_of_a_camera_frame() {
        let frame = Size::new(1280, 720);
        let tiling = tiling(2, 2, 0.2);
        let mut regions = Vec::new();
        tiling.regions(frame, INPUT, &mut regions);
        assert_eq!(regions.len(), tiling.inputs() as usize);
        let places: Vec<_> = regions.iter().map(|r| (r.x, r.y, r.size)).collect();
        let tile = Size::new(712, 400);
        assert_eq!(
            places,
            [
                (0, 0, frame),
                (0, 0, tile),
                (568, 0, tile),
                (0, 320, tile),
                (568, 320, tile)
            ]
        );
    }

    #[test]
    fn layouts_and_overlaps_parse_and_refuse_nonsense() {
        assert_eq!("off".parse(), Ok(Tiles::Off));
        let grid = Tiles::Grid {
            columns: 3,
            rows: 2,
        };
        assert_eq!("3x2".parse(), Ok(grid));
        assert_eq!(grid.to_string(), "3x2");
        for bad in ["", "on", "1x1", "9x1", "1x9", "0x2", "2", "-1x2"] {
            let error = bad.parse::<Tiles>().unwrap_err();
            assert!(error.ends_with(&format!("to 8x8, got '{bad}'")), "{error}");
        }
        assert_eq!("0.05".parse(), Ok(TileOverlap(0.05)));
        for bad in ["0", "0.51", "nan", "-0.1", "20%"] {
            assert!(bad.parse::<TileOverlap>().is_err(), "'{bad}'");
        }
    }

    /// Neighbours along one axis: their starts and the length of a tile.
    fn check_axis(
        starts: &[u32],
        side: u32,
        length: u32,
        overlap: f64,
    ) -> Result<(), TestCaseError> {
        prop_assert_eq!(starts[0], 0, "from the first pixel");
        prop_assert_eq!(starts[starts.len() - 1] + side, length, "to the last");
        for pair in starts.windows(2) {
            let common = f64::from(pair[0] + side) - f64::from(pair[1]);
            let asked = overlap * f64::from(side);
            prop_assert!(
                pair[0] < pair[1] || length < 32,
                "each tile has a place of its own"
            );
            prop_assert!(
                common >= asked - 1.0,
                "{common} pixels in common, asked for {asked}"
            );
            // a tile is rounded up to whole pixels, and so is what neighbours share
            prop_assert!(
                common <= asked + 2.0 + starts.len() as f64,
                "{common} pixels in common, asked for {asked}"
            );
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn tiles_cover_the_frame_and_overlap_as_asked(
            (width, height) in (1u32..6000, 1u32..6000),
            (columns, rows) in (1u32..=8, 1u32..=8),
            overlap in 0.05f64..=0.5,
        ) {
            let (frame, tiling) = (Size::new(width, height), tiling(columns, rows, overlap));
            let mut regions = Vec::new();
            tiling.regions(frame, INPUT, &mut regions);
            prop_assert_eq!(regions[0], Region::whole(frame, INPUT));
            let tiles = &regions[1..];
            let size = tiling.tile(frame);
            prop_assert!(tiles.iter().all(|tile| tile.size == size && tile.input == INPUT));
            if tiles.is_empty() {
                prop_assert_eq!(size, frame);
                return Ok(());
            }
            let (mut xs, mut ys): (Vec<_>, Vec<_>) = tiles.iter().map(|tile| (tile.x, tile.y)).unzip();
            xs.truncate(columns.min(width) as usize); // the first row
            ys = ys.into_iter().step_by(xs.len()).collect();
            prop_assert_eq!(xs.len() * ys.len(), tiles.len());
            check_axis(&xs, size.width, width, overlap)?;
            check_axis(&ys, size.height, height, overlap)?;
        }
    }
}
