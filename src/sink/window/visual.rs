//! The form of a pixel that the display has, and whether minifb can draw it. minifb writes 32 bits a
//! pixel, as they are, into the display's default visual or, if asked for, into one with an alpha
//! channel.

use crate::geometry::Size;
use x11rb::connection::Connection;
use x11rb::protocol::xproto::{Screen, Setup, VisualClass, Visualtype};

/// Where a window's pixels go.
#[derive(Clone, PartialEq)]
pub(super) struct Visual {
    /// The bits of each red, green and blue value in a pixel.
    channels: [[u32; 256]; 3],
    /// Bits that are set in every pixel.
    opaque: u32,
    /// Whether this is the visual with an alpha channel, not the default.
    pub(super) has_alpha: bool,
    /// Bits a pixel of the display.
    depth: u8,
    screen: Size,
}

/// The visual to draw into, and the connection that told. A server without other clients resets
/// when a connection ends, and accepts no other meanwhile: keep it until the window is open.
///
/// # Errors
/// The reason as text: the display cannot be reached, or minifb cannot draw on it.
pub(super) fn find() -> Result<(Visual, impl Connection), String> {
    let display = std::env::var_os("DISPLAY").unwrap_or_default();
    let (connection, screen) = x11rb::connect(None)
        .map_err(|e| format!("the display '{}' cannot be used: {e}", display.display()))?;
    let setup = connection.setup();
    let visual = choose(setup, &setup.roots[screen])?;
    Ok((visual, connection))
}

/// The display of the environment, for people: its colours and size.
///
/// # Errors
/// The reason why it shows no window, as text.
pub fn describe() -> Result<String, String> {
    find().map(|(visual, _)| format!("{} bits a pixel, {}", visual.depth, visual.screen))
}

fn choose(setup: &Setup, screen: &Screen) -> Result<Visual, String> {
    let bits = |depth: u8| {
        let mut formats = setup.pixmap_formats.iter();
        formats.find_map(|format| (format.depth == depth).then_some(format.bits_per_pixel))
    };
    let depths = screen.allowed_depths.iter();
    let mut visuals =
        depths.flat_map(|depth| depth.visuals.iter().map(|visual| (depth.depth, visual)));
    let is_usable = |depth: u8, visual: &Visualtype| {
        let direct = [VisualClass::TRUE_COLOR, VisualClass::DIRECT_COLOR];
        direct.contains(&visual.class) && bits(depth) == Some(32)
    };
    let default = visuals
        .clone()
        .find(|(_, visual)| visual.visual_id == screen.root_visual)
        .filter(|&(depth, visual)| is_usable(depth, visual));
    // as minifb asks for it: the first of 32 bits with true colours
    let with_alpha = || {
        let found = visuals.find(|&(depth, visual)| {
            depth == 32 && visual.class == VisualClass::TRUE_COLOR && bits(depth) == Some(32)
        });
        found.map(|(_, visual)| Visual::new(visual, true, screen))
    };
    default
        .map(|(_, visual)| Visual::new(visual, false, screen))
        .or_else(with_alpha)
        .ok_or_else(|| {
            format!(
                "the display has {} bits a pixel: expected 24 or more, or a visual of 32 bits",
                screen.root_depth
            )
        })
}

impl Visual {
    fn new(visual: &Visualtype, has_alpha: bool, screen: &Screen) -> Visual {
        let masks = [visual.red_mask, visual.green_mask, visual.blue_mask];
        Visual {
            channels: masks.map(channel),
            opaque: match has_alpha {
                true => !masks.iter().fold(0, |all, mask| all | mask),
                false => 0,
            },
            has_alpha,
            depth: screen.root_depth,
            screen: Size::new(
                u32::from(screen.width_in_pixels),
                u32::from(screen.height_in_pixels),
            ),
        }
    }

    /// RGB bytes as pixels of this visual.
    pub(super) fn pack(&self, rgb: &[u8], pixels: &mut Vec<u32>) {
        let [red, green, blue] = &self.channels;
        pixels.clear();
        pixels.extend(rgb.chunks_exact(3).map(|p| {
            self.opaque
                | red[usize::from(p[0])]
                | green[usize::from(p[1])]
                | blue[usize::from(p[2])]
        }));
    }

    /// The largest size of this shape that the screen has room for.
    pub(super) fn fit(&self, size: Size) -> Size {
        let shrink = |side: u32, by: f64| ((f64::from(side) / by) as u32).max(1);
        let by = (f64::from(size.width) / f64::from(self.screen.width))
            .max(f64::from(size.height) / f64::from(self.screen.height))
            .max(1.0);
        Size::new(shrink(size.width, by), shrink(size.height, by))
    }
}

