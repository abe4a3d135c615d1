package target

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	podUID      = "2f5a8c1e-9d3b-4c7a-8e6f-1b2c3d4e5f60"
	containerID = "9b1dc2a6f7e84f0c8c1f6c3c2f8d1a4b5e6f708192a3b4c5d6e7f8091a2b3c4d"
)

func TestMember(t *testing.T) {
	underscored := strings.ReplaceAll(podUID, "-", "_")
	both := membership{pod: true, container: true}
	for name, tt := range map[string]struct {
		cgroup string
		want   membership
	}{
		"v1 cgroupfs":           {"11:pids:/kubepods/burstable/pod" + podUID + "/" + containerID + "\n", both},
		"v1 many lines":         {"3:cpu,cpuacct:/\n2:name=systemd:/kubepods/pod" + podUID + "/" + containerID + "\n0::/\n", both},
		"v1 systemd docker":     {"4:memory:/kubepods.slice/kubepods-pod" + underscored + ".slice/docker-" + containerID + ".scope", both},
		"v2 cgroupfs":           {"0::/kubepods/besteffort/pod" + podUID + "/" + containerID + "\n", both},
		"v2 systemd containerd": {"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + underscored + ".slice/cri-containerd-" + containerID + ".scope\n", both},
		"v2 systemd cri-o":      {"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + underscored + ".slice/crio-" + containerID + ".scope\n", both},
		"containerd with cgroupfs names under systemd": {"0::/system.slice/containerd.service/kubepods-burstable-pod" + underscored + ".slice:cri-containerd:" + containerID + "\n", both},
		"relative to the agent's cgroup namespace":     {"0::/../../kubepods-burstable-pod" + underscored + ".slice/cri-containerd-" + containerID + ".scope\n", both},
		"sibling container in the agent's namespace":   {"0::/../cri-containerd-" + containerID + ".scope\n", membership{container: true}},
		"a cluster in a container":                     {"0::/docker/" + strings.Repeat("ab", 32) + "/kubelet/kubepods/pod" + podUID + "/" + containerID + "\n", both},
		"a container in the container":                 {"0::/kubepods/pod" + podUID + "/" + containerID + "/docker/" + strings.Repeat("cd", 32) + "\n", both},
		"another container of the pod":                 {"0::/kubepods/pod" + podUID + "/" + strings.Repeat("ef", 32) + "\n", membership{pod: true}},
		"another pod":                                  {"0::/kubepods/pod" + strings.Replace(podUID, "2f5", "2f6", 1) + "/" + strings.Repeat("ef", 32) + "\n", membership{}},
		"a longer id":                                  {"0::/kubepods/x/" + containerID + "0\n", membership{}},
		"a longer uid":                                 {"0::/kubepods/pod" + podUID + "0/x\n", membership{}},
		"not a pod":                                    {"0::/kubepods/" + podUID + "/x\n", membership{}},
		"host":                                         {"0::/\n", membership{}},
		"empty":                                        {"", membership{}},
		"no colons":                                    {"pod" + podUID, membership{}},
	} {
		t.Run(name, func(t *testing.T) {
			s := Selector{PodUID: podUID, ContainerID: containerID}
			if diff := cmp.Diff(tt.want, s.member(tt.cgroup), cmp.AllowUnexported(membership{})); diff != "" {
				t.Errorf("member(%q) (-want +got):\n%s", tt.cgroup, diff)
			}
		})
	}
}

func TestNormalize(t *testing.T) {
	for name, tt := range map[string]struct {
		in, want Selector
		wantErr  bool
	}{
		"scheme":         {in: Selector{ContainerID: "containerd://" + containerID}, want: Selector{ContainerID: containerID}},
		"bare":           {in: Selector{PodUID: podUID, ContainerID: containerID}, want: Selector{PodUID: podUID, ContainerID: containerID}},
		"static pod":     {in: Selector{PodUID: "0123456789abcdef0123456789abcdef"}, want: Selector{PodUID: "0123456789abcdef0123456789abcdef"}},
		"nothing":        {wantErr: true},
		"empty id":       {in: Selector{ContainerID: "docker://"}, wantErr: true},
		"short id":       {in: Selector{ContainerID: "docker://abc"}, wantErr: true},
		"path in the id": {in: Selector{ContainerID: "docker://../../" + containerID}, wantErr: true},
		"slash in uid":   {in: Selector{PodUID: "aaaaaaaa/bbbbbbbb"}, wantErr: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := tt.in.normalize()
			if (err != nil) != tt.wantErr || err == nil && got != tt.want {
				t.Errorf("normalize(%+v) = %+v, %v", tt.in, got, err)
			}
		})
	}
}

func FuzzMember(f *testing.F) {
	f.Add("0::/kubepods/pod" + podUID + "/" + containerID + "\n")
	f.Add("1:a,b:/x:y\n::\n")
	f.Add(":::::\x00\n")
	f.Fuzz(func(t *testing.T, cgroup string) {
		m := Selector{PodUID: podUID, ContainerID: containerID}.member(cgroup)
		if m.container && !strings.Contains(cgroup, containerID) {
			t.Errorf("%q matched a container that it does not name", cgroup)
		}
	})
}
