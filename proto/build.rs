//! Compiles the protobuf sources with `protox`, so that no system `protoc` is needed.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("proto");
    let mut sources: Vec<_> = std::fs::read_dir(root.join("hearth/v1"))?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    sources.sort();
    println!("cargo:rerun-if-changed=proto/hearth/v1");
    let descriptors = protox::compile(&sources, [root])?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
