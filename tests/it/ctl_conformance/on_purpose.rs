//! Where `lockstepctl` differs from etcdctl on purpose, each with its reason: the list of
//! `docs/COMPATIBILITY.md`.

use super::{Pair, Server, our_etcdctl, speak};
use crate::util::oracle::Etcd;

/// What differs from etcdctl on purpose, each with its reason, against a real etcd.
#[test]
fn lockstepctl_differs_on_purpose() {
    let Some(etcd) = Etcd::V35.program("etcd") else { return };
    let links = tempfile::tempdir().unwrap();
    let ours = Pair { client: our_etcdctl(links.path()), server: etcd };
    let server = Server::start(&ours.server, &[]);
    // line, exit code, standard output, what standard error has to hold
    let cases: &[(&str, i32, &str, &str)] = &[
        ("put a 1", 0, "OK\n", ""),
        ("put b 2", 0, "OK\n", ""),
        // etcdctl waits for ever.
        (r#"--endpoints @X --command-timeout 100ms txn < "\n\n\n""#, 1, "", "Error: context deadline exceeded\n"),
        (r#"txn < "\nget a --help\n\n\n""#, 3, "", "Error: invalid txn request: get a --help\n"),
        // etcdctl panics.
        (r#"txn < "mod(\"a\") >= \"1\"\n\n\n\n""#, 3, "", "unknown operator >="),
        (r#"txn < "lease(\"a\") = \"0\"\n\nget a\n\n\n""#, 0, "SUCCESS\n\na\n1\n", ""),
        (r#"txn < "lease(\"a\") = \"zz\"\n\n\n\n""#, 3, "", "invalid txn compare request"),
        // Newer than 3.5.1.
        ("get a --from-key --min-mod-rev 3", 0, "b\n2\n", ""),
        ("get a --from-key --max-mod-rev 2", 0, "a\n1\n", ""),
        ("get a --from-key --min-create-rev 3", 0, "b\n2\n", ""),
        ("get a --from-key --max-create-rev 2", 0, "a\n1\n", ""),
        ("get a --min-mod-rev x", 1, "<usage>", "invalid argument \"x\" for \"--min-mod-rev\" flag"),
        ("get a --max-mod-rev x", 1, "<usage>", "invalid argument"),
        ("get a --min-create-rev x", 1, "<usage>", "invalid argument"),
        ("get a --max-create-rev x", 1, "<usage>", "invalid argument"),
        ("member list --consistency s -w fields --hex=x", 1, "<usage>", "invalid argument"),
        ("member list --consistency=x", 4, "", "Error: unknown consistency flag \"x\"\n"),
        ("del a b --range", 0, "1\n", ""),
        ("del a b --range=x", 1, "<usage>", "invalid argument"),
        // Not there yet, and said so.
        ("--cert nope get a", 128, "", "Error: --cert is not supported yet\n"),
        ("--key nope get a", 128, "", "Error: --key is not supported yet\n"),
        ("--cacert nope get a", 128, "", "Error: --cacert is not supported yet\n"),
        ("--user root:x get a", 128, "", "Error: --user is not supported yet\n"),
        ("--discovery-srv example.com get a", 128, "", "Error: --discovery-srv is not supported yet\n"),
        ("--insecure-transport=false get a", 128, "", "--insecure-transport=false is not supported yet\n"),
        ("--endpoints https://@E get a", 128, "", ": TLS is not supported yet\n"),
        ("--endpoints https://@E endpoint health", 128, "", ": TLS is not supported yet\n"),
        ("ETCDCTL_CACERT=x get a", 128, "", "Error: --cacert is not supported yet\n"),
        ("ETCDCTL_API=2 ls /", 1, "", "the v2 API (ETCDCTL_API=2) is not supported yet"),
        ("auth status", 1, "", "Error: etcdctl auth status is not supported yet\n"),
        ("defrag --data-dir x", 1, "", "Error: Failed to defragment etcd data[x] (x is no data directory"),
        ("make-mirror --dest-cert x @E", 128, "", "Error: --dest-cert is not supported yet\n"),
        ("make-mirror --dest-key x @E", 128, "", "Error: --dest-key is not supported yet\n"),
        ("make-mirror --dest-cacert x @E", 128, "", "Error: --dest-cacert is not supported yet\n"),
        ("make-mirror --dest-user x:y @E", 128, "", "Error: --dest-user is not supported yet\n"),
        (
            "make-mirror --dest-insecure-transport=false x",
            128,
            "",
            "--dest-insecure-transport=false is not supported yet",
        ),
        ("make-mirror https://x:1", 128, "", "Error: destination https://x:1: TLS is not supported yet\n"),
        ("make-mirror --max-txn-ops 0 x", 128, "", "Error: --max-txn-ops has to be at least 1\n"),
        // etcdctl panics: the answer has no header.
        ("alarm disarm -w fields", 0, "\"ClusterID\" : 0\n\"MemberID\" : 0\n\"Revision\" : 0\n\"RaftTerm\" : 0\n", ""),
        // etcdctl waits for ever.
        ("--endpoints @X --command-timeout 100ms lease list", 2, "", "Error: context deadline exceeded\n"),
        ("--endpoints @X --command-timeout 100ms lease timetolive 5", 2, "", "Error: context deadline exceeded\n"),
        (
            "--endpoints @X --command-timeout 100ms lease keep-alive --once 5",
            2,
            "",
            "Error: context deadline exceeded\n",
        ),
        // etcdctl takes the words before the last that is called like the command for a range.
        ("put k 1", 0, "OK\n", ""),
        ("watch k --rev 2 -- false false", 1, "PUT\nk\n1\n", "command [\"false\" \"false\"] error (exit status 1)\n"),
        // Newer than 3.5.1.
        ("completion", 1, "", "Error: accepts 1 arg(s), received 0\n"),
        ("completion sh", 1, "", "Error: invalid argument \"sh\" for \"etcdctl completion\"\n"),
        ("!__complete lea", 0, "lease\tLeases\n", ""),
        ("!__complete --endpoints @E lease t", 0, "timetolive\tShows a lease\n", ""),
        (
            "!__complete watch --pre",
            0,
            "--prefix\twatch every key that begins with the given one\n\
          --prev-kv\tshow the key-value pair from before each event\n",
            "",
        ),
        ("!__complete -w ta", 0, "table\n", ""),
        ("!__complete get --order = D", 0, "DESCEND\n", ""),
        ("!__complete get --order=D", 0, "--order=DESCEND\n", ""),
        ("!__complete completion z", 0, "zsh\n", ""),
        (
            "!__complete help endpoint h",
            0,
            "health\tChecks whether endpoints are healthy\n\
          hashkv\tPrints the hash of each endpoint's history\n",
            "",
        ),
        ("!__complete bogus x", 0, "", ""),
        ("auth enable", 1, "", "Error: etcdctl auth enable is not supported yet\n"),
        // A message that the Go client refuses to send is refused here, too.
        ("put big < @BIG", 1, "", "trying to send message larger than max"),
        // etcdctl cuts single-quoted words at the number of words.
        (r#"txn < "\nput 'single q' 'x \"y\"'\nget 'single q'\n\n\n""#, 0, "SUCCESS\n\nOK\n\nsingle q\nx \"y\"\n", ""),
    ];
    for (line, code, stdout, stderr) in cases {
        let said = speak(&ours.client, &server, line);
        let out = String::from_utf8_lossy(&said.stdout);
        let out = if out.starts_with("NAME:") { "<usage>" } else { &out };
        assert_eq!((said.code, out), (Some(*code), *stdout), "{line}: {}", String::from_utf8_lossy(&said.stderr));
        let err = String::from_utf8_lossy(&said.stderr);
        assert!(err.contains(stderr) && (!stderr.is_empty() || err.is_empty()), "{line}: {err}");
    }
}
