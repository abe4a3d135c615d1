package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// filesPod is a target with a configuration, a secret and a volume to write to. It does not run as root.
const filesPod = `
apiVersion: v1
kind: ConfigMap
metadata: {name: shop}
data: {shop.conf: "from the target\n", other.conf: "other\n"}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  hostname: shop-pod
  securityContext: {runAsUser: 1234, runAsGroup: 1234, fsGroup: 1234}
  volumes: [{name: conf, configMap: {name: shop}}, {name: data, emptyDir: {}}]
  containers:
  - name: web
    image: cluster.local/workload:test
    imagePullPolicy: Never
    args: [serve, -name, pod, -http, ":8080"]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 60}
    volumeMounts: [{name: conf, mountPath: /etc/shop}, {name: data, mountPath: /data/shop}]
`

// sh runs a script with the files that a configuration says, and returns its code and output.
func (s *stage) sh(t *testing.T, fs any, script string) (int, string) {
	t.Helper()
	return s.shThrough(t, object{"target": s.webTarget(), "feature": object{"fs": fs, "network": false, "env": false}}, script)
}

// wants compares what a script said.
func (s *stage) wants(t *testing.T, fs any, script, want string) {
	t.Helper()
	if code, out := s.sh(t, fs, script); out != want {
		t.Errorf("%s\nexit code %d, output\n%s, want\n%s", script, code, out, want)
	}
}

