package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// endpoints is about clients that have a dead member in their list, and about ends of clients.
func (p *program) endpoints() {
	both := dial(p.dead, p.live)
	for n := range 3 {
		p.call(fmt.Sprintf("two endpoints, one dead %d", n), func(ctx context.Context) (any, error) {
			return both.Put(ctx, "both", fmt.Sprint(n))
		})
	}
	w := both.Watch(context.Background(), "both", clientv3.WithCreatedNotify())
	p.next("watch with one dead", w)
	p.call("status of the dead", func(context.Context) (any, error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return both.Status(ctx, p.dead)
	})
	both.SetEndpoints(p.live)
	print("Endpoints", fmt.Sprint(both.Endpoints()))
	p.call("SetEndpoints", func(ctx context.Context) (any, error) { return both.Get(ctx, "both") })
	p.run("Sync", both.Sync)
	print("Endpoints after Sync", fmt.Sprint(both.Endpoints()))
	print("ActiveConnection", fmt.Sprint(both.ActiveConnection() != nil))
	p.run("Close", func(context.Context) error { return both.Close() })
	p.next("watch after Close", w)
	p.run("Close again", func(context.Context) error { return both.Close() })
	print("Ctx", fmt.Sprint(both.Ctx().Err()))

	gone := dial(p.dead)
	p.call("get from a dead endpoint", func(context.Context) (any, error) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		return gone.Get(ctx, "a")
	})
	p.run("close the dead", func(context.Context) error { return gone.Close() })
	p.run("no endpoints", func(context.Context) error { _, err := clientv3.New(clientv3.Config{}); return err })
	p.run("NewFromURL", func(ctx context.Context) error {
		c, err := clientv3.NewFromURL("http://" + p.live)
		if err != nil {
			return err
		}
		_, err = c.Get(ctx, "a")
		return errorOf(err, c.Close())
	})
	p.run("NewFromURLs", func(ctx context.Context) error {
		c, err := clientv3.NewFromURLs([]string{p.live})
		if err != nil {
			return err
		}
		_, err = c.Put(ctx, "a", "1")
		return errorOf(err, c.Close())
	})
	p.run("RejectOldCluster", func(context.Context) error {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{p.live}, RejectOldCluster: true, DialTimeout: 5 * time.Second,
			Logger: zap.NewNop()})
		if err != nil {
			return err
		}
		return c.Close()
	})
	p.run("an expired context", func(context.Context) error {
		ctx, cancel := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
		defer cancel()
		_, err := p.c.Put(ctx, "a", "1")
		return err
	})
	small, err := clientv3.New(clientv3.Config{Endpoints: []string{p.live}, MaxCallSendMsgSize: 1000, MaxCallRecvMsgSize: 2000,
		Logger: zap.NewNop()})
	p.run("a client with limits", func(ctx context.Context) error {
		if err != nil {
			return err
		}
		_, err := small.Put(ctx, "a", strings.Repeat("x", 2000))
		return err
	})
}

func errorOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// settle waits until a change of the membership is over: etcd drops one that comes before raft has heard that the last
// one is applied.
func (p *program) settle() {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	_, _ = p.c.Put(ctx, "settle", "")
	time.Sleep(200 * time.Millisecond)
}

