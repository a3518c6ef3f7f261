//! Values chosen from a list: one table for each enum serves the command line, its help, the file
//! and its errors. The enums themselves know nothing of settings.

use crate::engine::cpu::Isa;
use crate::engine::{EngineChoice, Precision};
use crate::frame::PixelFormat;
use crate::units;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::Deserializer;
use std::str::FromStr;

/// One value of an enum in settings.
pub(super) struct Named<T> {
    /// The name by which serde writes it, then other names that are understood.
    names: &'static [&'static str],
    value: T,
    help: &'static str,
}

/// An enum whose values have names in settings.
pub(super) trait Choice: Copy + Send + Sync + 'static {
    /// All values.
    const CHOICES: &'static [Named<Self>];
}

const fn named<T: Copy>(names: &'static [&'static str], value: T, help: &'static str) -> Named<T> {
    Named { names, value, help }
}

impl Choice for EngineChoice {
    const CHOICES: &'static [Named<EngineChoice>] = &[
        named(
            &["auto"],
            EngineChoice::Auto,
            "The GPU if this build has an engine for it and finds one, else the CPU",
        ),
        named(&["cpu"], EngineChoice::Cpu, "This program's CPU kernels"),
        named(
            &["cuda"],
            EngineChoice::Cuda,
            "The CUDA GPU; an error where there is none",
        ),
        named(
            &["reference"],
            EngineChoice::Reference,
            "Plain candle operations, slow and simple",
        ),
    ];
}

impl Choice for Precision {
    const CHOICES: &'static [Named<Precision>] = &[
        named(&["f32"], Precision::F32, "32-bit floats"),
        named(&["f16"], Precision::F16, "16-bit floats, on a GPU"),
        named(
            &["int8"],
            Precision::Int8,
            "Bytes, on a CPU: 1.2 to 2 times as fast, by the processor, and a little less precise",
        ),
    ];
}

impl Choice for Isa {
    const CHOICES: &'static [Named<Isa>] = &[
        named(&["avx512"], Isa::Avx512, "x86-64 with AVX-512F"),
        named(&["avx2"], Isa::Avx2, "x86-64 with AVX2 and FMA"),
        named(&["neon"], Isa::Neon, "Arm with Advanced SIMD"),
        named(&["scalar"], Isa::Scalar, "No vector instructions"),
    ];
}

impl Choice for PixelFormat {
    const CHOICES: &'static [Named<PixelFormat>] = &[
        named(&["rgb8", "rgb24", "rgb"], PixelFormat::Rgb8, "Packed RGB"),
        named(&["gray8", "grey", "gray"], PixelFormat::Gray8, "Grey"),
        named(&["yuyv"], PixelFormat::Yuyv, "4:2:2, packed Y U Y V"),
        named(&["uyvy"], PixelFormat::Uyvy, "4:2:2, packed U Y V Y"),
        named(&["nv12"], PixelFormat::Nv12, "4:2:0, planes Y and UV"),
        named(
            &["i420", "yuv420p"],
            PixelFormat::I420,
            "4:2:0, planes Y, U and V",
        ),
        named(&["mjpeg", "mjpg"], PixelFormat::Mjpeg, "One JPEG a frame"),
    ];
}

/// The parser for the command line; `ignore_case` is the option's to set.
pub(super) fn parser<T: Choice>() -> impl TypedValueParser<Value = T> {
    let values = T::CHOICES.iter().map(|choice| {
        let [name, aliases @ ..] = choice.names else {
            unreachable!("a choice has a name")
        };
        PossibleValue::new(*name)
            .aliases(aliases.iter().copied())
            .help(choice.help)
    });
    PossibleValuesParser::new(values).try_map(|text| text.parse().map(|Chosen(value)| value))
}

/// A value in the file.
pub(super) fn from_toml<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Choice,
{
    units::from_text(deserializer).map(|Chosen(value)| Some(value))
}

struct Chosen<T>(T);

impl<T: Choice> FromStr for Chosen<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Chosen<T>, String> {
        let is_it = |choice: &&Named<T>| {
            let mut names = choice.names.iter();
            names.any(|name| name.eq_ignore_ascii_case(text))
        };
        let found = T::CHOICES.iter().find(is_it);
        found.map(|choice| Chosen(choice.value)).ok_or_else(|| {
            let names = T::CHOICES.iter().filter_map(|choice| choice.names.first());
            let names: Vec<&str> = names.copied().collect();
            format!("expected one of {}, got '{text}'", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StrDeserializer};
    use serde::{Deserialize, Serialize};

    fn serde_name<T: Serialize>(value: T) -> String {
        let value = toml::Value::try_from(value).unwrap();
        value.as_str().unwrap().to_owned()
    }

    /// Each value by the name that serde gives it, by its aliases and in capitals.
    fn names_are_understood<T: Choice + Serialize + PartialEq + std::fmt::Debug>() {
        for choice in T::CHOICES {
            assert_eq!(choice.names[0], serde_name(choice.value));
            for name in choice.names {
                for text in [(*name).to_owned(), name.to_uppercase()] {
                    let Chosen(value) = text.parse::<Chosen<T>>().unwrap();
                    assert_eq!(value, choice.value, "'{text}'");
                }
            }
        }
    }

    /// serde names every variant in its complaint about an unknown one.
    fn all_variants<'de, T: Deserialize<'de>>() -> Vec<String> {
        let none: StrDeserializer<'_, Error> = "none".into_deserializer();
        let error = T::deserialize(none).err().unwrap().to_string();
        let quoted = error.split('`').skip(1).step_by(2);
        quoted.skip(1).map(str::to_owned).collect()
    }

    fn names<T: Choice>() -> Vec<&'static str> {
        T::CHOICES.iter().map(|choice| choice.names[0]).collect()
    }

    #[test]
    fn every_variant_has_a_name_and_it_is_the_one_of_serde() {
        names_are_understood::<EngineChoice>();
        names_are_understood::<Precision>();
        names_are_understood::<Isa>();
        names_are_understood::<PixelFormat>();
        assert_eq!(names::<EngineChoice>(), all_variants::<EngineChoice>());
        assert_eq!(names::<Precision>(), all_variants::<Precision>());
        assert_eq!(names::<Isa>(), all_variants::<Isa>());
        // a new pixel format does not compile here until it is counted
        let count = match PixelFormat::Rgb8 {
            PixelFormat::Rgb8
            | PixelFormat::Gray8
            | PixelFormat::Yuyv
            | PixelFormat::Uyvy
            | PixelFormat::Nv12
            | PixelFormat::I420
            | PixelFormat::Mjpeg => 7,
        };
        assert_eq!(names::<PixelFormat>().len(), count);
    }
}
