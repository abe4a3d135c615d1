package show

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mirrord-go/mirrord/api/profiles/v1alpha"
	"github.com/mirrord-go/mirrord/internal/profile"
)

func text(t *testing.T, p *profile.Profile) string {
	t.Helper()
	d, err := describe(p)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := d.print(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestShow(t *testing.T) {
	p := &profile.Profile{
		Ref: profile.Ref{Namespace: "team", Name: "base"},
		Adjustments: []v1alpha.FeatureAdjustment{
			{Change: v1alpha.DNSRemote}, {Change: v1alpha.OutgoingOff}, {Change: v1alpha.DNSOff},
		},
	}
	want := `team/base: a MirrordProfile, for targets of namespace "team"
1  dns-remote    feature.network.dns.enabled = true (until adjustment 3)
                 no feature.network.dns.filter (until adjustment 3)
2  outgoing-off  feature.network.outgoing.tcp = false
                 feature.network.outgoing.udp = false
                 no feature.network.outgoing.filter
                 no feature.network.outgoing.unix_streams
3  dns-off       feature.network.dns.enabled = false
                 no feature.network.dns.filter
`
	if diff := cmp.Diff(want, text(t, p)); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
}

// TestShowNewer holds that a profile of a newer version is shown as far as it is understood.
func TestShowNewer(t *testing.T) {
	p := &profile.Profile{
		Ref:         profile.Ref{Name: "newer"},
		Adjustments: []v1alpha.FeatureAdjustment{{Change: v1alpha.DNSOff}, {Change: "incoming-teleport"}},
	}
	want := "newer: a MirrordClusterProfile, for all targets\n1  dns-off\n2  incoming-teleport\n"
	if diff := cmp.Diff(want, text(t, p)); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
}
