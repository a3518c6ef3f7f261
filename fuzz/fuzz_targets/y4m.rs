#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    vovcam::fuzz::y4m(bytes);
});
