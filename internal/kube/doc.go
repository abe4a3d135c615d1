// Package kube is all that mirrord says to a Kubernetes API server. It is the only importer
// of client-go.
//
// [Connect] reads a kubeconfig and gives a [Cluster]. A cluster lists what a session can
// attach to ([Cluster.ListTargets]), finds the one pod and container that a target path
// means ([Cluster.FindWorkload]), keeps profiles ([Cluster.Profiles]) and starts an agent
// beside a target ([Cluster.StartAgent]). An [Agent] announces its key in its log and is
// dialled through the API server ([Agent.Dial]); the user needs no route into the cluster.
//
// The agent is a Job of one pod, so that the cluster removes it when the client can't, or
// an ephemeral container of the target's pod. Whatever StartAgent created is deleted again
// when a later step fails.
//
// Everything is done with the user's own rights. What is missing is found out before
// anything is created, and reported as the rules to add. Errors that a user sees have a
// Hint with the next step; see [Error] and [MissingRulesError].
package kube
