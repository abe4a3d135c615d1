package resolver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"
)

const (
	resolvConf = "/etc/resolv.conf"
	hostsFile  = "/etc/hosts"

	// The files are looked at again when a query comes after this time.
	recheck = time.Second

	maxResolvConf = 64 << 10 // bytes
	maxHosts      = 1 << 20  // bytes
)

// settings are what the target's files say.
type settings struct {
	config
	hosts hosts
	// generation counts the changes of resolv.conf.
	generation int
}

// files reads the target's files again when they have changed.
type files struct {
	log      *slog.Logger
	open     func(name string) (*os.File, error)
	hostname string
	port     uint16 // of the name servers

	mu            sync.Mutex
	checked       time.Time
	current       settings
	known         bool // current was read at least once
	resolv, hosts fs.FileInfo
}

// load returns the present settings. When the files can't be read, those of the last time
// stay in force.
func (f *files) load() (settings, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known && time.Since(f.checked) < recheck {
		return f.current, nil
	}
	f.checked = time.Now()
	err := f.refresh()
	if err != nil && !f.known {
		return settings{}, fmt.Errorf("reading how the target resolves names: %w", err)
	}
	if err != nil {
		f.log.Warn("the target's resolver files can't be read, the last known ones are used", "err", err)
	}
	return f.current, nil
}

func (f *files) refresh() error {
	text, info, changed, err := f.read(resolvConf, f.resolv, maxResolvConf)
	if err != nil {
		return err
	}
	if changed || !f.known {
		f.current.config = parseConfig(text, f.hostname, f.port)
		f.current.generation++
		f.resolv = info
	}
	text, info, changed, err = f.read(hostsFile, f.hosts, maxHosts)
	if err != nil {
		return err
	}
	if changed || !f.known {
		f.current.hosts = parseHosts(text)
		f.hosts = info
	}
	f.known = true
	return nil
}

// read returns a file's text if it is not the one described by last. A file that does not
// exist is empty.
func (f *files) read(name string, last fs.FileInfo, limit int64) (text string, info fs.FileInfo, changed bool, err error) {
	file, err := f.open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, last != nil, nil
	}
	if err != nil {
		return "", nil, false, err
	}
	defer file.Close()
	info, err = file.Stat()
	if err != nil {
		return "", nil, false, err
	}
	if last != nil && os.SameFile(last, info) && last.ModTime().Equal(info.ModTime()) && last.Size() == info.Size() {
		return "", info, false, nil
	}
	b, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return "", nil, false, err
	}
	if int64(len(b)) > limit {
		f.log.Warn("only the beginning of the target's file is used", "file", name, "bytes", limit)
		b = b[:bytes.LastIndexByte(b[:limit], '\n')+1]
	}
	return string(b), info, true, nil
}
