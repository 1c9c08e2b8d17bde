package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/clientv3util"
)

func (p *program) put(key, value string, opts ...clientv3.OpOption) *clientv3.PutResponse {
	var r *clientv3.PutResponse
	p.call("put "+key, func(ctx context.Context) (any, error) {
		var err error
		r, err = p.c.Put(ctx, key, value, opts...)
		return r, err
	})
	return r
}

func (p *program) keys() {
	c := p.c
	puts := []struct {
		name, key, value string
		opts             []clientv3.OpOption
	}{
		{"put", "a", "1", nil},
		{"put WithPrevKV", "a", "2", []clientv3.OpOption{clientv3.WithPrevKV()}},
		{"put WithIgnoreValue", "a", "", []clientv3.OpOption{clientv3.WithIgnoreValue()}},
		{"put WithIgnoreValue and a value", "a", "x", []clientv3.OpOption{clientv3.WithIgnoreValue()}},
		{"put WithIgnoreValue of nothing", "none", "", []clientv3.OpOption{clientv3.WithIgnoreValue()}},
		{"put WithIgnoreLease", "a", "3", []clientv3.OpOption{clientv3.WithIgnoreLease()}},
		{"put WithIgnoreLease and a lease", "a", "3", []clientv3.OpOption{clientv3.WithIgnoreLease(), clientv3.WithLease(1)}},
		{"put WithLease unknown", "a", "x", []clientv3.OpOption{clientv3.WithLease(4242)}},
		{"put an empty key", "", "x", nil},
		{"put bytes", "\xff\x00", "\x00\xfe", nil},
		{"put 1.6 MiB", "big", strings.Repeat("x", 1_600_000), nil},
	}
	for _, one := range puts {
		p.call(one.name, func(ctx context.Context) (any, error) { return c.Put(ctx, one.key, one.value, one.opts...) })
	}
	for n, kv := range []string{"p/3=x", "p/1=z", "p/2=y", "p/1=w"} {
		key, value, _ := strings.Cut(kv, "=")
		p.call(fmt.Sprintf("put for lists %d", n), func(ctx context.Context) (any, error) { return c.Put(ctx, key, value) })
	}
	opts := func(all ...clientv3.OpOption) []clientv3.OpOption { return append(all, clientv3.WithPrefix()) }
	gets := []struct {
		name, key string
		opts      []clientv3.OpOption
	}{
		{"get", "a", nil}, {"get of nothing", "none", nil}, {"get an empty key", "", nil},
		{"get WithPrefix", "p/", opts()}, {"get WithPrefix of everything", "", opts()},
		{"get WithRange", "p/1", []clientv3.OpOption{clientv3.WithRange("p/3")}},
		{"get WithFromKey", "p/2", []clientv3.OpOption{clientv3.WithFromKey()}},
		{"get WithLimit", "p/", opts(clientv3.WithLimit(2))}, {"get WithRev", "p/", opts(clientv3.WithRev(7))},
		{"get WithRev of the future", "p/", opts(clientv3.WithRev(1000))}, {"get WithRev negative", "p/", opts(clientv3.WithRev(-1))},
		{"get WithSerializable", "p/", opts(clientv3.WithSerializable())}, {"get WithKeysOnly", "p/", opts(clientv3.WithKeysOnly())},
		{"get WithCountOnly", "p/", opts(clientv3.WithCountOnly())}, {"get WithMinModRev", "p/", opts(clientv3.WithMinModRev(9))},
		{"get WithMaxModRev", "p/", opts(clientv3.WithMaxModRev(8))}, {"get WithMinCreateRev", "p/", opts(clientv3.WithMinCreateRev(8))},
		{"get WithMaxCreateRev", "p/", opts(clientv3.WithMaxCreateRev(8))}, {"get WithFirstCreate", "p/", clientv3.WithFirstCreate()},
		{"get WithLastCreate", "p/", clientv3.WithLastCreate()}, {"get WithFirstKey", "p/", clientv3.WithFirstKey()},
		{"get WithLastKey", "p/", clientv3.WithLastKey()}, {"get WithFirstRev", "p/", clientv3.WithFirstRev()},
		{"get WithLastRev", "p/", clientv3.WithLastRev()},
	}
	targets := []clientv3.SortTarget{clientv3.SortByKey, clientv3.SortByVersion, clientv3.SortByCreateRevision,
		clientv3.SortByModRevision, clientv3.SortByValue}
	for _, target := range targets {
		for _, order := range []clientv3.SortOrder{clientv3.SortNone, clientv3.SortAscend, clientv3.SortDescend} {
			gets = append(gets, struct {
				name, key string
				opts      []clientv3.OpOption
			}{fmt.Sprintf("get WithSort %d %d", target, order), "p/", opts(clientv3.WithSort(target, order))})
		}
	}
	for _, one := range gets {
		p.call(one.name, func(ctx context.Context) (any, error) { return c.Get(ctx, one.key, one.opts...) })
	}
	p.call("do get", func(ctx context.Context) (any, error) { return opOf(c.Do(ctx, clientv3.OpGet("a"))) })
	p.call("do put", func(ctx context.Context) (any, error) { return opOf(c.Do(ctx, clientv3.OpPut("a", "4"))) })
	p.call("do delete", func(ctx context.Context) (any, error) {
		return opOf(c.Do(ctx, clientv3.OpDelete("p/3", clientv3.WithPrevKV())))
	})
	p.call("do txn", func(ctx context.Context) (any, error) {
		return opOf(c.Do(ctx, clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpGet("a")}, nil)))
	})
	p.call("delete WithPrevKV", func(ctx context.Context) (any, error) { return c.Delete(ctx, "a", clientv3.WithPrevKV()) })
	p.call("delete of nothing", func(ctx context.Context) (any, error) { return c.Delete(ctx, "a") })
	p.call("delete an empty key", func(ctx context.Context) (any, error) { return c.Delete(ctx, "") })
	p.call("delete WithRange", func(ctx context.Context) (any, error) {
		return c.Delete(ctx, "p/1", clientv3.WithRange("p/2"), clientv3.WithPrevKV())
	})
	p.call("delete WithPrefix", func(ctx context.Context) (any, error) { return c.Delete(ctx, "p/", clientv3.WithPrefix()) })
	p.call("delete WithFromKey", func(ctx context.Context) (any, error) { return c.Delete(ctx, "p/", clientv3.WithFromKey()) })
}

