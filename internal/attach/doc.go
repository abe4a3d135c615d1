// Package attach connects sessions to pods in a cluster: it implements
// [session.Attachments] in the two ways there are.
//
// [Direct] finds the pods of a workload with the user's own rights, starts an agent beside
// each, and follows them through rollouts, scaling and rescheduling.
//
// [Operator] leaves that to the operator: it creates a Session and follows what its status
// says.
package attach
