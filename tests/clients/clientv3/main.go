package main

import (
	_ "go.etcd.io/etcd/client/v3"
	_ "go.etcd.io/etcd/client/v3/clientv3util"
	_ "go.etcd.io/etcd/client/v3/concurrency"
	_ "go.etcd.io/etcd/client/v3/leasing"
	_ "go.etcd.io/etcd/client/v3/mirror"
	_ "go.etcd.io/etcd/client/v3/namespace"
	_ "go.etcd.io/etcd/client/v3/naming/endpoints"
	_ "go.etcd.io/etcd/client/v3/ordering"
	_ "go.etcd.io/etcd/client/v3/kubernetes"
)

func main() {}
