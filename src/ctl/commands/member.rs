//! `member list`: who is in the cluster.

use crate::ctl::client::Client;
use crate::ctl::{Context, Failure};

pub static LIST_LONG: &str = "With --write-out=simple every member is a line of comma-separated items:
ID, status, name, peer addresses, client addresses, is learner.
";

pub fn list(context: &mut Context) -> Result<(), Failure> {
    let response = Client::open(context)?.member_list()?;
    context.printer.member_list(&response)
}
