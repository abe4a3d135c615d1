package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/mirrord-go/mirrord/internal/config/tree"
)

// targetless is how a target path says that there is no target.
const targetless = "targetless"

// containerPart stands between a target and its container.
const containerPart = "/container/"

// targetKinds are the kinds by their spelling in a path; the canonical spelling is the kind.
func targetKinds() map[string]TargetKind {
	return map[string]TargetKind{
		"pod": Pod, "deployment": Deployment, "deploy": Deployment, "statefulset": StatefulSet,
		"daemonset": DaemonSet, "replicaset": ReplicaSet, "job": Job, "cronjob": CronJob,
		"service": Service, "rollout": Rollout, "label": Label,
	}
}

// targetObjectKeys are the kinds by their key in a target object.
func targetObjectKeys() map[string]TargetKind {
	return map[string]TargetKind{
		"pod": Pod, "deployment": Deployment, "stateful_set": StatefulSet, "daemon_set": DaemonSet,
		"replica_set": ReplicaSet, "job": Job, "cron_job": CronJob, "service": Service, "rollout": Rollout,
	}
}

// TargetError says why a target path is none.
type TargetError struct {
	// Path is what the user wrote.
	Path string
	// Reason says what is wrong, and Suggestion what could be meant; it may be empty.
	Reason, Suggestion string
}

// Error puts it in one sentence.
func (e *TargetError) Error() string {
	message := fmt.Sprintf("%q is no target: %s", e.Path, e.Reason)
	if e.Suggestion != "" {
		message += "; " + e.Suggestion
	}
	return message
}

// dnsName is what Kubernetes accepts as the name of most objects (RFC 1123).
var dnsName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)

// labelPart is the name part of a label's key, or its value when it is not empty.
var labelPart = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)

// ParseTargetPath reads a target path: "targetless", KIND/NAME[/container/CONTAINER] or
// label/KEY=VALUE[,KEY=VALUE]...[/container/CONTAINER]. An error is a [*TargetError].
func ParseTargetPath(s string) (TargetPath, error) {
	fail := func(reason, suggestion string) (TargetPath, error) {
		return TargetPath{}, &TargetError{Path: s, Reason: reason, Suggestion: suggestion}
	}
	if s == targetless {
		return TargetPath{}, nil
	}
	kindName, rest, hasName := strings.Cut(s, "/")
	kind, known := targetKinds()[kindName]
	switch {
	case s == "":
		return fail("it is empty", `write KIND/NAME, such as "deployment/shop", or "targetless"`)
	case !hasName && !known && dnsName.MatchString(s):
		return fail("it names no kind of workload", fmt.Sprintf(`did you mean "pod/%s"? Other kinds are written the same way, such as "deployment/%s"`, s, s))
	case !known:
		names := slices.Sorted(maps.Keys(targetKinds()))
		if near := nearest(kindName, names); near != "" {
			return fail(fmt.Sprintf("there is no kind %q", kindName), fmt.Sprintf(`did you mean %q?`, near+"/"+rest))
		}
		return fail(fmt.Sprintf("there is no kind %q", kindName), "known are "+quotedList(names)+`; a pod is "pod/NAME"`)
	case !hasName || rest == "":
		return fail("a name is missing after the kind", fmt.Sprintf("write %q", kindName+"/NAME"))
	}
	path := TargetPath{Kind: kind}
	name, container, hasContainer := cutLast(rest, containerPart)
	if hasContainer {
		if !dnsName.MatchString(container) {
			return fail(fmt.Sprintf("%q cannot be the name of a container", container), "")
		}
		path.Container = container
	}
	if kind == Label {
		labels, err := parseLabels(name)
		if err != nil {
			return fail(err.Error(), `write "label/app=shop", or several with commas`)
		}
		path.Labels = labels
		return path, nil
	}
	if strings.Contains(name, "/") {
		return fail("there is too much after the name", fmt.Sprintf(`a container is named as in %q`, kindName+"/NAME/container/CONTAINER"))
	}
	if !dnsName.MatchString(name) || len(name) > 253 {
		return fail(fmt.Sprintf("%q cannot be the name of a %s", name, kind), "names have lower-case letters, digits, dashes and dots")
	}
	path.Name = name
	return path, nil
}

// cutLast cuts s around the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func parseLabels(s string) (map[string]string, error) {
	labels := map[string]string{}
	for pair := range strings.SplitSeq(s, ",") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, fmt.Errorf("the label %q has no =", pair)
		}
		if err := addLabel(labels, key, value); err != nil {
			return nil, err
		}
	}
	return labels, nil
}

