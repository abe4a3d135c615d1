package target

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// lacking adds to a refusal the capabilities without which this program is refused what
// belongs to other processes: CAP_SYS_PTRACE for any of them (ptrace(2), access mode
// checking), CAP_DAC_OVERRIDE for those of other users.
func lacking(err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	var have [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if cerr := unix.Capget(&header, &have[0]); cerr != nil {
		return err
	}
	has := func(capability int) bool { return have[capability/32].Effective&(1<<(capability%32)) != 0 }
	var lacks []string
	if !has(unix.CAP_SYS_PTRACE) {
		lacks = append(lacks, "CAP_SYS_PTRACE")
	}
	if !has(unix.CAP_DAC_OVERRIDE) {
		lacks = append(lacks, "CAP_DAC_OVERRIDE")
	}
	if lacks == nil {
		return err
	}
	return fmt.Errorf("%w (the agent has no %s)", err, strings.Join(lacks, " and no "))
}
