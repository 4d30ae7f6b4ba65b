package pen

import (
	"fmt"
	"syscall"
)

// ownDescriptors are enough for this process itself.
const ownDescriptors = 65536

// descriptors is what a pen needs for so many flows: two each, and some. Without one it exits.
func descriptors(flows int) uint64 { return uint64(2*flows + 64) }

// fitFlows gives how many flows a pen of ours can have, at most those that are wanted, and what is wrong when they are fewer.
// The limit is raised where we may: what pens inherit is this process's own.
func fitFlows(wanted int) (flows int, problem string, err error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, "", fmt.Errorf("read the limit of open files: %w", err)
	}
	need := descriptors(wanted)
	if limit.Max < need {
		raised := syscall.Rlimit{Cur: need, Max: need}
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &raised) == nil {
			limit = raised
		}
	}
	// Go lifts the soft limit for itself alone; set by hand, children have it too. It is not lifted to a limit of millions:
	// programs that close all they could have inherited take minutes then.
	limit.Cur = min(limit.Max, max(need, ownDescriptors))
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, "", fmt.Errorf("raise the limit of open files: %w", err)
	}
	if limit.Max >= need {
		return wanted, "", nil
	}
	if limit.Max < descriptors(1) {
		return 0, "", fmt.Errorf("%d open files are too few for pen; raise the limit (ulimit -n, LimitNOFILE=)", limit.Max)
	}
	flows = int(limit.Max-64) / 2
	return flows, fmt.Sprintf("a service has at most %d connections or flows instead of --pen-clients %d: that needs %d open files, and the limit is %d; raise it "+
		"(ulimit -n, LimitNOFILE=) or lower --pen-clients", flows, wanted, need, limit.Max), nil
}
