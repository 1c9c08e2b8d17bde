//! Endpoints of which one is dead, the cluster, and maintenance.

use std::time::Duration;

use etcd_client::{AlarmAction, AlarmType, Client, ConnectOptions, DowngradeOptions, MemberAddOptions};

use crate::transcript::{call, error, get, header, line, member, put};

pub async fn endpoints(live: &str, dead: &str) {
    let options = || Some(ConnectOptions::new().with_timeout(Duration::from_secs(3)).with_require_leader(true));
    match Client::connect([dead, live], options()).await {
        Err(e) => line("two endpoints, one dead", &error(&e)),
        Ok(mut both) => {
            // Which endpoint is asked is drawn by chance: what counts is that it works again and again.
            eventually("two endpoints, one dead", &mut both).await;
            eventually("two endpoints, once more", &mut both).await;
            let (dead, live) = (format!("http://{dead}"), format!("http://{live}"));
            call("remove_endpoint", both.remove_endpoint(&dead), |()| "ok".to_owned()).await;
            eventually("get after remove_endpoint", &mut both).await;
            call("add_endpoint", both.add_endpoint(&live), |()| "ok".to_owned()).await;
            eventually("get after add_endpoint", &mut both).await;
            call("put over two endpoints", put_eventually(&mut both), put).await;
        }
    }
    if let Ok(mut gone) = Client::connect([dead], options()).await {
        let r = gone.get("a", None).await;
        line("get from a dead endpoint", if r.is_err() { "an error" } else { "an answer" });
    }
    match Client::connect([""; 0], None).await {
        Ok(_) => line("no endpoints", "a client"),
        Err(e) => line("no endpoints", &error(&e)),
    }
    let keep = ConnectOptions::new()
        .with_keep_alive(Duration::from_secs(1), Duration::from_secs(1))
        .with_keep_alive_while_idle(true)
        .with_tcp_keepalive(Duration::from_secs(1))
        .with_connect_timeout(Duration::from_secs(1));
    if let Ok(mut c) = Client::connect([live], Some(keep)).await {
        tokio::time::sleep(Duration::from_secs(3)).await;
        call("get over pinged connections", c.get("both", None), get).await;
    }
}

async fn eventually(name: &str, c: &mut Client) {
    for _ in 0..50 {
        if let Ok(r) = c.get("both", None).await {
            return line(name, &get(&r));
        }
    }
    line(name, "never");
}

/// A put that was refused for want of a connection has not happened.
async fn put_eventually(c: &mut Client) -> Result<etcd_client::PutResponse, etcd_client::Error> {
    loop {
        let r = c.put("both", "1", None).await;
        if r.is_ok() {
            return r;
        }
    }
}

/// etcd drops a change of the membership that comes before raft has heard that the last one is applied.
async fn settle(c: &mut Client) {
    let _ = c.put("settle", "", None).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
}

pub async fn cluster(c: &mut Client) {
    let listed = call("member_list", c.member_list(), |r| {
        format!("{} {}", header(r.header()), r.members().iter().map(member).collect::<Vec<_>>().join("; "))
    });
    let Some(listed) = listed.await else { return };
    let (id, urls) = (listed.members()[0].id(), listed.members()[0].peer_urls().to_vec());
    call("status", c.status(), |r| {
        let size = r.db_size() > 0 && r.raft_used_db_size() > 0;
        let applied = r.raft_applied_index() > 0 && r.raft_applied_index() <= r.raft_index();
        let errors = r.errors();
        format!("{} <member:{}> size={size} applied={applied} errors={errors:?}", header(r.header()), r.leader())
    })
    .await;
    call("defragment", c.defragment(), |r| header(r.header())).await;
    let alarms = |r: &etcd_client::AlarmResponse| {
        let all: Vec<_> = r.alarms().iter().map(|a| format!("<member:{}> {:?}", a.member_id(), a.alarm())).collect();
        format!("{} {all:?}", header(r.header()))
    };
    call("alarm get", c.alarm(AlarmAction::Get, AlarmType::None, None), alarms).await;
    call("alarm activate", c.alarm(AlarmAction::Activate, AlarmType::Nospace, None), alarms).await;
    call("put with an alarm", c.put("alarm", "", None), |_| "ok".to_owned()).await;
    call("alarm deactivate", c.alarm(AlarmAction::Deactivate, AlarmType::Nospace, None), alarms).await;
    call("put after the alarm", c.put("alarm", "", None), |_| "ok".to_owned()).await;
    call("move_leader to nobody", c.move_leader(42), |r| header(r.header())).await;
    for (name, action) in [
        ("downgrade validate", DowngradeOptions::Validate("3.0.0".to_owned())),
        ("downgrade cancel", DowngradeOptions::Cancel),
    ] {
        call(name, c.maintenance_client().downgrade(action), |r| header(r.header())).await;
    }
    call("member_update unknown", c.member_update(42, ["http://127.0.0.1:1".to_owned()]), |_| "ok".to_owned()).await;
    settle(c).await;
    call("member_update to itself", c.member_update(id, urls.clone()), |r| r.members().len().to_string()).await;
    settle(c).await;
    call("member_remove unknown", c.member_remove(42), |_| "ok".to_owned()).await;
    settle(c).await;
    call("member_add, a bad url", c.member_add(["not a url"], None), |_| "ok".to_owned()).await;
    settle(c).await;
    call("member_add, a known url", c.member_add(urls, None), |_| "ok".to_owned()).await;
    settle(c).await;
    let learner = Some(MemberAddOptions::new().with_is_learner());
    let added = call("member_add with_is_learner", c.member_add(["http://127.0.0.1:1"], learner), |r| {
        format!("{} of {}", r.member().map_or("nobody".to_owned(), member), r.member_list().len())
    });
    let added = added.await.and_then(|r| r.member().map(|m| m.id())).unwrap_or(43);
    settle(c).await;
    call("member_promote", c.member_promote(added), |_| "ok".to_owned()).await;
    settle(c).await;
    call("member_remove", c.member_remove(added), |r| r.members().len().to_string()).await;
    settle(c).await;
    call("member_remove the only one", c.member_remove(id), |_| "ok".to_owned()).await;
}
