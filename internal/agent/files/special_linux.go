package files

import (
	"path"

	"golang.org/x/sys/unix"
)

// unwritable are the magic numbers of file systems that are the kernel's own, statfs(2): a write there is a command to the kernel of the node.
var unwritable = map[int64]bool{
	unix.PROC_SUPER_MAGIC: true, unix.SYSFS_MAGIC: true, unix.CGROUP_SUPER_MAGIC: true, unix.CGROUP2_SUPER_MAGIC: true,
	unix.DEBUGFS_MAGIC: true, unix.TRACEFS_MAGIC: true, unix.BPF_FS_MAGIC: true, unix.SECURITYFS_MAGIC: true, unix.SELINUX_MAGIC: true,
	unix.SMACK_MAGIC: true, unix.EFIVARFS_MAGIC: true, unix.PSTOREFS_MAGIC: true, unix.BINFMTFS_MAGIC: true, configfsMagic: true,
}

const configfsMagic = 0x62656570

// magicOf returns the file system's number, with the bits that the field has on 32-bit systems too.
func magicOf(fd int) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return 0, err
	}
	return int64(uint32(st.Type)), nil
}

// writable refuses the kernel's own file systems.
func writable(fd int) error {
	magic, err := magicOf(fd)
	if err == nil && unwritable[magic] {
		return unix.EACCES
	}
	return err
}

// special refuses what rules do not have to name: to write to the kernel's own file systems, and to read what has a process's environment, from which policies exclude variables.
func special(p *place, write bool) error {
	if write {
		return writable(p.fd)
	}
	switch path.Base(p.real) {
	case "environ", "mem":
		if magic, err := magicOf(p.fd); err != nil || magic == unix.PROC_SUPER_MAGIC {
			return unix.EACCES
		}
	}
	return nil
}

// openable says with which error opening fails: only regular files and directories are opened.
func openable(p *place) error {
	switch p.kind() {
	case unix.S_IFREG, unix.S_IFDIR:
		return nil
	case unix.S_IFLNK:
		return unix.ELOOP
	case unix.S_IFIFO, unix.S_IFSOCK:
		return unix.ENXIO
	}
	return unix.EACCES
}