func opOf(r clientv3.OpResponse, err error) (any, error) {
	switch {
	case err != nil:
		return nil, err
	case r.Get() != nil:
		return r.Get(), nil
	case r.Put() != nil:
		return r.Put(), nil
	case r.Del() != nil:
		return r.Del(), nil
	}
	return r.Txn(), nil
}

func (p *program) txns() {
	c := p.c
	p.put("t", "1")
	compares := map[string][]clientv3.Cmp{
		"00 value =":          {clientv3.Compare(clientv3.Value("t"), "=", "1")},
		"01 value !=":         {clientv3.Compare(clientv3.Value("t"), "!=", "1")},
		"02 value <":          {clientv3.Compare(clientv3.Value("t"), "<", "2")},
		"03 value >":          {clientv3.Compare(clientv3.Value("t"), ">", "2")},
		"04 version":          {clientv3.Compare(clientv3.Version("t"), "=", 1)},
		"05 create":           {clientv3.Compare(clientv3.CreateRevision("t"), ">", 0)},
		"06 mod":              {clientv3.Compare(clientv3.ModRevision("t"), "<", 1000)},
		"07 lease":            {clientv3.Compare(clientv3.LeaseValue("t"), "=", 0)},
		"08 KeyExists":        {clientv3util.KeyExists("t")},
		"09 KeyMissing":       {clientv3util.KeyMissing("t")},
		"10 nothing's value":  {clientv3.Compare(clientv3.Value("none"), "=", "")},
		"11 nothing's lease":  {clientv3.Compare(clientv3.LeaseValue("none"), "=", 0)},
		"12 WithRange":        {clientv3.Compare(clientv3.Version("a"), ">", 0).WithRange("z")},
		"13 WithPrefix":       {clientv3.Compare(clientv3.CreateRevision("t"), ">", 0).WithPrefix()},
		"14 two, one is not":  {clientv3util.KeyExists("t"), clientv3util.KeyExists("none")},
		"15 an empty key":     {clientv3util.KeyExists("")},
		"16 no compare":       nil,
		"17 an empty range":   {clientv3.Compare(clientv3.Version("x1"), "=", 9).WithRange("x2")},
		"18 not equal, range": {clientv3.Compare(clientv3.Value("t"), "!=", "1").WithRange("u")},
	}
	for n := range len(compares) {
		for name, compare := range compares {
			if strings.HasPrefix(name, fmt.Sprintf("%02d", n)) {
				p.call("txn "+name, func(ctx context.Context) (any, error) {
					return c.Txn(ctx).If(compare...).Then(clientv3.OpGet("t")).Else(clientv3.OpGet("none")).Commit()
				})
			}
		}
	}
	inner := clientv3.OpTxn([]clientv3.Cmp{clientv3util.KeyMissing("n")},
		[]clientv3.Op{clientv3.OpPut("n", "1"), clientv3.OpGet("n")}, []clientv3.Op{clientv3.OpDelete("n", clientv3.WithPrevKV())})
	many := func(count int) (ops []clientv3.Op) {
		for n := range count {
			ops = append(ops, clientv3.OpGet(fmt.Sprint("many", n)))
		}
		return ops
	}
	then := []struct {
		name string
		ops  []clientv3.Op
	}{
		{"everything", []clientv3.Op{clientv3.OpPut("t1", "1"), clientv3.OpPut("t", "2", clientv3.WithPrevKV()),
			clientv3.OpGet("t", clientv3.WithPrefix()), clientv3.OpDelete("t1x"), clientv3.OpGet("t", clientv3.WithRev(3))}},
		{"nested, then", []clientv3.Op{inner}}, {"nested, else", []clientv3.Op{inner}},
		{"nested twice", []clientv3.Op{clientv3.OpTxn(nil, []clientv3.Op{inner}, nil), clientv3.OpPut("q", "1")}},
		{"a key twice", []clientv3.Op{clientv3.OpPut("d", "1"), clientv3.OpPut("d", "2")}},
		{"put and delete", []clientv3.Op{clientv3.OpPut("d", "1"), clientv3.OpDelete("a", clientv3.WithFromKey())}},
		{"delete twice", []clientv3.Op{clientv3.OpDelete("t"), clientv3.OpDelete("t")}},
		{"a future revision", []clientv3.Op{clientv3.OpGet("t", clientv3.WithRev(1000))}},
		{"an unknown lease", []clientv3.Op{clientv3.OpPut("t", "1", clientv3.WithLease(4242))}},
		{"128 operations", many(128)[:128:128]}, {"129 operations", many(129)}, {"nothing", nil},
	}
	for _, one := range then {
		p.call("txn then "+one.name, func(ctx context.Context) (any, error) { return c.Txn(ctx).Then(one.ops...).Commit() })
	}
}

