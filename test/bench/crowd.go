package main

import (
	"context"
	"net/netip"
	"time"

	"github.com/mirrord-go/mirrord/test/sessionload"
)

const (
	// crowdTalks is how often a session of a crowd says a line, crowdTime for how long they are looked at.
	crowdTalks = 5 * time.Second
	crowdTime  = 3 * crowdTalks
	// crowdPatience bounds the start of all.
	crowdPatience = 4 * time.Minute
)

// crowd sees what n sessions at once need of the operator and of their agent. One more, which is there
// before and after, brings what does not depend on their number. It is nil, and the log says why, when they do not
// start: the rest of a long run is worth having.
func (s *stage) crowd(n int) *Crowd {
	s.t.Logf("starting %d sessions at once", n)
	server, err := netip.ParseAddr(s.server)
	if err != nil {
		s.t.Fatal(err)
	}
	load := sessionload.Options{
		Namespace: s.ns, Target: "pod/target", Mirror: rawPort, Echo: netip.AddrPortFrom(server, rawPort), Every: crowdTalks,
	}
	one := s.assemble(load, 1)
	if one == nil {
		return nil
	}
	defer one.close(s)
	node, began := s.env.Cluster.PID, time.Now()
	memory, used := memories(node), cpuTimes(node)
	all := s.assemble(load, n)
	if all == nil {
		return nil
	}
	defer all.close(s)
	started, took := cpuTimes(node).since(used), time.Since(began)
	s.t.Logf("they started in %v; looking at them for %v", took.Round(time.Second), crowdTime)
	all.Take()
	used, began = cpuTimes(node), time.Now()
	select {
	case <-time.After(crowdTime):
	case <-s.t.ctx.Done():
		s.t.Fatalf("interrupted")
	}
	going, minutes := cpuTimes(node).since(used), time.Since(began).Minutes()
	c := &Crowd{
		Sessions: n, Lost: len(all.Lost()), Slowest: all.Longest().Seconds(),
		Memory: map[string]float64{}, StartCPU: map[string]float64{}, MinuteCPU: map[string]float64{},
	}
	if _, silent := all.Take(); silent > c.Lost {
		c.Lost = silent
	}
	after := memories(node)
	for _, group := range []string{operatorCPU, agentCPU} {
		c.Memory[group] = (after[group] - memory[group]) / float64(n)
		c.StartCPU[group] = started[group] / float64(n) * 1000
		c.MinuteCPU[group] = going[group] / float64(n) / minutes * 1000
	}
	return c
}

type crowd struct{ *sessionload.Crowd }

func (s *stage) assemble(load sessionload.Options, n int) *crowd {
	ctx, cancel := context.WithTimeout(s.t.ctx, crowdPatience)
	defer cancel()
	c, err := sessionload.Assemble(ctx, s.env.Kubeconfig, n, load)
	if err != nil {
		s.t.Logf("starting %d sessions: %v", n, err)
		return nil
	}
	return &crowd{c}
}

func (c *crowd) close(s *stage) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.t.ctx), patience)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		s.t.Logf("ending the sessions: %v", err)
	}
}
