package kube

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/mirrord-go/mirrord/internal/agent/announce"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	// maxLine bounds one line of an agent's output.
	maxLine = 64 << 10
	// maxOutput bounds what is read of an agent's output before its announcement.
	maxOutput = 4 << 20
)

// awaitAnnouncement reads the container's output until the agent has announced itself. The
// server may end the output early, so it is read again while the container lives.
func (c *Cluster) awaitAnnouncement(ctx context.Context, namespace, podName, container string) (announce.Announcement, error) {
	doing := fmt.Sprintf("reading the output of the agent in pod %s", podName)
	for {
		a, found, err := c.readAnnouncement(ctx, namespace, podName, container)
		switch {
		case ctx.Err() != nil:
			return a, context.Cause(ctx)
		case found && a.Error != "":
			return a, &Error{Reason: ReasonAgent, Doing: "starting the agent", Why: a.Error, Next: agentLog}
		case found:
			return a, nil
		case err != nil && !transient(err) && !apierrors.IsBadRequest(err):
			// Bad requests pass: the node's view of the container lags behind.
			return a, c.explain(ctx, err, doing, Rule{Verb: "get", Resource: "pods/log", Namespace: namespace})
		}
		var pod corev1.Pod
		if err := c.get(ctx, pods, namespace, podName, &pod); err != nil {
			return a, c.explain(ctx, err, doing, pods.rule("get", namespace))
		}
		if s := statusOf(&pod, container); s != nil && s.State.Terminated != nil {
			return a, ended(&pod, s.State.Terminated)
		}
		if err := sleep(ctx, relistPause); err != nil {
			return a, err
		}
	}
}

const agentLog = "\"agent.log_level\": \"debug\" makes the agent's log say more."

func (c *Cluster) readAnnouncement(ctx context.Context, namespace, pod, container string) (announce.Announcement, bool, error) {
	out, err := c.logs(ctx, namespace, pod, corev1.PodLogOptions{Container: container, Follow: true})
	if err != nil {
		return announce.Announcement{}, false, err
	}
	defer func() { _ = out.Close() }()
	a, found := findAnnouncement(out)
	return a, found, nil
}

// findAnnouncement reads lines until one announces an agent, or there are no more.
func findAnnouncement(r io.Reader) (announce.Announcement, bool) {
	lines := bufio.NewScanner(io.LimitReader(r, maxOutput))
	lines.Buffer(make([]byte, 4<<10), maxLine)
	for lines.Scan() {
		if a, ok := announce.Parse(lines.Bytes()); ok {
			return a, true
		}
	}
	return announce.Announcement{}, false
}

// ended explains a container that ended without an announcement.
func ended(pod *corev1.Pod, t *corev1.ContainerStateTerminated) error {
	if a, ok := findAnnouncement(strings.NewReader(t.Message)); ok && a.Error != "" {
		return &Error{Reason: ReasonAgent, Doing: "starting the agent", Why: a.Error, Next: agentLog}
	}
	e := &Error{
		Reason: ReasonAgent,
		Doing:  "starting the agent in pod " + pod.Name,
		Why:    fmt.Sprintf("its container ended with code %d (%s)", t.ExitCode, cmp.Or(t.Reason, "no reason given")),
		Next:   "Is \"agent.image\" an image of mirrord-agent, of this version? " + agentLog,
	}
	if text := strings.TrimSpace(t.Message); text != "" {
		e.Next = "Its last output:\n" + text + "\n" + e.Next
	}
	return e
}

// portOf reads the port of an announced address.
func portOf(address string) (uint16, error) {
	ap, err := netip.ParseAddrPort(address)
	if err != nil || ap.Port() == 0 {
		return 0, &Error{
			Reason: ReasonAgent, Doing: "starting the agent",
			Why:  fmt.Sprintf("it announced %q, which is no address with a port", address),
			Next: "Is \"agent.image\" an image of this version of mirrord-agent?", Err: err,
		}
	}
	return ap.Port(), nil
}
