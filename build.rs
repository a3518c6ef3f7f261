//! Compiles what is not Rust: the caller of libjpeg-turbo and, with the feature `cuda`, the CUDA
//! engine's kernels to PTX.

use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = "src/engine/cuda/kernels.cu";
const JPEG_DECODER: &str = "src/capture/jpeg/decoder.c";

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    compile_jpeg_decoder();
    if std::env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return;
    }
    println!("cargo::rerun-if-changed={SOURCE}");
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "CUDA_COMPUTE_CAP"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    if let Err(reason) = compile() {
        println!("cargo::error={reason}");
    }
}

fn compile_jpeg_decoder() {
    println!("cargo::rerun-if-changed={JPEG_DECODER}");
    // where mozjpeg-sys has its headers
    let headers = std::env::var_os("DEP_JPEG_INCLUDE").unwrap_or_default();
    cc::Build::new()
        .std("c11")
        .file(JPEG_DECODER)
        .includes(std::env::split_paths(&headers))
        .compile("vovcam_jpeg");
}

fn compile() -> Result<(), String> {
    let nvcc = nvcc();
    if nvcc.is_file() {
        println!("cargo::rerun-if-changed={}", nvcc.display()); // another toolkit, other kernels
    }
    // PTX for an older GPU runs on all newer ones; 7.5 is the oldest that CUDA 13 compiles for
    let capability = std::env::var("CUDA_COMPUTE_CAP").unwrap_or_else(|_| "75".to_owned());
    if capability.is_empty() || !capability.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!(
            "CUDA_COMPUTE_CAP: expected digits such as '87' for compute capability 8.7, got '{capability}'"
        ));
    }
    let out = std::env::var_os("OUT_DIR").ok_or("cargo sets no OUT_DIR")?;
    let ptx = Path::new(&out).join("kernels.ptx");
    let output = Command::new(&nvcc)
        .args(["--ptx", "-O3", "-std=c++17"])
        .arg(format!("-arch=compute_{capability}"))
        .arg("-o")
        .arg(&ptx)
        .arg(SOURCE)
        .output()
        .map_err(|error| {
            format!(
                "the feature 'cuda' needs the CUDA compiler '{}': {error}; install the CUDA \
                 toolkit, or name it with NVCC or CUDA_HOME",
                nvcc.display()
            )
        })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).replace('\n', " | ");
    Err(format!(
        "'{}' cannot compile {SOURCE}: {message}",
        nvcc.display()
    ))
}

fn nvcc() -> PathBuf {
    if let Some(nvcc) = std::env::var_os("NVCC") {
        return nvcc.into();
    }
    ["CUDA_HOME", "CUDA_PATH"]
        .into_iter()
        .filter_map(std::env::var_os)
        .chain(["/usr/local/cuda".into()])
        .map(|home| Path::new(&home).join("bin/nvcc"))
        .find(|nvcc| nvcc.is_file())
        .unwrap_or_else(|| "nvcc".into())
}
