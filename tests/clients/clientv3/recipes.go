package main

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/clientv3util"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/client/v3/leasing"
	"go.etcd.io/etcd/client/v3/mirror"
	"go.etcd.io/etcd/client/v3/namespace"
	"go.etcd.io/etcd/client/v3/naming/endpoints"
	"go.etcd.io/etcd/client/v3/ordering"
	"go.uber.org/zap"
)

// run is a call that answers with its error only.
func (p *program) run(name string, f func(context.Context) error) {
	p.call(name, func(ctx context.Context) (any, error) { return "ok", f(ctx) })
}

func (p *program) session(name string, opts ...concurrency.SessionOption) *concurrency.Session {
	var s *concurrency.Session
	p.run(name, func(context.Context) (err error) {
		s, err = concurrency.NewSession(p.c, opts...)
		return err
	})
	return s
}

func (p *program) sessions() {
	c := p.c
	one, two := p.session("NewSession", concurrency.WithTTL(20)), p.session("NewSession two", concurrency.WithTTL(20))
	if one == nil || two == nil {
		return
	}
	p.call("Session.Lease", func(context.Context) (any, error) { return lease(int64(one.Lease())), nil })
	m1, m2 := concurrency.NewMutex(one, "mutex"), concurrency.NewMutex(two, "mutex")
	p.run("Mutex.Lock", m1.Lock)
	print("Mutex.Key", masked(m1.Key()))
	print("Mutex.Header", header(m1.Header()))
	p.run("Mutex.Lock again", m1.Lock)
	p.run("Mutex.TryLock of another", m2.TryLock)
	p.call("Mutex.IsOwner", func(ctx context.Context) (any, error) {
		return c.Txn(ctx).If(m1.IsOwner()).Then(clientv3.OpPut("owner", "1")).Commit()
	})
	p.run("Mutex.Lock of another, in time", func(context.Context) error {
		ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
		defer cancel()
		return m2.Lock(ctx)
	})
	locked := make(chan error)
	go func() { locked <- m2.Lock(context.Background()) }()
	time.Sleep(300 * time.Millisecond)
	p.run("Mutex.Unlock", m1.Unlock)
	p.run("Mutex.Lock of another, unlocked", func(context.Context) error { return <-locked })
	p.run("Mutex.Unlock of another", m2.Unlock)
	p.run("Mutex.Unlock again", m2.Unlock)
	p.run("Mutex.TryLock", m1.TryLock)
	p.run("Mutex.Unlock, last", m1.Unlock)
	locker := concurrency.NewLocker(one, "locker")
	p.run("NewLocker", func(context.Context) error {
		locker.Lock()
		locker.Unlock()
		return nil
	})

	e1, e2 := concurrency.NewElection(one, "el"), concurrency.NewElection(two, "el")
	p.call("Election.Leader of nobody", func(ctx context.Context) (any, error) { return e1.Leader(ctx) })
	ctx, cancel := context.WithCancel(context.Background())
	observed := e2.Observe(ctx)
	leader := func(name string) {
		p.call(name, func(ctx context.Context) (any, error) {
			select {
			case r, ok := <-observed:
				if !ok {
					return "closed", nil
				}
				return fmt.Sprintf("rev=%d %s", r.Header.Revision, masked(pairs(r.Kvs))), nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
	}
	p.run("Election.Campaign", func(ctx context.Context) error { return e1.Campaign(ctx, "one") })
	leader("Election.Observe one")
	print("Election.Key", masked(e1.Key()))
	print("Election.Rev", fmt.Sprint(e1.Rev()))
	print("Election.Header", header(e1.Header()))
	p.run("Election.Proclaim", func(ctx context.Context) error { return e1.Proclaim(ctx, "uno") })
	leader("Election.Observe uno")
	p.run("Election.Proclaim by another", func(ctx context.Context) error { return e2.Proclaim(ctx, "no") })
	go func() { locked <- e2.Campaign(context.Background(), "two") }()
	time.Sleep(300 * time.Millisecond)
	p.call("Election.Leader", func(ctx context.Context) (any, error) {
		r, err := e2.Leader(ctx)
		if err != nil {
			return nil, err
		}
		return masked(show(r)), nil
	})
	resumed := concurrency.ResumeElection(one, "el", e1.Key(), e1.Rev())
	p.run("ResumeElection, Proclaim", func(ctx context.Context) error { return resumed.Proclaim(ctx, "eins") })
	leader("Election.Observe eins")
	p.run("Election.Resign", resumed.Resign)
	p.run("Election.Campaign of another", func(context.Context) error { return <-locked })
	leader("Election.Observe two")
	p.run("Election.Proclaim, resigned", func(ctx context.Context) error { return e1.Proclaim(ctx, "late") })
	p.run("Session.Close", func(context.Context) error { return two.Close() })
	p.call("Session.Done", func(context.Context) (any, error) { _, ok := <-two.Done(); return fmt.Sprint(ok), nil })
	p.call("Election.Leader, session closed", func(ctx context.Context) (any, error) { return e1.Leader(ctx) })
	cancel()
	leader("Election.Observe, cancelled")

	short := p.session("NewSession short", concurrency.WithTTL(1))
	dying := concurrency.NewMutex(short, "mutex")
	p.run("Mutex.Lock, short", dying.Lock)
	short.Orphan()
	p.run("Mutex.Lock, orphaned", m1.Lock)
	p.run("Mutex.Unlock, orphaned", dying.Unlock)
	own := p.session("NewSession WithLease", concurrency.WithLease(one.Lease()), concurrency.WithContext(context.Background()))
	p.run("Mutex.Lock of the same lease", concurrency.NewMutex(own, "mutex").Lock)
	p.session("NewSession WithLease unknown", concurrency.WithLease(4242))
	p.run("Session.Close one", func(context.Context) error { return one.Close() })
	p.run("Mutex.Lock, session closed", m1.Lock)
	p.transactions()
}

func (p *program) transactions() {
	c := p.c
	levels := []concurrency.Isolation{concurrency.SerializableSnapshot, concurrency.Serializable, concurrency.RepeatableReads,
		concurrency.ReadCommitted}
	for _, level := range levels {
		name := fmt.Sprintf("STM %d", level)
		p.run(name+", clean", func(ctx context.Context) error {
			_, err := c.Delete(ctx, "stm/", clientv3.WithPrefix())
			return err
		})
		p.call(name, func(context.Context) (any, error) {
			r, err := concurrency.NewSTM(c, func(s concurrency.STM) error {
				s.Put("stm/b", "x"+s.Get("stm/a", "stm/none")+s.Get("stm/b"))
				s.Put("stm/a", fmt.Sprint(s.Rev("stm/a") > 0))
				s.Del("stm/c")
				return nil
			}, concurrency.WithIsolation(level), concurrency.WithPrefetch("stm/a"))
			if err != nil {
				return nil, err
			}
			// The library writes in the order of a map of Go, another one each time.
			return fmt.Sprintf("%s succeeded=%v operations=%d", header(r.Header), r.Succeeded, len(r.Responses)), nil
		})
		tries := 0
		p.call(name+" against another writer", func(ctx context.Context) (any, error) {
			r, err := concurrency.NewSTM(c, func(s concurrency.STM) error {
				old := s.Get("stm/a")
				if tries++; tries == 1 {
					if _, err := c.Put(ctx, "stm/a", "other"); err != nil {
						return err
					}
				}
				s.Put("stm/a", old+"+")
				return nil
			}, concurrency.WithIsolation(level), concurrency.WithAbortContext(ctx))
			if err != nil {
				return nil, err
			}
			return fmt.Sprintf("tries=%d rev=%d", tries, r.Header.Revision), nil
		})
		p.call(name+" after", func(ctx context.Context) (any, error) { return c.Get(ctx, "stm/", clientv3.WithPrefix()) })
	}
	p.call("STM with an error", func(context.Context) (any, error) {
		return concurrency.NewSTM(c, func(concurrency.STM) error { return errors.New("by hand") })
	})
	p.call("STM with a lease", func(context.Context) (any, error) {
		return concurrency.NewSTM(c, func(s concurrency.STM) error {
			s.Put("stm/a", "1", clientv3.WithLease(4242))
			return nil
		})
	})
}

func (p *program) layers() {
	c := p.c
	kv, watcher, leaser := namespace.NewKV(c.KV, "ns/"), namespace.NewWatcher(c.Watcher, "ns/"), namespace.NewLease(c.Lease, "ns/")
	w := watcher.Watch(context.Background(), "", clientv3.WithPrefix())
	p.call("namespace put", func(ctx context.Context) (any, error) { return kv.Put(ctx, "a", "1") })
	p.call("namespace get", func(ctx context.Context) (any, error) { return kv.Get(ctx, "", clientv3.WithFromKey()) })
	p.call("namespace txn", func(ctx context.Context) (any, error) {
		return kv.Txn(ctx).If(clientv3util.KeyExists("a")).Then(clientv3.OpPut("b", "2"), clientv3.OpGet("", clientv3.WithPrefix())).Commit()
	})
	p.call("namespace do", func(ctx context.Context) (any, error) { return opOf(kv.Do(ctx, clientv3.OpGet("b"))) })
	p.call("namespace put an empty key", func(ctx context.Context) (any, error) { return kv.Put(ctx, "", "1") })
	p.call("namespace lease", func(ctx context.Context) (any, error) {
		g, err := leaser.Grant(ctx, 60)
		if err != nil {
			return nil, err
		}
		if _, err := kv.Put(ctx, "leased", "1", clientv3.WithLease(g.ID)); err != nil {
			return nil, err
		}
		return leaser.TimeToLive(ctx, g.ID, clientv3.WithAttachedKeys())
	})
	p.call("namespace delete", func(ctx context.Context) (any, error) {
		return kv.Delete(ctx, "", clientv3.WithPrefix(), clientv3.WithPrevKV())
	})
	p.events("namespace event", w, 6)

	ordered := ordering.NewKV(c.KV, ordering.NewOrderViolationSwitchEndpointClosure(c))
	p.call("ordering get", func(ctx context.Context) (any, error) { return ordered.Get(ctx, "t", clientv3.WithSerializable()) })
	p.call("ordering txn", func(ctx context.Context) (any, error) {
		return ordered.Txn(ctx).Then(clientv3.OpGet("t")).Commit()
	})

	lkv, closeLeasing, err := leasing.NewKV(c, "leasing/", concurrency.WithTTL(20))
	if err != nil {
		print("leasing", failure(err))
	} else {
		p.call("leasing put", func(ctx context.Context) (any, error) { return lkv.Put(ctx, "lk", "1") })
		p.call("leasing get", func(ctx context.Context) (any, error) { return lkv.Get(ctx, "lk") })
		p.call("leasing get again", func(ctx context.Context) (any, error) { return lkv.Get(ctx, "lk") })
		p.call("leasing put again", func(ctx context.Context) (any, error) { return lkv.Put(ctx, "lk", "2") })
		p.call("leasing txn", func(ctx context.Context) (any, error) {
			return lkv.Txn(ctx).If(clientv3.Compare(clientv3.Value("lk"), "=", "2")).Then(clientv3.OpPut("lk", "3")).Commit()
		})
		second, closeSecond, err := leasing.NewKV(c, "leasing/", concurrency.WithTTL(20))
		if err == nil {
			p.call("leasing put by another", func(ctx context.Context) (any, error) { return second.Put(ctx, "lk", "4") })
			closeSecond()
		}
		p.call("leasing get of another's", func(ctx context.Context) (any, error) {
			r, err := lkv.Get(ctx, "lk")
			if err != nil {
				return nil, err
			}
			return string(r.Kvs[0].Value), nil
		})
		p.call("leasing delete", func(ctx context.Context) (any, error) { return lkv.Delete(ctx, "lk", clientv3.WithPrefix()) })
		closeLeasing()
	}

	for n := range 5 {
		p.put(fmt.Sprintf("mir/%d", n), "x")
	}
	syncer := mirror.NewSyncer(c, "mir/", 0)
	p.call("mirror SyncBase", func(ctx context.Context) (any, error) {
		got, errs := syncer.SyncBase(ctx)
		count := 0
		for r := range got {
			count += len(r.Kvs)
		}
		return fmt.Sprint(count), <-errs
	})
	updates := syncer.SyncUpdates(context.Background())
	p.put("mir/9", "y")
	p.events("mirror SyncUpdates", updates, 1)

	manager, err := endpoints.NewManager(c, "svc")
	if err != nil {
		print("endpoints", failure(err))
		return
	}
	channel, err := manager.NewWatchChannel(context.Background())
	if err != nil {
		print("endpoints NewWatchChannel", failure(err))
		return
	}
	p.run("endpoints AddEndpoint", func(ctx context.Context) error {
		return manager.AddEndpoint(ctx, "svc/1", endpoints.Endpoint{Addr: "10.0.0.1:1", Metadata: "m"})
	})
	p.run("endpoints AddEndpoint elsewhere", func(ctx context.Context) error {
		return manager.AddEndpoint(ctx, "other/1", endpoints.Endpoint{Addr: "10.0.0.1:1"})
	})
	p.run("endpoints Update", func(ctx context.Context) error {
		return manager.Update(ctx, []*endpoints.UpdateWithOpts{
			endpoints.NewAddUpdateOpts("svc/2", endpoints.Endpoint{Addr: "10.0.0.2:1"}), endpoints.NewDeleteUpdateOpts("svc/1"),
		})
	})
	p.call("endpoints List", func(ctx context.Context) (any, error) {
		all, err := manager.List(ctx)
		return fmt.Sprint(all), err
	})
	p.run("endpoints DeleteEndpoint", func(ctx context.Context) error { return manager.DeleteEndpoint(ctx, "svc/2") })
	var seen []string
	for len(seen) < 4 {
		select {
		case updates := <-channel:
			for _, u := range updates {
				seen = append(seen, fmt.Sprintf("%d %s %s", u.Op, u.Key, u.Endpoint.Addr))
			}
			continue
		case <-time.After(limit):
			seen = append(seen, "no update in time")
		}
		break
	}
	sort.Strings(seen)
	print("endpoints NewWatchChannel", fmt.Sprint(seen))
}

func (p *program) kubernetes() {
	k, err := kubernetes.New(clientv3.Config{Endpoints: []string{p.live}, Logger: zap.NewNop()})
	if err != nil {
		print("kubernetes.New", failure(err))
		return
	}
	defer k.Close()
	var rev int64
	put := func(name, key string, expected int64, opts kubernetes.PutOptions) {
		p.call(name, func(ctx context.Context) (any, error) {
			r, err := k.Kubernetes.OptimisticPut(ctx, key, []byte(name), expected, opts)
			if r.Succeeded {
				rev = r.Revision
			}
			return fmt.Sprintf("%v rev=%d %s", r.Succeeded, r.Revision, pair(r.KV)), err
		})
	}
	put("OptimisticPut creates", "k8s/a", 0, kubernetes.PutOptions{})
	put("OptimisticPut creates again", "k8s/a", 0, kubernetes.PutOptions{GetOnFailure: true})
	put("OptimisticPut updates", "k8s/a", rev, kubernetes.PutOptions{})
	put("OptimisticPut of the past", "k8s/a", rev-1, kubernetes.PutOptions{})
	put("OptimisticPut with an unknown lease", "k8s/b", 0, kubernetes.PutOptions{LeaseID: 4242})
	for n := range 5 {
		put(fmt.Sprintf("OptimisticPut %d", n), fmt.Sprintf("k8s/p/%d", n), 0, kubernetes.PutOptions{})
	}
	p.call("Get", func(ctx context.Context) (any, error) {
		r, err := k.Kubernetes.Get(ctx, "k8s/a", kubernetes.GetOptions{})
		return fmt.Sprintf("rev=%d %s", r.Revision, pair(r.KV)), err
	})
	p.call("Get of the future", func(ctx context.Context) (any, error) {
		r, err := k.Kubernetes.Get(ctx, "k8s/a", kubernetes.GetOptions{Revision: 100000})
		return fmt.Sprintf("rev=%d %s", r.Revision, pair(r.KV)), err
	})
	list := func(name string, opts kubernetes.ListOptions) {
		p.call(name, func(ctx context.Context) (any, error) {
			r, err := k.Kubernetes.List(ctx, "k8s/p/", opts)
			return fmt.Sprintf("rev=%d count=%d %s", r.Revision, r.Count, pairs(r.Kvs)), err
		})
	}
	list("List", kubernetes.ListOptions{})
	list("List with a limit", kubernetes.ListOptions{Limit: 2, Revision: rev})
	list("List goes on", kubernetes.ListOptions{Limit: 2, Revision: rev, Continue: "k8s/p/1\x00"})
	list("List of the compacted", kubernetes.ListOptions{Revision: 2})
	p.call("Count", func(ctx context.Context) (any, error) {
		return k.Kubernetes.Count(ctx, "k8s/p/", kubernetes.CountOptions{})
	})
	remove := func(name, key string, expected int64, opts kubernetes.DeleteOptions) {
		p.call(name, func(ctx context.Context) (any, error) {
			r, err := k.Kubernetes.OptimisticDelete(ctx, key, expected, opts)
			return fmt.Sprintf("%v rev=%d %s", r.Succeeded, r.Revision, pair(r.KV)), err
		})
	}
	remove("OptimisticDelete of the past", "k8s/a", 1, kubernetes.DeleteOptions{GetOnFailure: true})
	remove("OptimisticDelete", "k8s/p/4", rev, kubernetes.DeleteOptions{})
	remove("OptimisticDelete of nothing", "k8s/none", 1, kubernetes.DeleteOptions{GetOnFailure: true})
}
