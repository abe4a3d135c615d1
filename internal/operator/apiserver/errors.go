package apiserver

import (
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// upgradeRequired is the answer to a plain request for a carrier.
func upgradeRequired() *metav1.Status {
	return &metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUpgradeRequired, Reason: metav1.StatusReasonBadRequest,
		Message: "sessions/connect carries a session's bytes: send the request by HTTP/1.1 with the headers Connection: Upgrade and Upgrade: " + UpgradeProtocol,
	}
}
