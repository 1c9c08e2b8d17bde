//! Who is in the cluster, as the replicated machine sees it.

pub mod ids;
