// Command etcd is the etcd server. The module that holds etcd's own main package
// is not published on its own, so this starts the same entry point.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() {
	etcdmain.Main(os.Args)
}
