// Package world builds a cluster in miniature on one Linux machine: a pod, a client and a
// database, each in a network namespace of its own on one bridge, with a name server that
// knows them. The caller's own network namespace is the laptop: it has a loopback interface
// and nothing else, so nothing can leave the machine, and nothing of the cluster can be
// reached from it but through a session.
//
// The caller must have been started in fresh user (unless it is root), mount, network and
// PID namespaces; Sandbox tells how. When it ends, the kernel ends everything in here.
package world

import (
	"errors"
	"net/netip"
)

// ErrNotAllowed says that this machine lets the user make no namespaces.
var ErrNotAllowed = errors.New("this needs root, or user namespaces, and neither is available here")

// Names and addresses of the world. They exist inside its namespaces only.
const (
	// Namespace is the namespace that the names of the cluster are in.
	Namespace = "shop"
	// Domain is the cluster's domain.
	Domain = "cluster.local"
	// PodHostname is the pod's host name.
	PodHostname = "shop-7d4b9"
	// PodPort is where the pod's application listens.
	PodPort = 8080
	// DatabasePort is where the database listens, with TCP and with UDP.
	DatabasePort = 5432
	// LaptopPort is where a service of the laptop listens on loopback.
	LaptopPort = 15432
	// LaptopName is a name that only the laptop's name server knows.
	LaptopName = "printer.office.example"
	// PartnerName is a name outside the cluster's domain that only its name server knows.
	PartnerName = "api.partner.example"
)

// Addresses of the world.
var (
	NodeAddr     = netip.MustParseAddr("10.77.0.1")
	PodAddr      = netip.MustParseAddr("10.77.0.10")
	ClientAddr   = netip.MustParseAddr("10.77.0.20")
	DatabaseAddr = netip.MustParseAddr("10.77.0.30")
	PartnerAddr  = netip.MustParseAddr("10.77.0.40")
	LaptopAddr   = netip.MustParseAddr("127.0.0.9")
)
