//! The conversations of what goes on over time: leases, watches, locks and elections.

use super::sessions::Session;

pub const WAITING: &[Session] = &[
    Session {
        name: "mirror",
        flags: &[],
        lines: r#"
put a/1 one
put a/2 two
put a/3 three
put a/2 two again
lease grant 300
put a/leased x --lease @L
put other no
make-mirror
make-mirror a b
make-mirror --prefix
make-mirror --dest-prefix
make-mirror --no-dest-prefix=x a
make-mirror --bogus a
--endpoints @E make-mirror --prefix a/ --dest-prefix b/ --no-dest-prefix @E
A> --endpoints @E make-mirror --prefix a/ --dest-prefix b/ @E
B> --endpoints @E make-mirror --prefix=a/ --no-dest-prefix @E
pause 1000
get b/ --prefix
get 0 9
del a/1
put a/4 four
txn < "\nput a/5 five\nput a/6 six\ndel a/3\nput away too\n\n\n"
pause 500
get b/ --prefix
get 0 9
get leased
del a/ --prefix
pause 500
get b/ --prefix
get 0 9 --keys-only
A!INT
A.
compaction 10
B!TERM
B.
--endpoints @X --command-timeout 100ms member list
"#,
    },
    Session {
        name: "lease",
        flags: &[],
        lines: r#"
lease grant
lease grant 1 2
lease grant x
lease grant 99999999999
lease grant 99999999999999999999
lease grant -- -5
lease grant 0
lease grant 100
lease grant 100 -w json
lease grant 100 -w fields
lease grant 100 -w protobuf
lease grant 100 -w table
lease grant 100 -w yaml
lease grant 0x10
lease grant 300
put a 1 --lease @L
put b 1 --lease=@L
put a 2 --ignore-lease
get a -w json
put a 3
get a -w fields
put a 3 --lease @L
put a --ignore-value --lease 0
put a 3 --lease @L --ignore-lease
put a 4 --lease @L
put b 2 # etcd shows two keys in any order
lease timetolive
lease timetolive @L x
lease timetolive zz
lease timetolive @L
lease timetolive @L --keys
lease timetolive @L --keys=false
lease timetolive @L --keys=x
lease timetolive @L --keys -w json
lease timetolive @L -w json
lease timetolive @L --keys -w fields
lease timetolive @L --keys -w table
lease timetolive @L --keys -w protobuf
lease timetolive 5
lease timetolive 5 --keys
lease timetolive 5 -w json
lease timetolive 5 -w fields
lease timetolive -- -5
lease list extra -w table
lease keep-alive
lease keep-alive zz
lease keep-alive @L x
lease keep-alive @L --once
lease keep-alive --once=true @L -w json
lease keep-alive --once @L -w fields
lease keep-alive --once @L -w protobuf
lease keep-alive --once @L -w table
lease keep-alive --once=x @L
lease keep-alive --once 5
lease keep-alive --once zz
lease keep-alive 5
lease keep-alive 5 -w json
lease revoke
lease revoke zz
lease revoke 5
lease revoke -- -5
lease revoke @L x
lease revoke @L
get a
get "" --from-key
lease revoke @L
put a 1 --lease @L
txn < "\nput a 1 --lease 99\n\n\n"
lease grant 20
lease revoke @L -w json
lease grant 20
lease revoke @L -w fields
lease grant 20
lease revoke @L -w table
lease grant 20
lease revoke @L -w protobuf
lease
lease bogus
lease --help
lease grant --help
le gr 20
--endpoints @X --command-timeout 200ms lease grant 5
--endpoints @X --command-timeout=200ms lease revoke 5
ETCDCTL_KEYS=1 lease revoke 5
"#,
    },
    Session {
        name: "lease list",
        flags: &[],
        lines: r#"
lease list
lease list -w json
lease list -w fields
lease list -w protobuf
lease grant 100
lease list
lease list -w json
lease list -w fields
lease list -w table
lease list --bogus
"#,
    },
    Session {
        name: "keep-alive",
        flags: &[],
        lines: r#"
lease grant 3
put a 1 --lease @L
A> lease keep-alive @L
A? 3
get a
lease revoke @L
A.
get a
lease grant 2
B> lease keep-alive @L -w json
B? 2
B!TERM
B.
lease grant 2
C> lease keep-alive --once=false @L -w fields
C? 6
lease revoke @L
C.
D> lease keep-alive @L -w table
D.
E> --endpoints @X --dial-timeout 200ms lease keep-alive 5
E.
lease grant 2
put gone 1 --lease @L
pause 5000
get gone
lease timetolive @L
lease keep-alive @L --once
"#,
    },
    Session {
        name: "watch",
        flags: &[],
        lines: r#"
put k 1
put k 2
del k
put k/x "3\n\xff"
put l 4
watch
watch --
watch k --
watch -- echo
watch k l --prefix
watch --prefix
watch k --prefix=x
watch k --rev x
watch k --rev 99999999999999999999
watch k --prev-kv=x
watch k --progress-notify=x
watch k -i=x
watch k -ix
watch k --interactive=x
watch k --bogus
watch k -w yaml
watch --help
A> watch k --rev 2
A? 9
A!TERM
A.
A> watch k --prefix --prev-kv --rev=2 -w json
A? 4
A!INT
A.
A> watch k l --rev 2 -w fields --prev-kv
A? 50
A!TERM
A.
A> watch k l --rev 2 -w protobuf
pause 500
A!TERM
A.
A> watch k --rev 2 -w table
A.
A> watch k z --hex --rev 2
A? 15
A!TERM
A.
A> watch "" --prefix --rev 4
A? 9
A!TERM
A.
A> watch k --rev 2 -- sh -c 'env | grep ETCD_WATCH | sort; echo $0' "it's me"
A? 24
A!TERM
A.
A> watch k --rev 3 -- nope
A.
A> watch k --rev 3 -- sh -c 'exit 3'
A.
A> watch k --rev 3 -- sh -c 'kill -9 $$'
A.
A> watch k --rev 3 -- ./nope
A.
A> watch k --rev 3 -- /tmp
A.
A> watch l --rev 2 -w json -- echo event
A? 2
A!TERM
A.
A> watch k
pause 700
put k 5
put other 6
txn < "\nput k 6\nput k/y 6\n\n\n"
del k --prefix
A? 9
A!TERM
A.
A> watch k/ --prefix --prev-kv
pause 700
put k/a 1
put k/b 1
del k/ --prefix
A? 16
A!TERM
A.
A> watch a b c
pause 300
A!TERM
A.
compaction 6
A> watch k --rev 3
A.
A> watch k --rev 3 -w json -- echo never
A.
A> watch k --rev 6 --prev-kv
A? 3
A!TERM
A.
"#,
    },
    Session {
        name: "watch, interactive",
        flags: &[],
        lines: r#"
put k 1
put k 2
watch -i < ""
watch -i < "no line end"
watch --interactive k < ""
watch -i -w yaml < ""
A> watch -i
A< "watch k --rev 2\n"
A? 6
A< "progress\n"
A? 7
A< "\nbogus\nwatch\nwatch -- echo hi\nwatch k l --prefix\nprogress now\n"
A? 8
A!TERM
A.
A> watch -i --prefix --rev 1
A< "watch k -- echo \"two words\"\n"
pause 700
put k 3
A? 4
A!TERM
A.
A> watch -i -w json
A< "  watch k --prefix --rev 3 --prev-kv\n"
A? 2
A!TERM
A.
A> watch -i
A< "watch k --rev 2 -- false\n"
A.
A> watch -i -w table
A< "watch k --rev 2\n"
A.
A> watch -i
A< "watch k --bogus\n"
A.
A> watch -i
A< "watch k --rev x\n"
A.
A> watch -i
A< "watch --help\n"
A.
A> watch -i
A< "watch k --\n"
A.
A> watch -i
A< "watch --prefix\n"
A.
A> watch -i
A< "watch \"\\q\"\n"
A.
compaction 3
A> watch -i
A< "watch k --rev 2\n"
pause 500
A< "watch k --rev 3\n"
A? 6
A!TERM
A.
"#,
    },
    Session {
        name: "watch, environment",
        flags: &[],
        lines: r#"
put k 1
put l 2
A> ETCDCTL_WATCH_KEY=k watch --rev 2
A? 3
A!TERM
A.
A> ETCDCTL_WATCH_KEY=k ETCDCTL_WATCH_RANGE_END=m watch --rev 2 -- echo hi
A? 8
A!TERM
A.
A> ETCDCTL_WATCH_KEY=k watch -i
A< "watch --rev 2\n"
A? 3
A< "watch k\n"
A.
ETCDCTL_WATCH_KEY=k watch l
ETCDCTL_WATCH_KEY=k watch l -- echo
ETCDCTL_WATCH_KEY=k watch --
ETCDCTL_WATCH_KEY=k ETCDCTL_WATCH_RANGE_END=l watch --prefix
ETCDCTL_WATCH_RANGE_END=l watch k
ETCDCTL_WATCH_RANGE_END=l watch -i
ETCDCTL_WATCH_KEY=k get k
A> ETCDCTL_FOO=1 ETCDCTL_WATCH_KEY=k watch --rev 2
A? 3
A!TERM
A.
A> ETCDCTL_WRITE_OUT=json watch k --rev 2
A? 1
A!TERM
A.
"#,
    },
    Session {
        name: "lock",
        flags: &[],
        lines: r#"
lock
lock name --ttl x
lock name --ttl=
lock --bogus
lock name -w yaml
lock --help
lock name echo held
lock name -- sh -c 'env | grep ETCD_LOCK | sort; exit 3'
ETCD_LOCK_KEY=mine lock name -- sh -c 'echo $ETCD_LOCK_KEY'
lock name -- sh -c 'kill -9 $$'
lock name nope
lock name ./nope
lock name true
get name --prefix
A> lock name
A? 2
A!INT
A.
A> lock name --ttl 5 -w json
A? 1
get name/ --prefix --keys-only
B> lock name
pause 700
B!TERM
B.
get name/ --prefix --keys-only
C> lock name --ttl=0
pause 700
A!TERM
A.
C? 2
get name/ --prefix --keys-only
C!INT
C.
get name/ --prefix
A> lock name -- sh -c 'echo in; sleep 1; echo out'
A? 1
B> lock name -- echo then
A.
B.
A> lock other -w fields
A? 10
del other/ --prefix
A!TERM
A.
A> lock table -w table
A.
"#,
    },
    Session {
        name: "elect",
        flags: &[],
        lines: r#"
elect
elect e
elect e v x
elect -l e v
elect --listen=x e
elect -lx e
elect --bogus
elect e v -w yaml
elect --help
A> elect e one
A? 2
A!TERM
A.
get e --prefix
A> elect e one
A? 2
B> elect e two
L> elect -l e
L? 2
pause 500
A!INT
A.
B? 2
L? 4
B!TERM
B.
pause 300
L!INT
L.
get e --prefix
L> elect --listen e -w json
pause 500
A> elect e three
A? 2
L? 1
A!TERM
A.
pause 300
L!TERM
L.
A> elect e four -w table
A.
"#,
    },
    Session {
        name: "watch, of etcd 3.5",
        flags: &["--experimental-watch-progress-notify-interval=500ms"],
        lines: r#"
put k 1
compaction 2
A> watch k --progress-notify
A? 2
A!TERM
A.
A> watch k --progress-notify=false
B> watch -i
B< "watch k --progress-notify\n"
B? 1
put k 2
A? 3
A!TERM
A.
B!TERM
B.
A> watch k --rev -5 -w fields # refused in another way since 3.6
A.
A> watch k --rev -5 -w json
A.
"#,
    },
];
