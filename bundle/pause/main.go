// Command pause holds a pod's namespaces open. It does nothing until it is told to stop,
// and it collects the children of a pod whose containers share one process namespace.
//
// With -v it prints its version and exits with 0: kubeadm runs it so, as a Job, to see
// whether a cluster can run anything before it upgrades it.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

// version is set by the linker.
var version = "unknown"

func main() {
	for _, arg := range os.Args[1:] {
		if arg == "-v" || arg == "--version" {
			os.Stdout.WriteString("pause " + version + "\n")
			return
		}
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD)
	for got := range signals {
		if got != syscall.SIGCHLD {
			return
		}
		// One signal may stand for several children.
		for {
			pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
			if err == syscall.EINTR {
				continue
			}
			if pid <= 0 || err != nil {
				break
			}
		}
	}
}