// TestFiles: the modes, the lists and the mapping of feature.fs, by programs of the laptop.
func TestFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
			t.Skip(err)
		} else {
			_ = f.Close()
		}
	}
	s := newStage(t)
	s.deploy(t, filesPod, "pod/web")
	home := t.TempDir()

	t.Run("read", func(t *testing.T) {
		s.wants(t, "read", `cat /etc/shop/shop.conf; ls /etc/shop; test -e /etc/shop/none || echo none; cat /etc/hostname; readlink /etc/shop/shop.conf
stat -c %F /etc/shop; stat -Lc '%s %a' /etc/shop/shop.conf; realpath -m /etc/shop/../shop; test -r /etc/shop/shop.conf && echo readable; test -w /etc/shop/shop.conf || echo not writable
cp /etc/shop/other.conf `+home+`/; cat `+home+`/other.conf; cat /etc/shop/shop.conf/x 2>&1 | sed 's/.*: //'
cd /etc/shop && cat other.conf && env pwd && cd ../../data/shop && env pwd; cd /etc/none 2>/dev/null || echo no directory`,
			"from the target\nother.conf\nshop.conf\nnone\nshop-pod\n..data/shop.conf\ndirectory\n16 644\n/etc/shop\nreadable\nnot writable\nother\nNot a directory\nother\n/etc/shop\n/data/shop\nno directory\n")
	})
	t.Run("python", func(t *testing.T) {
		se := s.start(t, run{
			config: object{"target": s.webTarget(), "feature": object{"fs": "read", "network": false, "env": false}},
			command: []string{"python3", "-c", `import os, mmap
d = os.open('/etc/shop', os.O_RDONLY)
f = os.open('shop.conf', os.O_RDONLY, dir_fd=d)
print(os.pread(f, 4, 5), mmap.mmap(f, 0, prot=mmap.PROT_READ)[:4], sorted(n for n in os.listdir(d) if n[0] != '.'), os.fstat(f) == os.stat('/etc/shop/shop.conf'))
for p in '/etc/shop/none', '/etc/shop/shop.conf/x':
    try: open(p)
    except OSError as e: print(e.errno)
os.chdir('/etc/shop')
print(open('shop.conf').read(), os.getcwd())
`},
		})
		if code := se.wait(); code != 0 || se.out.String() != "b'the ' b'from' ['other.conf', 'shop.conf'] True\n2\n20\nfrom the target\n /etc/shop\n" {
			t.Errorf("exit code %d\n%s", code, se.out.String())
		}
	})
	t.Run("write", func(t *testing.T) {
		s.wants(t, "write", `cd /; set -e; echo one > /data/shop/a; echo two >> /data/shop/a; mv /data/shop/a /data/shop/b; mkdir /data/shop/dir; ln -s ../b /data/shop/dir/link; cat /data/shop/dir/link
cp /data/shop/b /data/shop/dir/copy; rm /data/shop/b; ls /data/shop /data/shop/dir; chmod 600 /data/shop/dir/copy; stat -c '%a %u' /data/shop/dir/copy; truncate -s 2 /data/shop/dir/copy; cat /data/shop/dir/copy; echo
dd if=/dev/zero of=/data/shop/zero bs=64k count=16 conv=fsync 2>/dev/null; stat -c %s /data/shop/zero; rm -r /data/shop/dir /data/shop/zero; ls /data/shop; mkdir /proc/none 2>/dev/null || echo no; touch /etc/shop/x 2>&1 | sed 's/.*: //'`,
			"one\ntwo\n/data/shop:\ndir\n\n/data/shop/dir:\ncopy\nlink\n600 1234\non\n1048576\nno\nRead-only file system\n")
	})
	t.Run("local", func(t *testing.T) {
		s.wants(t, "local", `cat /etc/shop/shop.conf 2>/dev/null || echo none`, "none\n")
	})
	t.Run("localwithoverrides", func(t *testing.T) {
		s.wants(t, object{"mode": "localwithoverrides", "read_only": "^/etc/shop/shop"}, `cat /etc/shop/shop.conf /etc/hostname; cat /etc/shop/other.conf 2>/dev/null || echo none`,
			"from the target\nshop-pod\nnone\n")
	})
	t.Run("lists", func(t *testing.T) {
		own := filepath.Join(home, "own.env")
		if err := os.WriteFile(own, []byte("laptop\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		s.wants(t, object{"mode": "read", "read_write": []string{"^/data/shop/"}, "not_found": `\.ENV$`, "local": "^/etc/hostname$"},
			fmt.Sprintf(`echo x > /data/shop/x; cat /data/shop/x; rm /data/shop/x; cat %s 2>/dev/null || echo none; test "$(cat /etc/hostname)" != shop-pod && echo own; cat /etc/shop/shop.conf`, own),
			"x\nnone\nown\nfrom the target\n")
	})
	t.Run("mapping", func(t *testing.T) {
		s.wants(t, object{"mode": "read", "mapping": object{"^" + home + "/conf/(.*)$": "/etc/shop/$1"}, "read_only": "^/etc/shop"},
			fmt.Sprintf("cat %s/conf/shop.conf", home), "from the target\n")
	})
	t.Run("large", func(t *testing.T) {
		const size = 1 << 30
		h := sha256.New()
		if _, err := io.CopyN(h, zeros{}, size-3); err != nil {
			t.Fatal(err)
		}
		h.Write([]byte("end"))
		s.wants(t, "write", fmt.Sprintf("truncate -s %d /data/shop/large; printf end >> /data/shop/large; tail -c 3 /data/shop/large; echo; sha256sum < /data/shop/large; rm /data/shop/large", size-3),
			fmt.Sprintf("end\n%x  -\n", h.Sum(nil)))
	})
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// Nothing of a session's files is left when it is killed.
func TestFilesLeaveNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("looks at mounts as root")
	}
	s := newStage(t)
	s.deploy(t, filesPod, "pod/web")
	se := s.start(t, run{
		config:  object{"target": s.webTarget(), "feature": object{"fs": "read", "network": false, "env": false}},
		command: []string{"sh", "-c", "exec 3</etc/shop/shop.conf; echo ready; exec sleep 600"},
	})
	eventually(t, func() error {
		if !strings.Contains(se.out.String(), "ready") {
			return fmt.Errorf("output %q", se.out.String())
		}
		return nil
	})
	holders := func() (list []string) {
		all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, name := range all {
			b, _ := os.ReadFile(name)
			status, _ := os.ReadFile(filepath.Join(filepath.Dir(name), "status"))
			if strings.Contains(string(b), "files-holder") && strings.Contains(string(status), fmt.Sprintf("PPid:\t%d\n", se.cmd.Process.Pid)) {
				list = append(list, filepath.Dir(name))
			}
		}
		return list
	}
	before := holders()
	if len(before) != 1 {
		t.Fatalf("holders %v", before)
	}
	if err := se.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if _, err := os.Stat(before[0]); err == nil {
			return fmt.Errorf("%s is left", before[0])
		}
		return nil
	})
}

// shThrough runs a script with a configuration.
func (s *stage) shThrough(t *testing.T, config object, script string) (int, string) {
	t.Helper()
	se := s.start(t, run{config: config, command: []string{"sh", "-c", script}})
	code := se.wait()
	return code, se.out.String()
}
