// Every call of the official client that needs neither auth nor snapshots, good and bad, as a transcript:
// clientv3 ENDPOINT DEAD
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"sort"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc/status"
)

const limit = 10 * time.Second

// A program is one set of calls against one member.
type program struct {
	c    *clientv3.Client
	live string
	dead string
}

func main() {
	p := &program{live: os.Args[1], dead: os.Args[2]}
	p.c = dial(p.live)
	p.keys()
	p.txns()
	p.hashes()
	p.leases()
	p.watches()
	p.sessions()
	p.layers()
	p.kubernetes()
	p.endpoints()
	p.cluster()
	p.call("close", func(context.Context) (any, error) { return "ok", p.c.Close() })
	p.call("put after close", func(ctx context.Context) (any, error) { return p.c.Put(ctx, "a", "1") })
}

func dial(endpoints ...string) *clientv3.Client {
	c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 3 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return c
}

// call prints what a call answers.
func (p *program) call(name string, f func(context.Context) (any, error)) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	answer, err := f(ctx)
	if err != nil {
		print(name, failure(err))
		return
	}
	print(name, show(answer))
}

func print(name, result string) {
	fmt.Printf("%s | %s\n", name, strings.Join(strings.Fields(result), " "))
}

func failure(err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "error: context deadline exceeded"
	case errors.Is(err, context.Canceled):
		return "error: context canceled"
	}
	var known rpctypes.EtcdError
	if errors.As(err, &known) {
		return fmt.Sprintf("error %s: %s", known.Code(), known)
	}
	if s, ok := status.FromError(err); ok {
		return fmt.Sprintf("error %s: %s", s.Code(), s.Message())
	}
	return fmt.Sprintf("error %T: %s", err, err)
}

func show(answer any) string {
	switch r := answer.(type) {
	case nil:
		return "nothing"
	case string:
		return r
	case *clientv3.PutResponse:
		return header(r.Header) + " prev=" + pair(r.PrevKv)
	case *clientv3.GetResponse:
		return fmt.Sprintf("%s count=%d more=%v %s", header(r.Header), r.Count, r.More, pairs(r.Kvs))
	case *clientv3.DeleteResponse:
		return fmt.Sprintf("%s deleted=%d %s", header(r.Header), r.Deleted, pairs(r.PrevKvs))
	case *clientv3.CompactResponse:
		return header(r.Header)
	case *clientv3.TxnResponse:
		return txn((*etcdserverpb.TxnResponse)(r))
	case clientv3.OpResponse:
		for _, one := range []any{r.Put(), r.Get(), r.Del(), r.Txn()} {
			if s := show(one); !strings.HasPrefix(s, "<nil>") {
				return s
			}
		}
		return "nothing"
	case *clientv3.LeaseGrantResponse:
		return fmt.Sprintf("%s %s ttl=%d error=%q", header(r.ResponseHeader), lease(int64(r.ID)), r.TTL, r.Error)
	case *clientv3.LeaseRevokeResponse:
		return header(r.Header)
	case *clientv3.LeaseKeepAliveResponse:
		if r == nil {
			return "nothing"
		}
		return fmt.Sprintf("%s %s ttl=%d", header(r.ResponseHeader), lease(int64(r.ID)), r.TTL)
	case *clientv3.LeaseTimeToLiveResponse:
		ttl := fmt.Sprint(r.TTL)
		if r.TTL > 0 && r.GrantedTTL-r.TTL >= 0 && r.GrantedTTL-r.TTL < 4 {
			ttl = "in time"
		}
		sort.Slice(r.Keys, func(i, j int) bool { return string(r.Keys[i]) < string(r.Keys[j]) }) // etcd goes through a map
		return fmt.Sprintf("%s %s ttl=%s granted=%d keys=%q", header(r.ResponseHeader), lease(int64(r.ID)), ttl, r.GrantedTTL,
			r.Keys)
	case clientv3.WatchResponse:
		return watched(r)
	default:
		return fmt.Sprintf("%v", answer)
	}
}