/// The bits of each value from 0 to 255 below `mask`, from none to all of them.
fn channel(mask: u32) -> [u32; 256] {
    let shift = mask.trailing_zeros() % 32;
    let most = u64::from(mask >> shift);
    std::array::from_fn(|value| (((value as u64 * most + 127) / 255) as u32) << shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use x11rb::protocol::xproto::{Depth, Format};

    const RGB24: [u32; 3] = [0xff_0000, 0xff00, 0xff];
    const RGB30: [u32; 3] = [0x3ff0_0000, 0xf_fc00, 0x3ff];
    const RGB16: [u32; 3] = [0xf800, 0x7e0, 0x1f];

    fn visual(visual_id: u32, class: VisualClass, masks: [u32; 3]) -> Visualtype {
        Visualtype {
            visual_id,
            class,
            red_mask: masks[0],
            green_mask: masks[1],
            blue_mask: masks[2],
            ..Visualtype::default()
        }
    }

    /// A display whose default visual is the first.
    fn display(visuals: &[(u8, VisualClass, [u32; 3])]) -> Result<Visual, String> {
        let format = |(depth, bits_per_pixel)| Format {
            depth,
            bits_per_pixel,
            scanline_pad: 32,
        };
        let formats = [
            (1, 1),
            (8, 8),
            (15, 16),
            (16, 16),
            (24, 32),
            (30, 32),
            (32, 32),
        ];
        let setup = Setup {
            pixmap_formats: formats.map(format).to_vec(),
            ..Setup::default()
        };
        let depth = |(id, &(depth, class, masks)): (usize, &_)| Depth {
            depth,
            visuals: vec![visual(id as u32, class, masks)],
        };
        let screen = Screen {
            root_visual: 0,
            root_depth: visuals[0].0,
            width_in_pixels: 800,
            height_in_pixels: 480,
            allowed_depths: visuals.iter().enumerate().map(depth).collect(),
            ..Screen::default()
        };
        choose(&setup, &screen)
    }

    const TRUE: VisualClass = VisualClass::TRUE_COLOR;

    fn packed(visual: &Visual, rgb: [u8; 3]) -> u32 {
        let mut pixels = Vec::new();
        visual.pack(&rgb, &mut pixels);
        pixels[0]
    }

    #[test]
    fn colours_are_those_of_the_default_visual_where_it_has_32_bits() {
        let visual = display(&[(24, TRUE, RGB24), (32, TRUE, RGB24)]).unwrap();
        assert!(!visual.has_alpha);
        assert_eq!(packed(&visual, [1, 2, 255]), 0x0001_02ff);
        let visual = display(&[(30, TRUE, RGB30)]).unwrap();
        assert_eq!(packed(&visual, [255, 0, 255]), 0x3ff0_03ff);
        assert_eq!(packed(&visual, [0, 128, 1]), (514 << 10) | 4);
        let swapped = display(&[(24, TRUE, [0xff, 0xff00, 0xff_0000])]).unwrap();
        assert_eq!(packed(&swapped, [1, 2, 3]), 0x0003_0201);
    }

    #[test]
    fn a_display_of_16_bits_is_drawn_on_through_a_visual_of_32() {
        let visual = display(&[(16, TRUE, RGB16), (32, TRUE, RGB24)]).unwrap();
        assert!(visual.has_alpha);
        assert_eq!(packed(&visual, [1, 2, 3]), 0xff01_0203, "opaque");
    }

    #[test]
    fn a_display_without_one_is_named_with_its_bits() {
        let grey = (8, VisualClass::PSEUDO_COLOR, [0; 3]);
        for (visuals, bits) in [
            (vec![grey], "8 bits"),
            (vec![(16, TRUE, RGB16)], "16 bits"),
            (vec![(15, TRUE, RGB16), grey], "15 bits"),
        ] {
            let reason = display(&visuals).err().unwrap();
            assert!(reason.contains(&format!("has {bits} a pixel")), "{reason}");
        }
    }

    #[test]
    fn a_window_fits_on_its_screen() {
        let visual = display(&[(24, TRUE, RGB24)]).unwrap();
        assert_eq!(visual.fit(Size::new(640, 480)), Size::new(640, 480));
        assert_eq!(visual.fit(Size::new(1920, 1080)), Size::new(800, 450));
        assert_eq!(visual.fit(Size::new(10, 9600)), Size::new(1, 480));
    }
}
