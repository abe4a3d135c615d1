package kube

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reason says what kind of failure an [Error] is, for callers that branch.
type Reason string

// The reasons of an [Error].
const (
	// ReasonKubeconfig: the kubeconfig is missing, malformed or has no such context.
	ReasonKubeconfig Reason = "kubeconfig"
	// ReasonUnreachable: no answer from the API server.
	ReasonUnreachable Reason = "unreachable"
	// ReasonCertificate: the server's certificate is not the kubeconfig's cluster's.
	ReasonCertificate Reason = "certificate"
	// ReasonUnauthorized: the server does not accept the user's credentials.
	ReasonUnauthorized Reason = "unauthorized"
	// ReasonForbidden: the user lacks a right.
	ReasonForbidden Reason = "forbidden"
	// ReasonRefused: the user has the right, and admission (Pod Security, a webhook, a
	// quota) refused the object.
	ReasonRefused Reason = "refused"
	// ReasonNotFound: there is no such object.
	ReasonNotFound Reason = "not found"
	// ReasonNotReady: the workload has no pod that a session can attach to.
	ReasonNotReady Reason = "not ready"
	// ReasonContainer: the pod has no such container, or it does not run.
	ReasonContainer Reason = "container"
	// ReasonUnsupported: this kind of target needs the operator, or can't have an agent.
	ReasonUnsupported Reason = "unsupported"
	// ReasonTimeout: it took longer than it may.
	ReasonTimeout Reason = "timeout"
	// ReasonAgent: the agent's container did not start, or the agent said that it can't serve.
	ReasonAgent Reason = "agent"
	// ReasonOther: the server answered with an error that is none of these.
	ReasonOther Reason = "other"
)

// Error is a failure that a user sees: what was being done, why it failed, and what to do.
type Error struct {
	Reason Reason
	// Doing is what failed, as in "reading deployment/shop".
	Doing string
	// Why is the cause in one line.
	Why string
	// Next is what to do about it, in one or more lines; may be empty.
	Next string
	// Err is the underlying error, if any.
	Err error
}

// Error says in one line what failed and why.
func (e *Error) Error() string { return e.Doing + ": " + e.Why }

// Hint says what to do next.
func (e *Error) Hint() string { return e.Next }

// Unwrap returns the underlying error.
func (e *Error) Unwrap() error { return e.Err }

// reasonOf returns the reason of an error of this package, or "".
func reasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// explain turns what client-go returned into an [*Error]. Rule is what the call needs.
func (c *Cluster) explain(ctx context.Context, err error, doing string, rule Rule) error {
	var ours *Error
	var missing *MissingRulesError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &ours), errors.As(err, &missing):
		return err
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", doing, err)
	}
	e := &Error{Reason: ReasonOther, Doing: doing, Why: bare(err), Err: err}
	switch status := apierrors.APIStatus(nil); {
	case c.foreign(ctx, err):
		e.Reason = ReasonUnreachable
		e.Why = fmt.Sprintf("what answers at %s is no Kubernetes API server%s", c.Server(), itsWords(err))
		e.Next = reachability
	case apierrors.IsUnauthorized(err):
		e.Reason = ReasonUnauthorized
		e.Why = fmt.Sprintf("the cluster at %s does not accept the credentials of user %q", c.Server(), c.user.name)
		e.Next = c.user.advice()
	case apierrors.IsForbidden(err):
		return &MissingRulesError{Doing: doing, Rules: []Rule{rule}, User: c.whoami(ctx), Err: err}
	case apierrors.IsNotFound(err):
		e.Reason = ReasonNotFound
	case errors.Is(err, context.DeadlineExceeded), apierrors.IsTimeout(err), apierrors.IsServerTimeout(err):
		e.Reason = ReasonTimeout
		e.Why = fmt.Sprintf("the cluster at %s took too long to answer", c.Server())
		e.Next = reachability
	case errors.As(err, &status):
		e.Next = "The API server answered this itself; its administrators can tell more."
	default:
		c.explainTransport(e, err)
	}
	return e
}

const reachability = `Does "kubectl get --raw /version" work? If not, the kubeconfig, the VPN or the login has to be repaired first.
--context and --kubeconfig select another cluster.`

// explainTransport is for errors on the way to the server, before it answered.
func (c *Cluster) explainTransport(e *Error, err error) {
	var (
		alert   tls.AlertError
		verify  *tls.CertificateVerificationError
		unknown x509.UnknownAuthorityError
		host    x509.HostnameError
		record  tls.RecordHeaderError
		dns     *net.DNSError
		op      *net.OpError
	)
	switch {
	case errors.As(err, &alert):
		e.Reason = ReasonUnauthorized
		e.Why = fmt.Sprintf("the cluster at %s does not accept the client certificate of user %q: %v", c.Server(), c.user.name, alert)
		e.Next = c.user.advice()
	case errors.As(err, &verify), errors.As(err, &unknown), errors.As(err, &host):
		e.Reason = ReasonCertificate
		e.Why = fmt.Sprintf("the server at %s is not the one that context %q describes: %s", c.Server(), c.context, bare(err))
		e.Next = `The address belongs to another cluster, or the cluster was made anew, or something stands between: get the kubeconfig again.
"accept_invalid_certificates": true turns the check off, and with it the protection of your credentials.`
	case errors.As(err, &record), errors.Is(err, http.ErrSchemeMismatch):
		e.Reason = ReasonUnreachable
		e.Why = fmt.Sprintf("what answers at %s does not speak TLS", c.Server())
		e.Next = reachability
	case errors.As(err, &dns):
		e.Reason = ReasonUnreachable
		e.Why = fmt.Sprintf("the name of the API server, %s, does not resolve: %s", dns.Name, dns.Err)
		e.Next = reachability
	case errors.As(err, &op):
		e.Reason = ReasonUnreachable
		e.Why = fmt.Sprintf("the cluster at %s is unreachable: %s", c.Server(), bare(err))
		e.Next = reachability
	default:
		e.Reason = ReasonUnreachable
		e.Why = fmt.Sprintf("the request to %s failed: %s", c.Server(), bare(err))
		e.Next = reachability
		if c.config.ExecProvider != nil { // its failures come without a type
			e.Next = c.user.advice()
		}
	}
}

// bare is the error's text without the request's URL in front.
func bare(err error) string {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return strings.TrimSpace(err.Error())
}

// foreign says whether an answer came from something else than an API server: it is not in
// the form that one answers in, and nobody there knows the version of a Kubernetes.
func (c *Cluster) foreign(ctx context.Context, err error) bool {
	if !apierrors.IsUnexpectedServerError(err) {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	result := c.core().Get().AbsPath("/version").SetHeader("Accept", "application/json").Do(ctx)
	if err := result.Error(); err != nil {
		return apierrors.IsUnexpectedServerError(err)
	}
	body, _ := result.Raw()
	var version struct {
		GitVersion string `json:"gitVersion"`
	}
	return json.Unmarshal(body, &version) != nil || version.GitVersion == ""
}

// maxWords bounds what is shown of an answer, in bytes.
const maxWords = 120

// itsWords is the beginning of an answer that is text, for a message.
func itsWords(err error) string {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || status.Status().Details == nil {
		return ""
	}
	for _, cause := range status.Status().Details.Causes {
		words, _, _ := strings.Cut(cause.Message, "\n")
		if cause.Type == metav1.CauseTypeUnexpectedServerResponse && words != "unknown" && !strings.HasPrefix(words, "<") {
			return fmt.Sprintf(": it says %q", words[:min(len(words), maxWords)])
		}
	}
	return ""
}
