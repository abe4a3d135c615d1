package targetfs

import "golang.org/x/sys/unix"

// FromLinux translates the flags of open(2) of this architecture. What has no meaning here (O_CLOEXEC, O_NONBLOCK, O_NOCTTY, O_NOATIME, O_DIRECT, O_LARGEFILE) is
// left out; ok is false for O_TMPFILE, which the target's side does not do (EOPNOTSUPP).
func FromLinux(flags int) (f OpenFlags, ok bool) {
	if flags&unix.O_TMPFILE == unix.O_TMPFILE {
		return 0, false
	}
	if flags&unix.O_PATH != 0 {
		flags &= unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW
	} else {
		switch flags & unix.O_ACCMODE {
		case unix.O_RDONLY:
			f |= Read
		case unix.O_WRONLY:
			f |= Write
		default:
			f |= Read | Write
		}
	}
	for _, bit := range []struct {
		linux int
		flag  OpenFlags
	}{
		{unix.O_APPEND, Append},
		{unix.O_CREAT, Create},
		{unix.O_EXCL, Exclusive},
		{unix.O_TRUNC, Truncate},
		{unix.O_DIRECTORY, Directory},
		{unix.O_NOFOLLOW, NoFollow},
		{unix.O_DSYNC, DataSync},
		{unix.O_SYNC, Sync},
	} {
		if flags&bit.linux == bit.linux {
			f |= bit.flag
		}
	}
	return f, true
}
