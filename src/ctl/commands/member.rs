//! `member add | remove | update | list | promote`: who is in the cluster, and who is to be.

use lockstep_proto::etcdserverpb::{MemberAddRequest, MemberUpdateRequest};

use crate::ctl::client::Client;
use crate::ctl::flags::{Flag, Kind, flag};
use crate::ctl::golang::{parse_id, quote};
use crate::ctl::printer::Format;
use crate::ctl::{Context, Failure, code, emit};

pub static ADD_FLAGS: &[Flag] = &[
    flag("peer-urls", Kind::Text, "", "comma-separated peer URLs of the new member"),
    flag("learner", Kind::Bool, "false", "add it as a learner, which has no vote"),
];
pub static UPDATE_FLAGS: &[Flag] =
    &[flag("peer-urls", Kind::Text, "", "comma-separated peer URLs the member has from now on")];
/// Newer than 3.5.1, as is `downgrade`.
pub static LIST_FLAGS: &[Flag] = &[flag(
    "consistency",
    Kind::Text,
    "l",
    "linearizable (l) list, or the serializable (s) one of the member that answers",
)];
pub static LIST_LONG: &str = "With --write-out=simple every member is a line of comma-separated items:
ID, status, name, peer addresses, client addresses, is learner.
";
pub static ADD_LONG: &str = "With --write-out=simple the settings follow that the new member has to be started with.
";

pub fn add(context: &mut Context) -> Result<(), Failure> {
    let refuse = |text: String| Err(Failure::new(code::BAD_ARGS, text));
    let name = match context.flags.args.as_slice() {
        [] => return refuse("member name not provided".into()),
        [name] => name.clone(),
        words => {
            let words = words.iter().map(|word| String::from_utf8_lossy(word));
            let urls = words.filter(|word| word.to_lowercase().starts_with("http"));
            let hints = urls.map(|url| format!(", did you mean --peer-urls={url}"));
            return refuse("too many arguments".to_string() + &hints.collect::<String>());
        }
    };
    let given = peer_urls(context)?;
    let client = Client::open(context)?;
    let peer_ur_ls = check_urls(&given)?;
    let response = client.member_add(MemberAddRequest { peer_ur_ls, is_learner: context.flags.bool("learner") })?;
    context.printer.member_add(&response)?;
    if context.printer.format == Format::Simple {
        let id = response.member.map(|member| member.id).unwrap_or_default();
        let name = String::from_utf8_lossy(&name);
        let of = |member: &lockstep_proto::etcdserverpb::Member| {
            let name = if member.id == id { name.to_string() } else { member.name.clone() };
            member.peer_ur_ls.iter().map(|url| format!("{name}={url}")).collect::<Vec<_>>()
        };
        let cluster = response.members.iter().flat_map(of).collect::<Vec<_>>().join(",");
        emit(
            format!(
                "\nETCD_NAME={}\nETCD_INITIAL_CLUSTER={}\nETCD_INITIAL_ADVERTISE_PEER_URLS={}\n\
                 ETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
                quote(name.as_bytes()),
                quote(cluster.as_bytes()),
                quote(given.as_bytes())
            )
            .as_bytes(),
        );
    }
    Ok(())
}

pub fn remove(context: &mut Context) -> Result<(), Failure> {
    let id = member_id(context)?;
    let response = Client::open(context)?.member_remove(id)?;
    context.printer.member_remove(id, &response)
}

pub fn update(context: &mut Context) -> Result<(), Failure> {
    let id = member_id(context)?;
    let given = peer_urls(context)?;
    let client = Client::open(context)?;
    let response = client.member_update(MemberUpdateRequest { id, peer_ur_ls: check_urls(&given)? })?;
    context.printer.member_update(id, &response)
}

pub fn list(context: &mut Context) -> Result<(), Failure> {
    let linearizable = match context.flags.bytes("consistency") {
        b"l" => true,
        b"s" => false,
        other => {
            let text = format!("unknown consistency flag {}", quote(other));
            return Err(Failure::new(code::BAD_FEATURE, text));
        }
    };
    let response = Client::open(context)?.member_list(linearizable)?;
    context.printer.member_list(&response)
}

pub fn promote(context: &mut Context) -> Result<(), Failure> {
    let id = member_id(context)?;
    let response = Client::open(context)?.member_promote(id)?;
    context.printer.member_promote(id, &response)
}

fn member_id(context: &Context) -> Result<u64, Failure> {
    let [id] = context.flags.args.as_slice() else {
        return Err(Failure::new(code::BAD_ARGS, "member ID is not provided"));
    };
    parse_id(id).map_err(|why| Failure::new(code::BAD_ARGS, format!("bad member ID arg ({why}), expecting ID in Hex")))
}

fn peer_urls(context: &Context) -> Result<String, Failure> {
    match context.flags.text("peer-urls") {
        urls if urls.is_empty() => Err(Failure::new(code::BAD_ARGS, "member peer urls not provided")),
        urls => Ok(urls),
    }
}

/// The URLs as they were written: a bad one is told before anybody is asked, in the words of Go's client.
fn check_urls(list: &str) -> Result<Vec<String>, Failure> {
    let check = |url: &str| match check_url(url.trim()) {
        Ok(()) => Ok(url.to_string()),
        Err(why) => Err(Failure::new(code::ERROR, why)),
    };
    list.split(',').map(check).collect()
}

fn check_url(url: &str) -> Result<(), String> {
    let is_name = |scheme: &str| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    };
    let parse = |why: &str| Err(format!("parse {}: {why}", quote(url.as_bytes())));
    let scheme = url.split_once(':').map(|(scheme, _)| scheme).filter(|scheme| is_name(scheme)).unwrap_or_default();
    if scheme.is_empty() && url.split('/').next().is_some_and(|segment| segment.contains(':')) {
        return match url.starts_with(':') {
            true => parse("missing protocol scheme"),
            false => parse("first path segment in URL cannot contain colon"),
        };
    }
    let rest = url[scheme.len()..].strip_prefix("://").unwrap_or_default();
    let (address, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = address.rsplit_once('@').map_or(address, |(_, host)| host);
    if let Some(bad) = host.chars().find(|c| " \"<>\\^`{|}".contains(*c)) {
        return parse(&format!("invalid character {} in host name", quote(bad.to_string().as_bytes())));
    }
    if host.starts_with('[') && !host.contains(']') {
        return parse("missing ']' in host");
    }
    let port = host.rsplit_once(']').map_or(host, |(_, port)| port);
    let port = port.rfind(':').map_or("", |at| &port[at..]);
    if port.chars().skip(1).any(|c| !c.is_ascii_digit()) {
        return parse(&format!("invalid port {} after host", quote(port.as_bytes())));
    }
    if !["http", "https", "unix", "unixs"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
        return Err(format!("URL scheme must be http, https, unix, or unixs: {url}"));
    }
    let names = host.strip_suffix(port).unwrap_or(host);
    if port.is_empty() || (names.contains(':') && !names.starts_with('[')) {
        return Err(format!("URL address does not have the form \"host:port\": {url}"));
    }
    if path.starts_with('/') {
        return Err(format!("URL must not contain a path: {url}"));
    }
    Ok(())
}