func (p *program) hashes() {
	c := p.c
	hash := func(name string, rev int64) {
		p.call(name, func(ctx context.Context) (any, error) {
			r, err := c.HashKV(ctx, p.live, rev)
			if err != nil {
				return nil, err
			}
			return fmt.Sprintf("%s hash=%d compact=%d", header(r.Header), r.Hash, r.CompactRevision), nil
		})
	}
	compact := func(name string, rev int64, opts ...clientv3.CompactOption) {
		p.call(name, func(ctx context.Context) (any, error) { return c.Compact(ctx, rev, opts...) })
	}
	hash("HashKV", 0)
	hash("HashKV at a revision", 8)
	hash("HashKV of the future", 100000)
	compact("compact", 8)
	compact("compact again", 8)
	compact("compact physical", 9, clientv3.WithCompactPhysical())
	compact("compact the future", 100000)
	compact("compact less than nothing", -1)
	hash("HashKV after compaction", 0)
	hash("HashKV of the compacted", 5)
	p.call("get of the compacted", func(ctx context.Context) (any, error) { return c.Get(ctx, "a", clientv3.WithRev(3)) })
	p.call("get at the compaction", func(ctx context.Context) (any, error) { return c.Get(ctx, "t", clientv3.WithRev(9)) })
}

func (p *program) leases() {
	c := p.c
	var id clientv3.LeaseID
	p.call("grant", func(ctx context.Context) (any, error) {
		r, err := c.Grant(ctx, 60)
		if err == nil {
			id = r.ID
		}
		return r, err
	})
	p.call("grant no time", func(ctx context.Context) (any, error) { return c.Grant(ctx, 0) })
	p.call("grant too long", func(ctx context.Context) (any, error) { return c.Grant(ctx, 9_000_000_001) })
	p.put("l/1", "1", clientv3.WithLease(id))
	p.put("l/2", "2", clientv3.WithLease(id))
	p.put("l/2", "3", clientv3.WithIgnoreLease())
	p.call("get with a lease", func(ctx context.Context) (any, error) { return c.Get(ctx, "l/", clientv3.WithPrefix()) })
	p.call("txn lease =", func(ctx context.Context) (any, error) {
		return c.Txn(ctx).If(clientv3.Compare(clientv3.LeaseValue("l/1"), "=", id)).Then(clientv3.OpGet("l/1")).Commit()
	})
	ttl := func(name string, id clientv3.LeaseID, opts ...clientv3.LeaseOption) {
		p.call(name, func(ctx context.Context) (any, error) { return c.TimeToLive(ctx, id, opts...) })
	}
	ttl("TimeToLive", id)
	ttl("TimeToLive WithAttachedKeys", id, clientv3.WithAttachedKeys())
	ttl("TimeToLive unknown", 4242, clientv3.WithAttachedKeys())
	p.call("Leases", func(ctx context.Context) (any, error) {
		r, err := c.Leases(ctx)
		if err != nil {
			return nil, err
		}
		return fmt.Sprint(len(r.Leases)), nil
	})
	once := func(name string, id clientv3.LeaseID) {
		p.call(name, func(ctx context.Context) (any, error) { return c.KeepAliveOnce(ctx, id) })
	}
	once("KeepAliveOnce", id)
	once("KeepAliveOnce unknown", 4242)
	ctx, cancel := context.WithCancel(context.Background())
	var kept <-chan *clientv3.LeaseKeepAliveResponse
	p.call("KeepAlive", func(context.Context) (any, error) {
		var err error
		kept, err = c.KeepAlive(ctx, id)
		return "ok", err
	})
	p.call("KeepAlive answer", func(context.Context) (any, error) { return <-kept, nil })
	cancel()
	p.call("KeepAlive cancelled", func(ctx context.Context) (any, error) {
		for {
			select {
			case _, ok := <-kept:
				if !ok {
					return "closed", nil
				}
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	})
	p.call("KeepAlive unknown", func(ctx context.Context) (any, error) {
		none, err := c.KeepAlive(ctx, 4242)
		if err != nil {
			return nil, err
		}
		_, ok := <-none
		return fmt.Sprintf("open=%v", ok), nil
	})
	revoke := func(name string) {
		p.call(name, func(ctx context.Context) (any, error) { return c.Revoke(ctx, id) })
	}
	revoke("Revoke")
	revoke("Revoke again")
	p.call("get after the revoke", func(ctx context.Context) (any, error) { return c.Get(ctx, "l/", clientv3.WithPrefix()) })
	p.put("l/1", "1", clientv3.WithLease(id))

	w := c.Watch(context.Background(), "l/", clientv3.WithPrefix(), clientv3.WithPrevKV())
	p.call("grant a second", func(ctx context.Context) (any, error) {
		r, err := c.Grant(ctx, 1)
		if err == nil {
			id = r.ID
		}
		return r, err
	})
	p.put("l/b", "1", clientv3.WithLease(id))
	p.put("l/a", "2", clientv3.WithLease(id))
	p.events("expiry", w, 4)
	ttl("TimeToLive expired", id)
	once("KeepAliveOnce expired", id)
}

func (p *program) watches() {
	c := p.c
	first := p.put("w/a", "1")
	if first == nil {
		return
	}
	start := first.Header.Revision
	p.put("w/a", "2")
	p.put("w/b", "1")
	p.call("txn on both", func(ctx context.Context) (any, error) {
		return c.Txn(ctx).Then(clientv3.OpPut("w/a", "3"), clientv3.OpDelete("w/b"), clientv3.OpPut("w/c", "1")).Commit()
	})
	watch := func(name, key string, count int, opts ...clientv3.OpOption) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		p.events(name, c.Watch(ctx, key, opts...), count)
	}
	from := clientv3.WithRev(start)
	watch("watch a key", "w/a", 3, from)
	watch("watch WithPrefix WithPrevKV", "w/", 6, from, clientv3.WithPrefix(), clientv3.WithPrevKV())
	watch("watch WithRange", "w/a", 3, from, clientv3.WithRange("w/b"))
	watch("watch WithFromKey", "w/b", 3, from, clientv3.WithFromKey())
	watch("watch WithFilterPut", "w/", 1, from, clientv3.WithPrefix(), clientv3.WithFilterPut(), clientv3.WithPrevKV())
	watch("watch WithFilterDelete", "w/", 5, from, clientv3.WithPrefix(), clientv3.WithFilterDelete())
	watch("watch later", "w/", 3, clientv3.WithRev(start+3), clientv3.WithPrefix())
	watch("watch the compacted", "w/", 1, clientv3.WithRev(2), clientv3.WithPrefix())
	watch("watch an empty key", "", 3, clientv3.WithRev(start+3), clientv3.WithPrefix())

	ctx, cancel := context.WithCancel(context.Background())
	w := c.Watch(ctx, "w/", clientv3.WithPrefix(), clientv3.WithCreatedNotify(), clientv3.WithFragment())
	p.next("WithCreatedNotify", w)
	p.put("w/a", "4")
	p.next("an answer", w)
	p.call("RequestProgress", func(context.Context) (any, error) { return "ok", c.RequestProgress(ctx) })
	p.next("the progress", w)
	cancel()
	p.next("cancelled", w)
	ctx, cancel = context.WithCancel(context.Background())
	w = c.Watch(ctx, "w/quiet", clientv3.WithProgressNotify())
	p.next("WithProgressNotify", w)
	cancel()

	ctx, cancel = context.WithCancel(context.Background())
	now := p.put("w/f", "1").Header.Revision
	w = c.Watch(ctx, "w/f", clientv3.WithRev(now+2))
	p.put("w/f", "2")
	p.put("w/f", "3")
	p.events("watch the future", w, 1)
	cancel()

	// A big revision: in one answer without, in several with fragments; the library puts them together or not.
	value := strings.Repeat("x", 400_000)
	ctx, cancel = context.WithCancel(context.Background())
	big := c.Watch(ctx, "big/", clientv3.WithPrefix())
	split := c.Watch(ctx, "big/", clientv3.WithPrefix(), clientv3.WithFragment())
	for n := range 3 {
		p.put(fmt.Sprintf("big/%d", n), value)
	}
	p.events("big", big, 3)
	p.events("big WithFragment", split, 3)
	p.call("txn deletes all", func(ctx context.Context) (any, error) { return c.Delete(ctx, "big/", clientv3.WithPrefix()) })
	p.events("big deleted", big, 3)
	cancel()

	watcher := clientv3.NewWatcher(c)
	w = watcher.Watch(clientv3.WithRequireLeader(context.Background()), "w/", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	p.next("NewWatcher, WithRequireLeader", w)
	p.call("Watcher.Close", func(context.Context) (any, error) { return "ok", watcher.Close() })
	p.next("closed", w)
	past, end := context.WithDeadline(context.Background(), time.Now().Add(-time.Second))
	defer end()
	p.next("a context that is over", c.Watch(past, "w/"))

	var many []clientv3.WatchChan
	for n := range 100 {
		many = append(many, c.Watch(context.Background(), fmt.Sprintf("m/%d", n%10), clientv3.WithRev(start)))
	}
	for n := range 10 {
		p.put(fmt.Sprintf("m/%d", n), "x")
	}
	for n, w := range many {
		p.events(fmt.Sprintf("one of a hundred, %d", n), w, 1)
	}
}
