//! The conversations of the conformance test: command lines as one would type them, good ones and bad ones.
//!
//! A line is `[NAME=value …] words… [< "standard input"]`. Words may be quoted: 'as it is' or "with \n, \t and \xff".
//! `@E` is the server's `host:port`, `@X` an address where nobody listens; a line without either gets
//! `--endpoints=@E` in front, unless it begins with `!`. `#` begins a comment. `@L` is the last lease that was granted,
//! `@M` the last member that was added.
//!
//! Commands that go on have a name of capitals: `A> words…` starts one, `A< "text"` writes to it, `A? 3` waits until it
//! has printed three lines (a bar is one each time it is drawn), `A!INT` and `A!TERM` send it a signal, `A.` waits for
//! its end. `pause 300` waits so many milliseconds.

/// A named conversation; each gets a fresh server. One `of etcd 3.5` is of what etcd does otherwise since, or should:
/// our server is not asked.
pub struct Session {
    pub name: &'static str,
    /// What the server is started with.
    pub flags: &'static [&'static str],
    pub lines: &'static str,
}

pub const SESSIONS: &[Session] = &[
    Session {
        name: "put",
        flags: &[],
        lines: r#"
put a 1
put a 2 --prev-kv
put a 3 --prev-kv=false
put --prev-kv=x a 3
put b < "from stdin\nwith lines\n"
put b < ""
put
put a b c
put "" v
put key -- -value
put -- -key -value
put key -value
put a --ignore-value
put a 4 --ignore-value
put missing --ignore-value
put a --ignore-value=x
put a 5 --ignore-lease
put missing 5 --ignore-lease
put a 5 --ignore-lease=x
put a 5 --lease 0
put a 5 --lease 123
put a 5 --lease=zz
put a 5 --lease ""
put a 5 --lease 99999999999999999999
put a 5 --lease -5
put a 5 --lease 1 --ignore-lease
put a --ignore-value --ignore-lease --prev-kv
put "\xff\x01key" "\xfevalue\n"
get "\xff\x01key" --hex
get "\xff\x01key"
-w json get "\xff\x01key"
-w fields get "\xff\x01key"
put a 1 -w fields --prev-kv
put a 1 -w json --prev-kv
put a 1 -w json
put a 1 -w protobuf --prev-kv
put a 1 -w table
put a "<&>\u00e9 \"quoted\" \\ \t" -w json --prev-kv
-w=fields put a "\u00e9\u0301\u200b\x7f\x01\a\v" --prev-kv
-wfields get a
put a 1 --unknown
put a 1 --hex --prev-kv
endpoint hashkv
"#,
    },
    Session {
        name: "get",
        flags: &[],
        lines: r#"
put a 5
put ab 4
put abc 3
put b 2
put b 3
put c 1
put "\xff\xff" last
get
get a
get a b
get a b c
get a ""
get "" b
get ""
get nothing
get a --prefix
get "" --prefix
get "" --prefix=false
get "\xff" --prefix
get a --prefix=x
get a c --prefix
get a --from-key
get "" --from-key
get a c --from-key
get a --from-key=x
get a --prefix --from-key
get a --prefix --limit 2
get a --prefix --limit=0x1
get a --prefix --limit 0b1
get a --prefix --limit 1_0
get a --prefix --limit 1__0
get a --prefix --limit=-1
get a --limit x
get a --limit
get a --limit 9223372036854775808
get a --from-key --order ascend
get a --from-key --order DESCEND
get a --from-key --order=
get a --order up
get "" --from-key --sort-by create --order descend
get "" --from-key --sort-by KEY --order ASCEND
get "" --from-key --sort-by modify
get "" --from-key --sort-by VALUE --order ASCEND
get "" --from-key --sort-by version --order DESCEND --limit 2
get a --sort-by size
get b --rev 5
get b --rev 6 -w json
get b --rev 100
get b --rev=-1
get b --rev x
get b --keys-only
get a --prefix --keys-only -w json
get b --keys-only=x
get b --keys-only --count-only
get b --count-only
get b --count-only -w json
get b --count-only -w fields
get a --prefix --count-only -w fields
get b --count-only -w protobuf
get b --count-only=x
get b --print-value-only
get a --prefix --print-value-only --hex
get b --print-value-only -w fields
get b --print-value-only=x
get b --consistency s
get b --consistency=l
get b --consistency x
get b --consistency ""
get a --prefix --limit 2 -w json
get a --prefix --limit 2 -w fields
get a --prefix -w protobuf
get nothing -w json
get nothing -w fields
get nothing -w protobuf
get a -w table
get a -w yaml
get a -w ""
get a -w
get a -wx
get a --hex
get a --hex=false
get a --hex=x
get a --hexx
compaction 4
get b --rev 2
get b --rev 4
ge a
"#,
    },
    Session {
        name: "del",
        flags: &[],
        lines: r#"
put a 1
put ab 2
put abc 3
put b 4
put c 5
del
del a b c
del nothing
del a --prev-kv
del a --prev-kv=x
del ab b --prev-kv -w json
put ab 2
put abc 3
del a --prefix --prev-kv
del a --prefix=x
del a c --prefix
del a c --from-key
del a --prefix --from-key
del a --from-key=x
del ""
put x 1
del b --prev-kv -w fields
del c --prev-kv -w protobuf
del x --from-key
del "" --from-key
put x 1
put y 1
del "" --prefix -w json
del x -w table
del x -w fields
del x --hex --prev-kv
put x 1
del x --hex --prev-kv
del x --nope
del c b
endpoint hashkv -w fields
"#,
    },
    Session {
        name: "txn",
        flags: &[],
        lines: r#"
put a 1
put b 2
txn < "mod(\"a\") > \"1\"\n\nput r yes\nget a\n\nput r no\n\n"
txn < "mod(\"a\") = \"1\"\n\nput r yes\n\nput r no\nget r\ndel b\n\n"
txn -i < "\n\n\n"
txn --interactive < "val(\"a\") = \"1\"\n\nget a\n\n\n"
txn -i=false < "value(\"a\") != \"1\"\n\n\nget a\n\n"
txn -i=x
txn -ix
txn --interactive=x
txn extra
txn < ""
txn -i < ""
txn < "\n\n"
txn < "\nput a b"
txn < "ver(\"a\") = \"1\"\nversion(\"a\") > \"0\"\nc(\"a\") < \"100\"\ncreate(\"a\") != \"0\"\nm(\"a\") > \"0\"\n\nget a\n\n\n"
txn < "x\n\n\n\n"
txn < "mod(\"a\" > \"1\"\n\n\n\n"
txn < "mod(a) > 1\n\n\n\n"
txn < "mod(\"a\") > \"x\"\n\n\n\n"
txn < "mod(\"a\")> \"1\"\n\n\n\n"
txn < "mod(\"a\") >\"1\"\n\n\n\n"
txn < "mod(\"a\") > \"1\n\n\n\n"
txn < "mod(\"a\") >\n\n\n\n"
txn < "mod(\"a\")\n\n\n\n"
txn < "mod(\"a\n\n\n\n"
txn < "mod (\"a\") > \"1\"\n\n\n\n"
txn < "foo(\"a\") > \"1\"\n\n\n\n"
txn < "mod(\"\\x61\\u00e9\\n\\141\") != \"0\"\n\n\n\n"
txn < "mod(\"\\q\") != \"0\"\n\n\n\n"
txn < "mod(`a`) != `0`\n\nget a\n\n\n"
txn < "val('a') = '1'\n\n\n\n"
txn < "  val(\"a\")   =   \"1\"   trailing\n\n  get a  \n\n\n"
txn < "val(\"a\") = \"1\"\t\r\n\r\nget a\r\n\n\n"
txn < "\nx\n\n\n"
txn < "\nput\n\n\n"
txn < "\nput a\n\n\n"
txn < "\nfrob a\n\n\n"
txn < "\nget a b c\n\n\n"
txn < "\nget --bogus a\n\n\n"
txn < "\nget a --rev=x\n\n\n"
txn < "\nget a --rev 1\n\n\n"
txn < "\nget a --rev 1000\n\n\n"
txn < "\nput \"a b\" \"c\\n\\\"d\\\"\"\nput 's' 'x'\n\n\n"
txn < "\nget \"a b\"\nget s\n\n\n"
txn < "\nput \"a\n\n\n"
txn < "\nput a \"\\q\"\n\n\n"
txn < "\nput a b --lease 5\n\n\n"
txn < "\nput a b --lease x\n\n\n"
txn < "\nput a c --prev-kv\ndel b --prev-kv\nget \"\" --from-key --keys-only --limit 2\n\n\n" -w json
txn < "\nput a b\nget a\n\n\n" -w fields
txn < "\nput a2 b\nget a2\ndel a2\n\n\n" -w protobuf
txn < "\nput a3 b\n\n\n" -w table
txn < "\n\n\n" -w yaml
txn < "mod(\"a\") > \"9999\"\n\n\n\n" -w json
txn < "mod(\"a\") > \"9999\"\n\n\n\n" -w fields
txn < "\nput a 1\nput a 2\n\n\n"
txn < "\nput a --ignore-value --prev-kv\n\n\n"
txn < "\nget a c --prefix\n\n\n"
txn < "\ndel a b c\n\n\n"
txn < "\nget a --consistency x\n\n\n"
txn < "\nget -- -a\n\n\n"
txn < "\ng a\n\n\n"
txn --nope
endpoint hashkv -w table
"#,
    },
    Session {
        name: "compaction",
        flags: &[],
        lines: r#"
put a 1
put a 2
put a 3
compaction
compaction 1 2
compaction x
compaction 99999999999999999999
compaction 1000
compaction -- -1
compaction 2
compaction 2
compaction 1
compaction 3 --physical
compaction 4 --physical=x
compaction 4 --physical=false -w json
compaction 4 -w yaml
compac 4
put a 4
compaction 5 -w table
compaction 0
endpoint hashkv
endpoint hashkv -w json
get a --rev 3
"#,
    },
    Session {
        name: "endpoint",
        flags: &[],
        lines: r#"
put a 1
put a 2
del a
endpoint health
endpoint health -w json
endpoint health -w fields
endpoint health -w table
endpoint health -w protobuf
endpoint health -w yaml
endpoint health --cluster
endpoint --cluster health -w json
--cluster endpoint health
endpoint health --cluster=x
endpoint health --bogus
endpoint health extra
endpoint status
endpoint status -w json
endpoint status -w fields
endpoint status -w table
endpoint status -w protobuf
endpoint status -w yaml
endpoint --cluster status -w table
endpoint status --cluster
endpoint status --cluster -w json
endpoint hashkv
endpoint hashkv -w json
endpoint hashkv -w fields
endpoint hashkv -w table
endpoint hashkv -w protobuf
endpoint hashkv -w yaml
endpoint hashkv --rev 2
endpoint hashkv --rev=3 -w json
endpoint hashkv --rev 100
endpoint hashkv --rev x
endpoint --cluster hashkv -w fields
endpoint
endpoint bogus
endpoint h
endpoint stat
endpoint --help
--endpoints http://@E endpoint status
--endpoints http://@E/ endpoint hashkv
--endpoints @E,@E endpoint hashkv
--endpoints @E --endpoints http://@E endpoint hashkv -w table
--endpoints '"@E"' endpoint hashkv
--endpoints "" endpoint health
--endpoints "" endpoint health -w json
--endpoints "" endpoint health -w table
--endpoints "" endpoint status
--endpoints "" endpoint health --cluster
"#,
    },
    Session {
        name: "dead endpoints",
        flags: &[],
        lines: r#"
put a 1
--endpoints @X --command-timeout 200ms get a
--endpoints @X --command-timeout=200ms put a b
--endpoints @X --command-timeout=200ms del a
--endpoints @X --command-timeout=200ms compaction 1
--endpoints @X --command-timeout=200ms member list
--endpoints @X --command-timeout=200ms endpoint health
--endpoints @X --command-timeout=200ms endpoint health -w json
--endpoints @X --command-timeout=200ms endpoint health -w fields
--endpoints @X --command-timeout=200ms endpoint health -w table
--endpoints @X --command-timeout=200ms endpoint status
--endpoints @X --command-timeout=200ms endpoint status -w json
--endpoints @X --command-timeout=200ms endpoint status -w table
--endpoints @X --command-timeout=200ms endpoint hashkv
--endpoints @X --command-timeout=200ms endpoint hashkv -w json
--endpoints @X --command-timeout=200ms endpoint status --cluster
--endpoints @X --command-timeout=200ms endpoint health --cluster
--endpoints @X,@E --command-timeout=400ms endpoint health
--endpoints @X,@E --command-timeout=400ms endpoint status
--endpoints @E,@X --command-timeout=400ms endpoint hashkv
--endpoints @E,@X --command-timeout=400ms endpoint hashkv -w table
--endpoints @E, --command-timeout=400ms endpoint hashkv
--endpoints @X,@E get a
--endpoints @E,@X put a 2
--endpoints http://@X,http://@E get a --rev 999
--endpoints @X,@E endpoint health --cluster
--endpoints @X,@E member list
--endpoints unix:///nowhere/socket --command-timeout 100ms get a # @X
--endpoints unix://nowhere --command-timeout 100ms get a # @X
--endpoints 127.0.0.1:99999 --command-timeout 100ms get a # @X
--endpoints 127.0.0.1:a/b --command-timeout 100ms get a # @X
--endpoints ::1:1 --command-timeout 100ms get a # @X
--endpoints ftp://@E --command-timeout 100ms put a b
--endpoints HTTP://@E/path get a
--endpoints nowhere --command-timeout 100ms get a # @X
--endpoints "no where" --command-timeout 100ms get a # @X
--endpoints " @E" get a
--endpoints "" get a
--endpoints "" put a b
--endpoints "" member list
--endpoints 'x"y' get a
--endpoints '"x' get a
--endpoints '"x"y' get a
--endpoints
"#,
    },
    Session {
        name: "changes of members",
        // So the server's id is the largest, and the list of members in the same order in every run.
        flags: &["--initial-cluster-token=token-23601"],
        lines: r#"
member add
member add a b
member add a http://x HTTP://y
member add x
member add x --peer-urls
member add x --peer-urls=
member add x --peer-urls foo
member add x --peer-urls localhost:2380
member add x --peer-urls 127.0.0.1:2380
member add x --peer-urls :2380
member add x --peer-urls http://a
member add x --peer-urls http://
member add x --peer-urls ftp://a:1
member add x --peer-urls http://a:1/x
member add x --peer-urls http://a:1/
member add x --peer-urls "http://a :1"
member add x --peer-urls http://[::1
member add x --peer-urls http://::1:2
member add x --peer-urls http://a:b
member add x --peer-urls http://a:1,http://b
member add x --peer-urls http://10.0.0.1:2380
member add x --learner=x --peer-urls http://10.0.0.2:2380
member add learner --learner --peer-urls http://10.0.0.2:2380,http://host-2:2381
member list
member list -w json
member list -w table
endpoint status
member add x --learner --peer-urls http://10.0.0.2:2380
member add x --learner --peer-urls http://10.0.0.3:2380
member promote
member promote x
member promote 5
member promote @M
member promote @M -w json
member update
member update x
member update 5
member update 5 --peer-urls
member update 5 --peer-urls http://a
member update 5 --peer-urls http://10.0.0.4:2380
member update @M --bogus
move-leader
move-leader 1 2
move-leader x
move-leader 10000000000000000
move-leader 0
move-leader 5
--endpoints @X --command-timeout 200ms move-leader 5
member remove
member remove x
member remove "" -w json
member remove -1
member remove 10000000000000000
member remove 5
--endpoints @X --command-timeout 200ms member remove 5
--endpoints @X --command-timeout 200ms member add x --peer-urls http://10.0.0.2:2380
member remove @M
member remove @M
member add "a\"\u00e9 b" --learner --peer-urls http://10.0.0.5:2380
member remove @M -w json
member add json --learner --peer-urls http://10.0.0.6:2380 -w json
member add --help
"#,
    },
    Session {
        name: "a member's new address",
        flags: &["--initial-cluster-token=token-23601"],
        lines: r#"
member add learner --learner --peer-urls http://10.0.0.2:2380
member update @M --peer-urls http://10.0.0.4:2380
member update @M --peer-urls http://10.0.0.4:2380 -w fields
member update @M --peer-urls http://10.0.0.4:2380 -w table
member update @M --peer-urls http://10.0.0.4:2380 -w yaml
member remove @M
"#,
    },
    Session {
        // It is a learner no more there; one of ours stays what it was.
        name: "a learner's new address, of etcd 3.5",
        flags: &["--initial-cluster-token=token-23601"],
        lines: r#"
member add learner --learner --peer-urls http://10.0.0.2:2380
member update @M --peer-urls=http://10.0.0.4:2380 -w json
member list
member remove 5
member remove @M
"#,
    },
    Session {
        name: "alarms",
        flags: &["--quota-backend-bytes=16384"],
        lines: r#"
alarm
alarm bogus
alarm list x
alarm disarm x
alarm list --bogus
alarm list
alarm list -w json
alarm list -w fields
alarm disarm
alarm disarm -w json
put a 1
alarm list
alarm list -w json
alarm list -w fields
alarm list -w protobuf
alarm list -w table
alarm list -w yaml
endpoint health
endpoint status
endpoint status -w table
alarm disarm -w json
alarm list
put a 1
alarm disarm
alarm disarm -w protobuf
put a 1
alarm disarm -w table
--endpoints @X --command-timeout 200ms alarm list
--endpoints @X --command-timeout 200ms alarm disarm
"#,
    },
    Session {
        name: "defragmentation",
        flags: &["--quota-backend-bytes=0"],
        lines: r#"
put a 1
put a 2
compaction 3 --physical
defrag
defrag words are ignored
defrag --cluster
defrag --cluster=x
defrag --bogus
defrag -w json
defrag -w yaml
--endpoints @E,http://@E defrag
--endpoints @X,@E --command-timeout 300ms defrag
--endpoints @X --command-timeout 200ms defrag --cluster
get a
"#,
    },
    Session {
        name: "member and version",
        flags: &[],
        lines: r#"
member list
member list -w json
member list -w json --hex
member list -w fields
member list -w fields --hex
member list -w table
member list -w table --hex
member list -w protobuf
member list -w yaml
member list --hex
member list extra words
member list --bogus
member
member bogus
member li
me list
m list
member --help
version
version -w json
version -w yaml
version extra
version --bogus
vers
"#,
    },
    Session {
        name: "command lines",
        flags: &[],
        lines: r#"
put a 1

help
help get
help endpoint
help endpoint status
help bogus
--help
-h
get --help
get -h
get -hw json
bogus
gett a
GET a
e
sattus
--version
-x get a
get -x a
get -zx
get --=x a
get ---x a
get a --
get -- a
-w json get a
get -w json a
get a -w json
get a -w=json
get a -wjson
get a --write-out json
get a --write-out=json
get a --write-out
-w
--hex get a
--hex=true get a
--hex=1 get a
--hex=T get a
--hex=yes get a
--hex=1 --hex=0 get a
--debug=x get a
--debug=false get a
--debug get a
--debug put a 1
--debug=true endpoint status
--debug --hex -w fields --command-timeout 90s --keepalive-time 1m30s member list
--dial-timeout 1s get a
--dial-timeout=0s get a
--dial-timeout 5 get a
--dial-timeout x get a
--dial-timeout get a
--command-timeout 1500ms get a
--command-timeout=1.5s get a
--command-timeout=1h2m3s4ms5us6ns get a
--command-timeout 0s get a
--command-timeout=-1s get a
--command-timeout 0s put a 1
--command-timeout 0s endpoint health
--command-timeout 0s endpoint status
--command-timeout "" get a
--command-timeout 5 get a
--command-timeout 5x get a
--command-timeout .s get a
--command-timeout 9999999999h get a
--keepalive-time 3s get a
--keepalive-time=0 get a
--keepalive-time x get a
--keepalive-timeout 3s get a
--keepalive-timeout 1d get a
--insecure-transport get a
--insecure-transport=true get a
--insecure-transport=x get a
--insecure-discovery=false get a
--insecure-discovery=x get a
--insecure-skip-tls-verify get a
--insecure-skip-tls-verify=x get a
--cert "" get a
--key "" get a
--cacert "" get a
--cacert= get a
--cert
--key
--cacert
--user "" get a
--user
--password secret get a
--password
--discovery-srv "" get a
-d "" get a
-d
--discovery-srv
--discovery-srv-name etcd get a
--discovery-srv-name
"#,
    },
    Session {
        name: "alarm",
        flags: &["--quota-backend-bytes=16384"],
        lines: r#"
put a 1
put a 2
get a
endpoint health
endpoint health -w json
endpoint health -w fields
endpoint health -w table
endpoint health --cluster
endpoint status
endpoint status -w json
endpoint status -w fields
endpoint status -w table
--endpoints @E,http://@E endpoint status -w table
txn < "\nput a 1\n\n\n"
del a
"#,
    },
    Session {
        name: "environment",
        flags: &[],
        lines: r#"
put a 1
!ETCDCTL_ENDPOINTS=@E get a
!ETCDCTL_ENDPOINTS=@E endpoint health
!ETCDCTL_ENDPOINTS=@E endpoint status -w table
!ETCDCTL_ENDPOINTS=@E --endpoints=@E get a
!ETCDCTL_ENDPOINTS=@E --endpoints=@E endpoint health
!ETCDCTL_ENDPOINTS=@E version --endpoints=@E
!ETCDCTL_ENDPOINTS= --endpoints=@E get a
!ETCDCTL_ENDPOINTS=@E,@E endpoint hashkv
ETCDCTL_API=3 get a
ETCDCTL_API= get a
ETCDCTL_API=4 get a
ETCDCTL_WRITE_OUT=json get a
ETCDCTL_WRITE_OUT=yaml get a
ETCDCTL_WRITE_OUT=json get a -w fields
ETCDCTL_WRITE_OUT= get a
ETCDCTL_HEX=true get a
ETCDCTL_HEX=x get a
ETCDCTL_HEX=true get a --hex=false
ETCDCTL_CLUSTER=true endpoint health
ETCDCTL_CLUSTER=true get a
ETCDCTL_CLUSTER=true endpoint health --cluster
ETCDCTL_FOO=1 get a
ETCDCTL_FOO=1 ETCDCTL_BAR="two words" put a 1
ETCDCTL_FOO=1 version
ETCDCTL_FOO=1 get
ETCDCTL_REV=1 get a
ETCDCTL_DEBUG=true get a
ETCDCTL_DEBUG=x get a
ETCDCTL_CERT= get a
ETCDCTL_COMMAND_TIMEOUT=4s get a
ETCDCTL_DIAL_TIMEOUT=4s get a
ETCDCTL_KEEPALIVE_TIME=4s ETCDCTL_KEEPALIVE_TIMEOUT=5s get a
ETCDCTL_INSECURE_TRANSPORT=true get a
ETCDCTL_INSECURE_DISCOVERY=true ETCDCTL_INSECURE_SKIP_TLS_VERIFY=true get a
ETCDCTL_PASSWORD=x ETCDCTL_DISCOVERY_SRV_NAME=y get a
ETCD_NAME=x get a
etcdctl_hex=true get a
"#,
    },
];