func addLabel(labels map[string]string, key, value string) error {
	prefix, name, hasPrefix := strings.Cut(key, "/")
	if !hasPrefix {
		prefix, name = "", key
	}
	switch {
	case hasPrefix && !dnsName.MatchString(prefix), !labelPart.MatchString(name), len(name) > 63:
		return fmt.Errorf("%q cannot be the key of a label", key)
	case value != "" && !labelPart.MatchString(value), len(value) > 63:
		return fmt.Errorf("%q cannot be the value of a label", value)
	}
	if _, twice := labels[key]; twice {
		return fmt.Errorf("the label %q is there twice", key)
	}
	labels[key] = value
	return nil
}

// String is the canonical path, such as "deployment/shop/container/web"; labels are sorted.
func (p TargetPath) String() string {
	var b strings.Builder
	switch p.Kind {
	case Targetless:
		return targetless
	case Label:
		b.WriteString("label/")
		for i, key := range slices.Sorted(maps.Keys(p.Labels)) {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(key + "=" + p.Labels[key])
		}
	default:
		b.WriteString(string(p.Kind) + "/" + p.Name)
	}
	if p.Container != "" {
		b.WriteString(containerPart + p.Container)
	}
	return b.String()
}

// MarshalJSON writes the canonical path as a string, "targetless" included.
func (p TargetPath) MarshalJSON() ([]byte, error) { return json.Marshal(p.String()) }

// UnmarshalJSON reads a path in any form that a file may have: a string, or an object with
// the kind as a key.
func (p *TargetPath) UnmarshalJSON(data []byte) error {
	node, err := tree.Parse(tree.JSON, data)
	if err != nil {
		return err
	}
	if node.Kind == tree.Null {
		return nil // as encoding/json asks of all values
	}
	path, err := targetFromNode(node)
	if err != nil {
		return err
	}
	*p = path
	return nil
}

// nodeError is a mistake at a place in a tree.
type nodeError struct {
	node                *tree.Node
	offset              int
	message, suggestion string
}

func (e *nodeError) Error() string {
	if e.suggestion != "" {
		return e.message + "; " + e.suggestion
	}
	return e.message
}

// targetFromNode reads the forms of a path. An error is a [*nodeError].
func targetFromNode(n *tree.Node) (TargetPath, error) {
	fail := func(at *tree.Node, message, suggestion string) (TargetPath, error) {
		return TargetPath{}, &nodeError{at, at.Offset, message, suggestion}
	}
	switch n.Kind {
	case tree.String:
		path, err := ParseTargetPath(n.Text)
		if bad := (*TargetError)(nil); errors.As(err, &bad) {
			return fail(n, fmt.Sprintf("%q is no target: %s", bad.Path, bad.Reason), bad.Suggestion)
		}
		return path, nil
	case tree.Object:
	default:
		return fail(n, "a target is a string or an object, not "+n.Kind.String(), `write "deployment/shop", for example`)
	}
	path := TargetPath{}
	kinds := targetObjectKeys()
	for _, m := range n.Members {
		kind, isKind := kinds[m.Key]
		switch {
		case m.Key == "container", isKind:
			if m.Value.Kind == tree.Null && m.Key == "container" {
				continue
			}
			if m.Value.Kind != tree.String || !dnsName.MatchString(m.Value.Text) {
				return fail(m.Value, fmt.Sprintf("%s must be a name, as Kubernetes objects have", m.Key), "")
			}
			if !isKind {
				path.Container = m.Value.Text
				continue
			}
			if path.Kind != Targetless {
				return fail(m.Value, "a target is one workload, and this is a second one", "")
			}
			path.Kind, path.Name = kind, m.Value.Text
		case m.Key == "labels":
			if path.Kind != Targetless {
				return fail(m.Value, "a target is one workload, and this is a second one", "")
			}
			labels, err := labelsFromNode(m.Value)
			if err != nil {
				return TargetPath{}, err
			}
			path.Kind, path.Labels = Label, labels
		default:
			known := append(slices.Sorted(maps.Keys(kinds)), "container", "labels")
			return TargetPath{}, &nodeError{m.Value, m.Offset, fmt.Sprintf("unknown key %q in a target", m.Key), didYouMean(m.Key, known)}
		}
	}
	if path.Kind == Targetless {
		return fail(n, "this object names no workload", `add one, such as "deployment": "shop"`)
	}
	return path, nil
}

func labelsFromNode(n *tree.Node) (map[string]string, error) {
	if n.Kind != tree.Object || len(n.Members) == 0 {
		return nil, &nodeError{n, n.Offset, "labels must be an object with at least one label", ""}
	}
	labels := map[string]string{}
	for _, m := range n.Members {
		if m.Value.Kind != tree.String {
			return nil, &nodeError{m.Value, m.Value.Offset, "a label's value is a string, not " + m.Value.Kind.String(), ""}
		}
		if err := addLabel(labels, m.Key, m.Value.Text); err != nil {
			return nil, &nodeError{m.Value, m.Offset, err.Error(), ""}
		}
	}
	return labels, nil
}