func header(h *etcdserverpb.ResponseHeader) string {
	if h == nil {
		return "no header"
	}
	if h.ClusterId == 0 && h.MemberId == 0 {
		return fmt.Sprintf("rev=%d", h.Revision)
	}
	return fmt.Sprintf("<cluster:%d> <member:%d> term=%d rev=%d", h.ClusterId, h.MemberId, min(h.RaftTerm, 2), h.Revision)
}

func lease(id int64) string { return fmt.Sprintf("<lease:%d>", id) }

func pair(kv *mvccpb.KeyValue) string {
	if kv == nil {
		return "none"
	}
	s := fmt.Sprintf("%q=%.40q c%d m%d v%d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version)
	if kv.Lease != 0 {
		s += " " + lease(kv.Lease)
	}
	return s
}

func pairs(kvs []*mvccpb.KeyValue) string {
	var all []string
	for _, kv := range kvs {
		all = append(all, pair(kv))
	}
	return "[" + strings.Join(all, "; ") + "]"
}

func txn(r *etcdserverpb.TxnResponse) string {
	if r == nil {
		return "<nil>"
	}
	var all []string
	for _, one := range r.Responses {
		switch o := one.Response.(type) {
		case *etcdserverpb.ResponseOp_ResponsePut:
			all = append(all, "put "+show((*clientv3.PutResponse)(o.ResponsePut)))
		case *etcdserverpb.ResponseOp_ResponseRange:
			all = append(all, "get "+show((*clientv3.GetResponse)(o.ResponseRange)))
		case *etcdserverpb.ResponseOp_ResponseDeleteRange:
			all = append(all, "delete "+show((*clientv3.DeleteResponse)(o.ResponseDeleteRange)))
		case *etcdserverpb.ResponseOp_ResponseTxn:
			all = append(all, "txn ("+txn(o.ResponseTxn)+")")
		}
	}
	return fmt.Sprintf("%s succeeded=%v [%s]", header(r.Header), r.Succeeded, strings.Join(all, " / "))
}

func watched(r clientv3.WatchResponse) string {
	var all []string
	for _, e := range r.Events {
		s := fmt.Sprintf("%s %s create=%v modify=%v", e.Type, pair(e.Kv), e.IsCreate(), e.IsModify())
		if e.PrevKv != nil {
			s += " prev=(" + pair(e.PrevKv) + ")"
		}
		all = append(all, s)
	}
	s := fmt.Sprintf("rev=%d created=%v canceled=%v compact=%d progress=%v [%s]", r.Header.Revision, r.Created, r.Canceled,
		r.CompactRevision, r.IsProgressNotify(), strings.Join(all, "; "))
	if err := r.Err(); err != nil {
		s += " " + failure(err)
	}
	return s
}

// next is the next answer of a watcher.
func (p *program) next(name string, w clientv3.WatchChan) {
	p.call(name, func(ctx context.Context) (any, error) {
		select {
		case r, ok := <-w:
			if !ok {
				return "closed", nil
			}
			return r, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
}

// events prints so many events of a watcher, one a line, whatever answers they come in.
func (p *program) events(name string, w clientv3.WatchChan, count int) {
	for n := 0; n < count; {
		select {
		case r, ok := <-w:
			if !ok || r.Err() != nil {
				print(fmt.Sprintf("%s %d", name, n), fmt.Sprintf("closed=%v %s", !ok, watched(r)))
				return
			}
			for _, e := range r.Events {
				one := clientv3.WatchResponse{Events: []*clientv3.Event{e}}
				print(fmt.Sprintf("%s %d", name, n), watched(one))
				n++
			}
		case <-time.After(limit):
			print(fmt.Sprintf("%s %d", name, n), "no event in time")
			return
		}
	}
}

var digits = regexp.MustCompile(`/[0-9a-f]{12,16}`)

// masked hides the ids of leases in keys that a library made up.
func masked(s string) string { return digits.ReplaceAllString(s, "/<id>") }
