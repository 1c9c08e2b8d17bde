//! What JSON needs to know of each message and method: names, numbers and kinds of fields, in the order in which etcd
//! prints them. `make proto` writes the tables; nothing here knows JSON or gRPC.

/// A message type.
#[derive(Debug)]
pub struct Message {
    pub name: &'static str,
    pub fields: &'static [Field],
}

#[derive(Debug)]
pub struct Field {
    pub number: u32,
    /// As in the `.proto` file.
    pub name: &'static str,
    /// The lower camel case form that JSON may use as well.
    pub json_name: &'static str,
    pub kind: Kind,
    pub repeated: bool,
    /// Its being there says something even when it is zero.
    pub in_oneof: bool,
}

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Bool,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Text,
    Bytes,
    Enum(&'static Enum),
    Message(&'static Message),
}

#[derive(Debug)]
pub struct Enum {
    pub name: &'static str,
    pub values: &'static [(&'static str, i32)],
}

/// A method of a service.
#[derive(Debug)]
pub struct Method {
    /// As gRPC asks for it: `/etcdserverpb.KV/Range`.
    pub path: &'static str,
    pub input: &'static Message,
    pub output: &'static Message,
    pub client_streams: bool,
    pub server_streams: bool,
}

impl Method {
    pub fn find(path: &str) -> Option<&'static Method> {
        METHODS.iter().find(|method| method.path == path)
    }
}

include!("generated/schema.rs");
