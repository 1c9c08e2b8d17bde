//! Writes `proto/src/generated/*.rs` from `proto/protos/*.proto`, with a compiler that is itself Rust:
//! no protoc. The result is checked in, so a build of Lockstep never runs this.

mod schema;

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("gen/ lies in proto/");
    let protos = root.join("protos");
    let out = root.join("src/generated");
    std::fs::create_dir_all(&out)?;
    let files = ["mvccpb", "authpb", "rpc", "raft_internal", "raftpb", "lease", "v3lock", "v3election", "health"]
        .map(|name| protos.join(format!("{name}.proto")));
    let descriptors = protox::compile(files, [&protos])?;
    std::fs::write(out.join("schema.rs"), schema::write(&descriptors))?;
    tonic_prost_build::configure()
        .bytes(".mvccpb")
        .bytes(".etcdserverpb.RangeRequest")
        .bytes(".etcdserverpb.PutRequest")
        .bytes(".etcdserverpb.DeleteRangeRequest")
        .bytes(".etcdserverpb.Compare")
        .bytes(".raftpb")
        .bytes(".etcdserverpb.SnapshotResponse")
        .server_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .client_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .out_dir(&out)
        .compile_fds(descriptors)?;
    Ok(())
}