func (p *program) cluster() {
	c := p.c
	var self uint64
	var peers []string
	p.call("MemberList", func(ctx context.Context) (any, error) {
		r, err := c.MemberList(ctx)
		if err != nil {
			return nil, err
		}
		self, peers = r.Members[0].ID, r.Members[0].PeerURLs
		return members(r), nil
	})
	p.call("MemberList WithSerializable", func(ctx context.Context) (any, error) {
		r, err := c.MemberList(ctx, clientv3.WithSerializable())
		if err != nil {
			return nil, err
		}
		return members(r), nil
	})
	p.call("Status", func(ctx context.Context) (any, error) {
		r, err := c.Status(ctx, p.live)
		if err != nil {
			return nil, err
		}
		return fmt.Sprintf("%s leader=<member:%d> term=%d applied=%v size=%v in use=%v errors=%v learner=%v", header(r.Header),
			r.Leader, min(r.RaftTerm, 2), r.RaftAppliedIndex <= r.RaftIndex && r.RaftIndex > 0, r.DbSize > 0, r.DbSizeInUse > 0,
			r.Errors, r.IsLearner), nil
	})
	p.call("AlarmList", func(ctx context.Context) (any, error) {
		r, err := c.AlarmList(ctx)
		if err != nil {
			return nil, err
		}
		return fmt.Sprintf("%s %v", header(r.Header), r.Alarms), nil
	})
	p.call("AlarmDisarm all", func(ctx context.Context) (any, error) {
		r, err := c.AlarmDisarm(ctx, &clientv3.AlarmMember{})
		if err != nil {
			return nil, err
		}
		return fmt.Sprint(r.Alarms), nil
	})
	p.call("AlarmDisarm one that is not", func(ctx context.Context) (any, error) {
		r, err := c.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: self, Alarm: 1})
		if err != nil {
			return nil, err
		}
		return fmt.Sprint(r.Alarms), nil
	})
	p.run("Defragment", func(ctx context.Context) error { _, err := c.Defragment(ctx, p.live); return err })
	p.run("MoveLeader to nobody", func(ctx context.Context) error { _, err := c.MoveLeader(ctx, 42); return err })
	p.run("Downgrade validate", func(ctx context.Context) error {
		_, err := c.Downgrade(ctx, clientv3.DowngradeValidate, "3.0.0")
		return err
	})
	p.run("Downgrade cancel", func(ctx context.Context) error {
		_, err := c.Downgrade(ctx, clientv3.DowngradeCancel, "")
		return err
	})
	change := func(name string, f func(ctx context.Context) error) {
		p.run(name, f)
		p.settle()
	}
	change("MemberUpdate unknown", func(ctx context.Context) error {
		_, err := c.MemberUpdate(ctx, 42, []string{"http://127.0.0.1:1"})
		return err
	})
	change("MemberUpdate to itself", func(ctx context.Context) error { _, err := c.MemberUpdate(ctx, self, peers); return err })
	change("MemberRemove unknown", func(ctx context.Context) error { _, err := c.MemberRemove(ctx, 42); return err })
	change("MemberAdd, a bad url", func(ctx context.Context) error { _, err := c.MemberAdd(ctx, []string{"not a url"}); return err })
	change("MemberAdd, a known url", func(ctx context.Context) error { _, err := c.MemberAdd(ctx, peers); return err })
	change("MemberPromote unknown", func(ctx context.Context) error { _, err := c.MemberPromote(ctx, 42); return err })
	change("MemberPromote a voter", func(ctx context.Context) error { _, err := c.MemberPromote(ctx, self); return err })
	var learner uint64
	change("MemberAddAsLearner", func(ctx context.Context) error {
		r, err := c.MemberAddAsLearner(ctx, []string{"http://127.0.0.1:1"})
		if err == nil {
			learner = r.Member.ID
		}
		return err
	})
	change("MemberPromote a learner that is not there", func(ctx context.Context) error {
		_, err := c.MemberPromote(ctx, learner)
		return err
	})
	change("MemberRemove the learner", func(ctx context.Context) error { _, err := c.MemberRemove(ctx, learner); return err })
	change("MemberRemove again", func(ctx context.Context) error { _, err := c.MemberRemove(ctx, learner); return err })
	change("MemberRemove the only one", func(ctx context.Context) error { _, err := c.MemberRemove(ctx, self); return err })
	p.call("MemberList after all", func(ctx context.Context) (any, error) {
		r, err := c.MemberList(ctx)
		if err != nil {
			return nil, err
		}
		return members(r), nil
	})
}

func members(r *clientv3.MemberListResponse) string {
	var all []string
	for _, m := range r.Members {
		all = append(all, fmt.Sprintf("<member:%d> %q peers=%v clients=%v learner=%v", m.ID, m.Name, m.PeerURLs, m.ClientURLs,
			m.IsLearner))
	}
	return fmt.Sprintf("%s [%s]", header(r.Header), strings.Join(all, "; "))
}
