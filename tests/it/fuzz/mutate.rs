//! From seeds to inputs: what a disk, a network or a hand may do to a file, and what a reader's
//! author may have forgotten.

use super::Target;
use fastrand::Rng;

/// Numbers at the edges of types and of limits.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    4,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x0400_0000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    1 << 62,
    u64::MAX,
];

/// The same as people write them.
const TEXT_NUMBERS: [&str; 16] = [
    "0",
    "-1",
    "1",
    "2",
    "3",
    "16384",
    "65536",
    "4294967296",
    "4611686018427387904",
    "18446744073709551615",
    "1e308",
    "1e39",
    "-1e-320",
    "0.5",
    "nan",
    "inf",
];

pub(super) struct Mutator {
    rng: Rng,
    words: &'static [&'static [u8]],
    longest: usize,
}

impl Mutator {
    pub(super) fn new(target: &Target, seed: u64, batch: u64) -> Mutator {
        // FNV-1a: any mix of the three will do, but it must stay the same
        let name = target.name.bytes().map(u64::from);
        let mixed = name
            .chain([seed, batch])
            .fold(0xcbf2_9ce4_8422_2325u64, |hash, value| {
                (hash ^ value).wrapping_mul(0x0100_0000_01b3)
            });
        Mutator {
            rng: Rng::with_seed(mixed),
            words: target.words,
            longest: target.longest,
        }
    }

    /// Makes the next input of one seed, or of parts of two.
    pub(super) fn next(&mut self, seeds: &[Vec<u8>], input: &mut Vec<u8>) {
        input.clear();
        input.extend_from_slice(self.choose(seeds));
        if self.rng.u8(..8) == 0 {
            let other = self.choose(seeds);
            let (from, cut) = (self.place(other), self.place(input));
            input.truncate(cut);
            input.extend_from_slice(&other[from..]);
        }
        // often one change, sometimes many
        let changes = 1 << self.rng.u32(..5);
        for _ in 0..self.rng.u32(1..=changes) {
            self.change(input);
        }
        input.truncate(self.longest);
    }

    fn choose<'a>(&mut self, seeds: &'a [Vec<u8>]) -> &'a [u8] {
        &seeds[self.rng.usize(..seeds.len())]
    }

    /// A place in, or at the end of, some bytes.
    fn place(&mut self, bytes: &[u8]) -> usize {
        self.rng.usize(..=bytes.len())
    }

    /// A stretch of some bytes, more often a short one.
    fn stretch(&mut self, bytes: &[u8]) -> (usize, usize) {
        let from = self.place(bytes);
        let most = (bytes.len() - from).min(1 << self.rng.u32(..12));
        (from, from + self.rng.usize(..=most))
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        match self.rng.u8(..12) {
            0 | 1 => self.flip_bit(input),
            2 => self.replace_byte(input),
            3 => {
                let (from, to) = self.stretch(input);
                input.drain(from..to);
            }
            4 => {
                let (from, to) = self.stretch(input);
                let copy = input[from..to].to_vec();
                let at = self.place(input);
                input.splice(at..at, copy);
            }
            5 => {
                let at = self.place(input);
                let len = 1 << self.rng.u32(..7);
                let byte = self.rng.u8(..);
                input.splice(at..at, std::iter::repeat_n(byte, len));
            }
            6 => {
                let at = self.place(input);
                input.truncate(at);
            }
            7 | 8 => self.word(input),
            9 => self.text_number(input),
            _ => self.binary_number(input),
        }
    }

    fn flip_bit(&mut self, input: &mut [u8]) {
        if !input.is_empty() {
            let at = self.rng.usize(..input.len());
            input[at] ^= 1 << self.rng.u32(..8);
        }
    }

    fn replace_byte(&mut self, input: &mut [u8]) {
        if !input.is_empty() {
            let at = self.rng.usize(..input.len());
            input[at] = self.rng.u8(..);
        }
    }

    /// Puts a word in, or in the place of what is there.
    fn word(&mut self, input: &mut Vec<u8>) {
        let Some(word) = self.rng.choice(self.words) else {
            return self.flip_bit(input);
        };
        let at = self.place(input);
        let over = if self.rng.bool() { word.len() } else { 0 };
        let end = input.len().min(at + over);
        input.splice(at..end, word.iter().copied());
    }

    /// Replaces a number that is written in digits.
    fn text_number(&mut self, input: &mut Vec<u8>) {
        let at = self.place(input);
        let Some(from) = input[at..].iter().position(u8::is_ascii_digit) else {
            return;
        };
        let from = at + from;
        let digits = input[from..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit());
        let to = from + digits.count();
        let number = TEXT_NUMBERS[self.rng.usize(..TEXT_NUMBERS.len())];
        input.splice(from..to, number.bytes());
    }

    /// Replaces a number of two, four or eight bytes: by an edge, by a neighbour, or by about the
    /// length of what follows. Both byte orders are in use.
    fn binary_number(&mut self, input: &mut [u8]) {
        let width = 2 << self.rng.usize(..3);
        if input.len() < width {
            return;
        }
        let at = self.rng.usize(..=input.len() - width);
        let left = (input.len() - at - width) as u64;
        let field = &mut input[at..at + width];
        let old = field
            .iter()
            .rev()
            .fold(0, |value, &byte| (value << 8) | u64::from(byte));
        let new = match self.rng.u8(..4) {
            0 => EDGES[self.rng.usize(..EDGES.len())],
            1 => old.wrapping_add(self.rng.u64(..8)).wrapping_sub(4),
            2 => left.wrapping_add(self.rng.u64(..16)).wrapping_sub(8),
            _ => self.rng.u64(..4096),
        };
        let bytes = match self.rng.bool() {
            true => new.to_le_bytes()[..width].to_vec(),
            false => new.to_be_bytes()[8 - width..].to_vec(),
        };
        field.copy_from_slice(&bytes);
    }
}
