package main

import (
	"io/fs"
	"path/filepath"

	"github.com/mirrord-go/mirrord/test/bench/load"
)

const (
	filesImage = "cluster.local/bench-files:bench"
	// targetTree is where the target has its files: no folder that stays local by itself.
	targetTree = "/bench-files"
	// longRun bounds one program.
	longRun = 2 * patience
)

const filesPod = `
apiVersion: v1
kind: Pod
metadata: {name: files, labels: {app: files}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: files, image: ` + filesImage + `, imagePullPolicy: Never, args: [serve]}
`

// The ways in which a program of a session reads its files.
const (
	ownFiles    = "own files"
	targetFiles = "target's files"
)

// files sees how long programs that read many files take: files of the laptop without a session, the same in a session, and files of the
// target. Each round has a new session, as programs are started once in it: nothing is known of the files yet.
func (s *stage) files(ps []fileProgram, rounds int) (costs []*FileCost) {
	dir, out := s.t.TempDir(), s.t.TempDir()
	var there []fileProgram
	for _, p := range ps {
		if tool := p.missing(); tool != "" {
			s.t.Logf("%s: left out, as this machine has no %s", p.name, tool)
			continue
		}
		if err := p.tree(dir); err != nil {
			s.t.Fatalf("%s: %v", p.name, err)
		}
		there = append(there, p)
		costs = append(costs, &FileCost{Name: p.name})
	}
	if len(there) == 0 {
		return nil
	}
	s.loadTree(dir)
	local := s.localClient()
	defer local.p.stop()
	for round := range rounds {
		s.t.Logf("files, round %d of %d", round+1, rounds)
		for i, p := range there {
			costs[i].add("", s.program(local, p, dir, out))
		}
		for _, b := range s.builds {
			se := s.exec(b, map[string]any{
				"target": map[string]any{"path": "pod/files", "namespace": s.ns},
				// The compiler is one of the programs that are measured.
				"skip_build_tools": false,
				"feature":          map[string]any{"fs": "read", "network": map[string]any{"incoming": "off"}},
			}, s.loader, "client")
			se.await("its process started", started)
			client := &loadClient{s.t, se.process}
			for i, p := range there {
				costs[i].add(b.name+ownFiles, s.program(client, p, dir, out))
				costs[i].add(b.name+targetFiles, s.program(client, p, targetTree, out))
			}
			se.stop()
		}
	}
	return costs
}

// program runs a program once and returns how long it took, in seconds.
func (s *stage) program(client *loadClient, p fileProgram, dir, out string) float64 {
	r := client.do(p.name, load.Job{Kind: load.Run, Command: p.command(dir, out), Patience: longRun})
	if p.lines > 0 && r.Count != p.lines {
		s.t.Fatalf("%s, files in %s: it wrote %d lines, want %d", p.name, dir, r.Count, p.lines)
	}
	return r.Seconds
}

// loadTree starts the pod that has all files of dir.
func (s *stage) loadTree(dir string) {
	in := map[string]string{"/loader": s.loader}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		in[targetTree+path[len(dir):]] = path
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.env.LoadImage(s.t, filesImage, []string{"/loader"}, in)
	s.env.Apply(s.t, s.ns, filesPod)
	s.env.WaitReady(s.t, s.ns, "pod/files")
}
