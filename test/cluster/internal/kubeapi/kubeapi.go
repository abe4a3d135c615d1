// Package kubeapi asks the API server of a starting cluster whether it and what it manages are ready.
//
// It is plain HTTP with the administrator's certificate: no client library, so that the cluster command stays small.
package kubeapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 8 << 20

// Client talks to one API server. It may be used by several goroutines.
type Client struct {
	server string
	http   *http.Client
}

// New returns a client of the server with the certificates in the folder pki. Close ends its connections.
func New(server, pki string) (*Client, error) {
	ca, err := os.ReadFile(filepath.Join(pki, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(pki, "admin.crt"), filepath.Join(pki, "admin.key"))
	if err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}}
	return &Client{server: server, http: &http.Client{Transport: transport, Timeout: 10 * time.Second}}, nil
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Get reads the object at path, such as /api/v1/nodes/node1, into out unless out is nil. Any status but 200 is an error.
func (c *Client) Get(ctx context.Context, path string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.server+path, nil)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s: %.200s", path, res.Status, body)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

// Ready returns nil once the API server says that it is ready.
func (c *Client) Ready(ctx context.Context) error { return c.Get(ctx, "/readyz", nil) }

// conditions is the part of a Node that tells whether it is ready.
type conditions struct {
	Status struct {
		Conditions []struct{ Type, Status, Message string }
	}
}

// NodeReady returns nil once the node is Ready.
func (c *Client) NodeReady(ctx context.Context, name string) error {
	var node conditions
	if err := c.Get(ctx, "/api/v1/nodes/"+name, &node); err != nil {
		return err
	}
	for _, s := range node.Status.Conditions {
		if s.Type == "Ready" && s.Status == "True" {
			return nil
		}
		if s.Type == "Ready" {
			return fmt.Errorf("node %s is not ready: %s", name, s.Message)
		}
	}
	return fmt.Errorf("node %s has not reported yet", name)
}

// DeploymentReady returns nil once every replica of the deployment's current version is available.
func (c *Client) DeploymentReady(ctx context.Context, namespace, name string) error {
	var d struct {
		Metadata struct{ Generation int }
		Spec     struct{ Replicas int }
		Status   struct{ ObservedGeneration, UpdatedReplicas, AvailableReplicas int }
	}
	if err := c.Get(ctx, "/apis/apps/v1/namespaces/"+namespace+"/deployments/"+name, &d); err != nil {
		return err
	}
	if d.Status.ObservedGeneration < d.Metadata.Generation || d.Status.UpdatedReplicas < d.Spec.Replicas || d.Status.AvailableReplicas < d.Spec.Replicas {
		return fmt.Errorf("deployment %s/%s: %d of %d replicas are available", namespace, name, d.Status.AvailableReplicas, d.Spec.Replicas)
	}
	return nil
}

// Wait calls check until it returns nil, with a short pause between the calls. When ctx ends first, the error holds the
// last one of check.
func Wait(ctx context.Context, check func(context.Context) error) error {
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
