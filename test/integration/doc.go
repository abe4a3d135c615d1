// Package integration runs whole sessions without a cluster: the real client, interception,
// tunnel and agent, between a laptop, a pod and a small cluster that are network namespaces
// of the test. It needs root.
//
// What only Kubernetes can show (finding targets, agents as pods, port-forwards, probes of a
// real kubelet) is in test/e2e.
package integration
