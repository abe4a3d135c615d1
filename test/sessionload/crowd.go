package sessionload

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mirrord-go/mirrord/internal/kube"
)

const (
	// perCluster is how many sessions share the connections of one [kube.Cluster].
	perCluster = 25
	// atOnce is how many sessions start at the same time.
	atOnce = 8
)

// Crowd is many sessions. It is not safe for concurrent use.
type Crowd struct {
	Clients  []*Client
	clusters []*kube.Cluster
}

// Assemble starts n sessions with the rights of a kubeconfig; o.Cluster is set for each. It
// fails when one does.
func Assemble(ctx context.Context, kubeconfig string, n int, o Options) (*Crowd, error) {
	crowd := &Crowd{Clients: make([]*Client, n)}
	var all sync.WaitGroup
	var mu sync.Mutex
	var failed []error
	slots := make(chan struct{}, atOnce)
	for i := range n {
		if i%perCluster == 0 {
			cluster, err := kube.Connect(kube.Options{Kubeconfig: kubeconfig})
			if err != nil {
				all.Wait()
				return nil, errors.Join(err, crowd.Close(ctx))
			}
			crowd.clusters = append(crowd.clusters, cluster)
		}
		mine := o
		mine.Cluster = crowd.clusters[len(crowd.clusters)-1]
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			c, err := Start(ctx, mine)
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, fmt.Errorf("session %d: %w", i, err))
				return
			}
			crowd.Clients[i] = c
		})
	}
	all.Wait()
	if len(failed) > 0 {
		return nil, errors.Join(failed[0], fmt.Errorf("%d of %d sessions did not start", len(failed), n), crowd.Close(ctx))
	}
	return crowd, nil
}

// Lost are the errors of sessions that are of no use any more.
func (c *Crowd) Lost() (lost []error) {
	for _, client := range c.Clients {
		if err := client.Err(); err != nil {
			lost = append(lost, fmt.Errorf("session %s: %w", client.Name, err))
		}
	}
	return lost
}

// Take sums what the clients have seen since the last call; Longest is that of the slowest. Silent
// are those for which no line came back.
func (c *Crowd) Take() (sum State, silent int) {
	for _, client := range c.Clients {
		s := client.Take()
		if s.Lines == 0 {
			silent++
		}
		sum.Lines += s.Lines
		sum.Pauses += s.Pauses
		sum.Longest = max(sum.Longest, s.Longest)
	}
	return sum, silent
}

// Longest is how long the slowest session took to start.
func (c *Crowd) Longest() (longest time.Duration) {
	for _, client := range c.Clients {
		longest = max(longest, client.Took)
	}
	return longest
}

// Close ends all sessions.
func (c *Crowd) Close(ctx context.Context) error {
	var all sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	slots := make(chan struct{}, atOnce)
	for _, client := range c.Clients {
		if client == nil {
			continue
		}
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			if err := client.Close(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	all.Wait()
	for _, cluster := range c.clusters {
		errs = append(errs, cluster.Close())
	}
	return errors.Join(errs...)
}
