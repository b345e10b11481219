//! Compiles the protocol of gRPC. protox parses the .proto file itself: no protoc is needed.

use std::error::Error;
use std::path::PathBuf;

use protox::Compiler;

const PROTO: &str = "proto/open_inference.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={PROTO}");
    let mut compiler = Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_file("open_inference.proto")?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .compile_fds(compiler.file_descriptor_set())?;
    // For reflection.
    let described = PathBuf::from(std::env::var("OUT_DIR")?).join("open_inference.bin");
    std::fs::write(described, compiler.encode_file_descriptor_set())?;
    Ok(())
}
