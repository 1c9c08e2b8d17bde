//! Everything that is tested through the public surface: programs, sockets, files. One binary, so that it links once.

#[path = "it/util/mod.rs"]
mod util;

#[cfg(feature = "server")]
#[path = "it/peer.rs"]
mod peer;
#[cfg(feature = "server")]
#[path = "it/peer_codec.rs"]
mod peer_codec;
#[cfg(feature = "server")]
#[path = "it/peer_oracle.rs"]
mod peer_oracle;
