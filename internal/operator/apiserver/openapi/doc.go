// Package openapi holds the OpenAPI definitions of the types that the operator's API server
// speaks, for "kubectl explain" and for clients that check what they send. They are generated
// from the types' comments (hack/generate.sh).
package openapi
