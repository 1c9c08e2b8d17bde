//! Everything that is tested through the public surface: programs, sockets, files. One binary, so that it links once.

#[path = "it/flags.rs"]
mod flags;
#[path = "it/http.rs"]
mod http;
#[path = "it/util/mod.rs"]
mod util;
